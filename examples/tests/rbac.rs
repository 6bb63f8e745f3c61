//! `rbac` prints Roles that are enough for a plan, and no more.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::{Command, Output};

use serde_json::{Value, json};

fn rbac(arguments: &[&str]) -> Output {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/plans/minimal.yaml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_moodify"));
    command.env_remove("MOODIFY_CLUSTER").env_remove("MOODIFY_JOURNAL").args(["rbac", plan]).args(arguments);
    command.output().unwrap()
}

fn items(arguments: &[&str]) -> Vec<Value> {
    let output = rbac(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["kind"], "List");
    list["items"].as_array().unwrap().clone()
}

#[test]
fn a_role_a_namespace_and_bindings_if_they_are_asked_for() {
    let alone = items(&[]);
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0]["kind"], "Role");
    let rules = alone[0]["rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| !rule.to_string().contains('*')), "nothing is allowed wholesale: {rules:?}");
    assert!(rules.iter().all(|rule| rule["resources"][0] != "configmaps"), "the journal is in a directory: {rules:?}");

    let all = items(&["--cluster", "runs", "--user", "ann", "--service-account", "ci/runner"]);
    let kinds: Vec<&str> = all.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Role", "Role", "RoleBinding", "RoleBinding"]);
    assert!(all.iter().any(|item| item["metadata"]["namespace"] == "runs"));
    for binding in &all[2..] {
        assert_eq!(binding["roleRef"]["name"], "moodify");
        assert_eq!(binding["subjects"][0]["name"], "ann");
        assert_eq!(binding["subjects"][1], json!({"kind": "ServiceAccount", "namespace": "ci", "name": "runner"}));
    }
}

#[test]
fn a_service_account_that_is_none_is_refused() {
    let output = rbac(&["--service-account", "runner"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is not NAMESPACE/NAME"), "{said}");
}
