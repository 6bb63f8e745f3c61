//! moodify-core speaks to no network and knows no cloud: nothing of that kind is among its dependencies.

use std::process::Command;

#[test]
fn no_http_no_tls_no_cloud() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "moodify-core", "--edges", "normal,build"])
        .args(["--features", "testing", "--prefix", "none", "--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let listed = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = listed.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    assert!(names.contains(&"tokio"), "the tree was read: {listed}");
    for banned in
        ["hyper", "reqwest", "rustls", "ring", "native_tls", "kube", "tonic", "redis", "openssl", "h2", "socket2"]
    {
        assert!(!names.contains(&banned), "{banned} is among the dependencies of moodify-core");
    }
    assert!(!names.iter().any(|name| name.starts_with("aws_") || name.starts_with("google_cloud")), "{listed}");
}
