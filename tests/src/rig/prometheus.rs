//! A Prometheus of one test, which the test may stop.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::process::{Process, free_port, send};
use super::state::State;
use crate::node::targets::file;
use crate::{http, require};

const PATIENCE: Duration = Duration::from_secs(30);

/// A real Prometheus that scrapes the pods of one namespace every second.
///
/// The labels of a series: `namespace`, `pod`, `service` (the pod's label `moodify.dev/service`, or `app`), `version`
/// (the first word of the image's tag), `image` (whole), `track` (the pod's label `moodify.dev/track`, or `stable`) and
/// `revision` (the pod's label `pod-template-hash`). Prometheus itself takes up to 5 s to notice a new pod.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    address: SocketAddr,
    program: PathBuf,
    dir: TempDir,
    process: Option<Process>,
}

impl Prometheus {
    pub(super) async fn start_for(state: &State, namespace: &str) -> Option<Self> {
        let program = require("prometheus")?;
        let dir = TempDir::new_in(&state.dir).expect("the rig's directory can be written");
        fs::write(dir.path().join("prometheus.yml"), config(state, namespace).to_string()).expect("so can this one");
        let port = free_port().expect("a port is free");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut prometheus = Self { url: format!("http://{address}"), address, program, dir, process: None };
        prometheus.start().await;
        Some(prometheus)
    }

    /// The base URL of its API; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it: connections are refused.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Makes it hang: connections stay open and nothing answers, until [`Prometheus::start`].
    pub fn hang(&self) {
        if let Some(process) = &self.process {
            send(process.pid(), Signal::STOP);
        }
    }

    /// Starts it again, with what it knew, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn start(&mut self) {
        if let Some(process) = &self.process {
            send(process.pid(), Signal::CONT);
            return;
        }
        let path = self.dir.path();
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--config.file={}", path.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path.join("data").display()))
            .arg(format!("--web.listen-address={}", self.address))
            .arg("--log.level=warn");
        let mut process = Process::start("prometheus", &mut command, path).expect("Prometheus can be run");
        let deadline = Instant::now() + PATIENCE;
        while !matches!(http::get(self.address, "/-/ready").await, Ok((200, _))) {
            let alive = process.is_running() && Instant::now() < deadline;
            assert!(alive, "Prometheus does not answer:\n{}", process.last_words());
            sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(process);
    }

    /// The first value of an instant query; nothing when there is no data, or no answer.
    pub async fn query(&self, query: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query={}", http::encode(query));
        let (_, body) = http::get(self.address, &path).await.ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        let value = answer.pointer("/data/result/0/value/1")?.as_str()?.parse::<f64>().ok()?;
        (!value.is_nan()).then_some(value)
    }

    /// Asks until the value is as wanted, and returns it.
    ///
    /// # Panics
    ///
    /// When half a minute was not enough, with the last value.
    pub async fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.query(query).await;
            match value {
                Some(value) if wanted(value) => return value,
                _ => assert!(Instant::now() < deadline, "{query} never came to be as wanted: {value:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn config(state: &State, namespace: &str) -> Value {
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [{
            "job_name": "pods",
            "file_sd_configs": [{"files": [file(&state.targets(), namespace)], "refresh_interval": "5s"}],
        }],
    })
}
