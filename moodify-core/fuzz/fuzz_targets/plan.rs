//! A plan file is read, or each of its mistakes has a place. Seeds: `examples/plans`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moodify_core::planfile;

fuzz_target!(|text: &str| {
    if let Err(e) = planfile::read(text, "plan.yaml") {
        let shown = e.to_string();
        let line = shown.strip_prefix("plan.yaml:").and_then(|rest| rest.split(':').next());
        assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "it has a line: {shown}");
    }
});
