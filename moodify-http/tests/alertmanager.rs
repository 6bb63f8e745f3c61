//! Silences in a real Alertmanager (of the Debian package `prometheus-alertmanager`).

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::Stdio;
use std::time::Duration;

use moodify_core::backend::{IncidentStatus, IncidentUpdate, StatusPage};
use moodify_core::clock::SystemClock;
use moodify_core::testing::conformance::status_page;
use moodify_core::{CallContext, Effect, ErrorKind, IdempotencyKey, RunId};
use moodify_http::{AlertmanagerSilence, HttpClient};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(30);

/// An Alertmanager that stops with this value, whatever becomes of the test.
struct Alertmanager {
    url: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Alertmanager {
    /// `None` without the program, loudly; a panic in CI, where a skipped test must not look like a passed one.
    async fn start() -> Option<Self> {
        let program = "prometheus-alertmanager";
        if !Command::new(program).arg("--version").output().await.is_ok_and(|out| out.status.success()) {
            let message =
                "SKIPPED: there is no `prometheus-alertmanager` on PATH; apt-get install prometheus-alertmanager";
            assert!(std::env::var_os("CI").is_none(), "{message}");
            eprintln!("{message}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (config, log) = (dir.path().join("alertmanager.yml"), dir.path().join("log"));
        std::fs::write(&config, "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n").unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let patience = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let address =
                said.lines().find(|line| line.contains("Listening on")).and_then(|line| line.split("address=").nth(1));
            if let Some(address) = address {
                return Some(Self { url: format!("http://{}", address.trim()), child, _dir: dir });
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended: {said}");
            assert!(Instant::now() < patience, "it does not listen: {said}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn silence(&self) -> AlertmanagerSilence {
        let matchers = ["namespace=shop", "severity=~info|warning"].map(|text| text.parse().unwrap());
        AlertmanagerSilence::new(HttpClient::new().unwrap(), &self.url, matchers.to_vec()).unwrap()
    }

    /// What the API answers to a request made by hand, its head included.
    async fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let host = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let head = format!("{method} /api/v2/{path} HTTP/1.0\r\nhost: {host}\r\ncontent-type: application/json");
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        answer
    }

    /// Whether an alert is silenced.
    async fn silenced(&self, severity: &str) -> bool {
        let alert = json!([{"labels": {"alertname": "Errors", "namespace": "shop", "severity": severity}}]);
        self.ask("POST", "alerts", &alert.to_string()).await;
        let patience = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask("GET", "alerts", "").await;
            let alerts: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            let alert = alerts.as_array().unwrap().iter().find(|alert| alert["labels"]["severity"] == severity);
            // It is processed a moment after it came.
            match alert.map(|alert| (&alert["status"]["state"], &alert["status"]["silencedBy"])) {
                Some((state, by)) if state != "unprocessed" => return by.as_array().is_some_and(|by| !by.is_empty()),
                _ => assert!(Instant::now() < patience, "{alerts}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn cx() -> CallContext {
    CallContext::new(RunId::new("r1").unwrap(), IdempotencyKey::new("r1/status-page"), PATIENCE)
}

fn update(status: IncidentStatus, message: &str) -> IncidentUpdate {
    IncidentUpdate::new(status, message)
}

#[tokio::test]
async fn it_keeps_the_contract_of_every_page() {
    let Some(alertmanager) = Alertmanager::start().await else { return };
    status_page(&alertmanager.silence(), &SystemClock, PATIENCE).await;
}

#[tokio::test]
async fn alerts_are_silent_for_the_time_of_the_deployment() {
    let Some(mut alertmanager) = Alertmanager::start().await else { return };
    let silence = alertmanager.silence().lasting(Duration::from_secs(3600));
    assert!(!alertmanager.silenced("warning").await);
    let opened = silence.open(&cx(), &update(IncidentStatus::Investigating, "deploying")).await.unwrap();
    assert!(alertmanager.silenced("warning").await, "what matches is silenced");
    assert!(!alertmanager.silenced("critical").await, "and nothing else");
    let extended = silence.update(&cx(), &opened.id, &update(IncidentStatus::Monitoring, "at 50 %")).await.unwrap();
    assert_eq!(extended.id, opened.id, "it is extended in place");
    silence.update(&cx(), &opened.id, &update(IncidentStatus::Resolved, "done")).await.unwrap();
    assert!(!alertmanager.silenced("warning").await, "it is over with the deployment");
    silence.update(&cx(), &opened.id, &update(IncidentStatus::Resolved, "done")).await.unwrap();

    // Somebody wants to hear alerts again: that is not undone.
    let again = silence.open(&cx(), &update(IncidentStatus::Investigating, "deploying")).await.unwrap();
    assert_ne!(again.id, opened.id);
    alertmanager.ask("DELETE", &format!("silence/{}", again.id), "").await;
    let error = silence.update(&cx(), &again.id, &update(IncidentStatus::Monitoring, "x")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.message().contains("somebody ended"), "{error}");

    alertmanager.child.kill().await.unwrap();
    let gone = silence.open(&cx(), &update(IncidentStatus::Investigating, "x")).await.unwrap_err();
    assert_eq!((gone.kind(), gone.effect_of()), (ErrorKind::Unavailable, Effect::None), "{gone}");
}

#[tokio::test]
async fn one_that_ran_out_is_made_again() {
    let Some(alertmanager) = Alertmanager::start().await else { return };
    let silence = alertmanager.silence().lasting(Duration::from_secs(2));
    let opened = silence.open(&cx(), &update(IncidentStatus::Investigating, "deploying")).await.unwrap();
    let patience = Instant::now() + PATIENCE;
    while silence.find(&cx()).await.unwrap().is_some() {
        assert!(Instant::now() < patience, "it never runs out");
        sleep(Duration::from_millis(200)).await;
    }
    let again = silence.update(&cx(), &opened.id, &update(IncidentStatus::Monitoring, "longer")).await.unwrap();
    assert_ne!(again.id, opened.id);
    assert_eq!(silence.find(&cx()).await.unwrap(), Some(again));
}
