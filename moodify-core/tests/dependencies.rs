//! moodify-core speaks to no network and knows no cloud, and each provider stands alone beside it.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::process::Command;

/// What a package brings along, itself too.
fn tree(package: &str, more: &[&str]) -> Vec<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", package, "--edges", "normal,build", "--prefix", "none"])
        .args(more)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let listed = String::from_utf8(tree.stdout).unwrap();
    listed.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

#[test]
fn no_http_no_tls_no_cloud() {
    let names = tree("moodify-core", &["--features", "testing", "--format", "{lib}"]);
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    assert!(has("tokio"), "the tree was read: {names:?}");
    for banned in
        ["hyper", "reqwest", "rustls", "ring", "native_tls", "kube", "tonic", "redis", "openssl", "h2", "socket2"]
    {
        assert!(!has(banned), "{banned} is among the dependencies of moodify-core");
    }
    assert!(!names.iter().any(|name| name.starts_with("aws_") || name.starts_with("google_cloud")), "{names:?}");
}

#[test]
fn a_provider_brings_moodify_core_and_no_other_crate_of_ours() {
    for provider in ["moodify-k8s", "moodify-aws", "moodify-gcp", "moodify-redis", "moodify-http"] {
        let names = tree(provider, &["--all-features", "--format", "{p}"]);
        let names = names.iter().filter_map(|package| package.split(' ').next());
        let ours: BTreeSet<&str> = names.filter(|name| name.starts_with("moodify")).collect();
        assert_eq!(ours, BTreeSet::from(["moodify-core", provider]), "{provider}");
    }
}
