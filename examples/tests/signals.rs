//! Interruptions of a real run, in a cluster that only answers what is asked before the first effect: the first signal
//! stops it at the next safe point, the second at once, and it is resumed after both.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::cluster::{answer, kubeconfig, serve};
use common::{Background, Done, moodify, wait_for};
use serde_json::json;

/// A directory with a kubeconfig and a plan that first says so many bytes, then waits for some seconds: long enough for a
/// signal to come in time on a busy machine.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = serve(axum::Router::new().fallback(answer));
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig(cluster, "a-token")).unwrap();
        let plan = json!({
            "name": "patience",
            "environment": {"name": "test", "kind": "development", "namespace": "web"},
            "release": {"version": "v2", "services": [{"name": "web", "workload": "web", "image": "r/web:v2",
                "traffic": {"router": "replica-ratio", "service": "web-service"}}]},
            "phases": [{"name": "all", "steps": [
                {"name": "hello", "action": "notify", "with": {"title": "hello", "body": "x".repeat(bytes)}},
                {"name": "patience", "action": "wait", "with": {"period": "6s"}},
            ]}],
        });
        std::fs::write(dir.path().join("plan.json"), plan.to_string()).unwrap();
        Self { dir }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn start(&self, args: &[&str]) -> Background {
        let mut command = moodify(args);
        let kubeconfig = self.dir.path().join("kubeconfig");
        Background::start(
            command.args(["--output", "plain", "--journal"]).arg(self.journal()).env("KUBECONFIG", kubeconfig),
        )
    }

    /// A run that is at its second step, and its id.
    fn waiting(&self) -> (Background, String) {
        let plan = self.dir.path().join("plan.json");
        let mut child = self.start(&["run", plan.to_str().unwrap()]);
        if child.ends_within(Duration::from_secs(1)).is_some() {
            panic!("it did not begin: {:?}", child.end());
        }
        let report = wait_for(&self.journal(), "waiting", |report| report["at"] == "patience");
        (child, report["run"].as_str().unwrap().to_owned())
    }

    fn resume(&self) -> Done {
        self.start(&["resume"]).end()
    }
}

fn resumes(place: &Place, journal: &Path) {
    wait_for(journal, "interrupted", |report| report["state"] == "interrupted");
    let end = place.resume();
    assert_eq!(end.code, 0, "{}{}", end.out, end.err);
    assert!(end.out.contains("completed"), "{}", end.out);
    assert!(!end.out.contains("message: hello"), "what was done is not done again\n{}", end.out);
}

#[test]
fn the_first_signal_stops_at_a_safe_point_and_the_run_is_resumed() {
    for signal in ["INT", "TERM"] {
        let place = Place::new(10);
        let (child, id) = place.waiting();
        child.signal(signal);
        let end = child.end();
        assert_eq!(end.code, 130, "{}{}", end.out, end.err);
        let how = format!("interrupted; go on with it: moodify resume {id} --journal {}", place.journal().display());
        assert!(end.out.contains(&how), "{}", end.out);
        resumes(&place, &place.journal());
    }
}

#[test]
fn the_second_signal_stops_at_once_and_the_run_is_resumed() {
    for (first, second) in [("INT", "INT"), ("TERM", "INT")] {
        // Nobody reads what it says, and the pipe is full: it cannot end politely.
        let place = Place::new(1_000_000);
        let (mut child, _) = place.waiting();
        child.signal(first);
        assert_eq!(child.ends_within(Duration::from_secs(3)), None, "it ended, though nobody has read its words");
        child.signal(second);
        assert_eq!(child.ends_within(Duration::from_secs(2)), Some(130), "{first} {second}");
        resumes(&place, &place.journal());
    }
}
