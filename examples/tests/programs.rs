//! The small programs do what they say.

#![allow(clippy::unwrap_used, reason = "these are tests too, though not functions marked as such")]

use std::process::Command;

fn output_of(program: &str) -> String {
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn embed_goes_back_by_itself() {
    let out = output_of(env!("CARGO_BIN_EXE_embed"));
    assert!(out.contains("rollout-bake-10 is done"), "{out}");
    assert!(out.contains("rolled back: the old version serves again; rollout-bake-50"), "{out}");
}

#[test]
fn own_step_survives_a_crash_and_is_taken_back() {
    let out = output_of(env!("CARGO_BIN_EXE_own_step"));
    assert_eq!(out.matches("is set to true").count(), 1, "{out}");
    assert_eq!(out.matches("is set to false").count(), 1, "{out}");
    assert!(out.contains("RolledBack") && out.contains("as it was before"), "{out}");
}

#[test]
fn a_step_of_your_own_is_written_in_less_than_40_lines() {
    let text = include_str!("../src/bin/own_step.rs");
    let begin = text.find("#[async_trait]").unwrap();
    let end = begin + text[begin..].find("\n}\n").unwrap();
    let types = text[..begin].rfind("/// Turns a feature flag").unwrap();
    assert!(text[types..end].lines().count() < 40, "{}", text[types..end].lines().count());
}
