//! Runs the real binary.

#![allow(dead_code, reason = "not every test needs all of it")]
#![allow(clippy::unwrap_used, reason = "these are tests too, though not functions marked as such")]

pub(crate) mod cluster;
pub(crate) mod peers;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The plan of the runbook's release.
pub(crate) fn release() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/moodify-release.yaml")
}

/// The binary, with nothing of our environment that it listens to.
pub(crate) fn moodify(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moodify"));
    command.args(args).stdin(Stdio::null());
    for variable in std::env::vars_os().map(|(name, _)| name) {
        if variable.to_string_lossy().starts_with("MOODIFY_") || variable == "RUST_LOG" {
            command.env_remove(variable);
        }
    }
    command.env("USER", "ana").env("KUBECONFIG", "/nowhere/kubeconfig");
    command
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Done {
    /// Every line of stdout as JSON.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

pub(crate) fn run(args: &[&str]) -> Done {
    moodify(args).output().unwrap().into()
}

/// A simulated run of the release in a scenario.
pub(crate) fn simulate(scenario: &str, more: &[&str]) -> Done {
    let plan = release();
    let mut args = vec!["run", plan.to_str().unwrap(), "--simulate", "--scenario", scenario];
    args.extend(more);
    run(&args)
}

/// A run that goes on in the background, and ends with this value.
#[derive(Debug)]
pub(crate) struct Background(Option<Child>);

impl Background {
    /// A simulated run that takes about half a minute, kept in `journal`.
    pub(crate) fn slow(journal: &Path) -> Self {
        let plan = release();
        let args = ["run", plan.to_str().unwrap(), "--simulate", "--speed", "100", "--output", "json", "--journal"];
        Self::start(moodify(&args).arg(journal))
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// Whether it ends within this time, without anybody reading what it says.
    pub(crate) fn ends_within(&mut self, time: Duration) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.as_mut().unwrap().try_wait().unwrap() {
                return status.code();
            }
            if begun.elapsed() > time {
                return None;
            }
            #[expect(clippy::disallowed_methods, reason = "another process needs real time")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Done {
        self.0.take().unwrap().wait_with_output().unwrap().into()
    }

    pub(crate) fn kill(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks `status` until it says what is wanted.
pub(crate) fn wait_for(journal: &Path, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let done = run(&["status", "--output", "json", "--journal", journal.to_str().unwrap()]);
        let all: Value = serde_json::from_str(&done.out).unwrap_or_default();
        if let Some(found) = all.as_array().and_then(|runs| runs.iter().find(|run| wanted(run))) {
            return found.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never {what}: {all:#}");
        #[expect(clippy::disallowed_methods, reason = "another process needs real time")]
        std::thread::sleep(Duration::from_millis(50));
    }
}
