//! What a test does when a component that it needs is not there: fail where everything must be there, else say so.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The path of the command `name`, or nothing when this machine lacks it; then the test returns.
///
/// # Panics
///
/// With `CI=true`, when the command is missing.
pub fn require(name: &str) -> Option<PathBuf> {
    find(name).or_else(|| {
        missing(&format!("the command {name} is not installed"));
        None
    })
}

/// Says aloud that a test is left out, and why.
///
/// # Panics
///
/// With `CI=true`: a test that is left out there would look like one that passes.
pub fn missing(what: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {what}; `tests/run` installs what the tests need");
    // Not `eprintln!`, which the test harness would swallow. Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {what}; `tests/run` installs what the tests need");
}

/// The path of a program of this workspace, as `moodify`.
///
/// # Panics
///
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    // target/debug/deps/TEST stands beside target/debug/PROGRAM.
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.ancestors().nth(2).expect("tests are built in a target directory").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// Looks for a command on the `PATH`, as a shell does, and where the commands of administrators are.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&paths).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
