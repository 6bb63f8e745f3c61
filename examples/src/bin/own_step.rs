//! A kind of step of your own: with parameters, a typed output, a way to observe it and a way back. It is registered by
//! name, used from the text of a plan, and survives a crash: the process dies after the effect and before the answer,
//! another engine finds in the journal what was going on, looks, and does not do it twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moodify_core::action::{Action, Observed, Registry, StepContext};
use moodify_core::journal::{Command, CommandKind, FileJournal, StepStatus};
use moodify_core::planfile;
use moodify_core::{Backends, Engine, Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Turns a feature flag on or off. The flags are files here; yours are behind an API.
#[derive(Debug)]
struct SetFlag(PathBuf);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Flag {
    flag: String,
    on: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Before {
    was_on: bool,
}

#[async_trait]
impl Action for SetFlag {
    type Params = Flag;
    type Output = Before;

    async fn execute(&self, cx: &StepContext, flag: &Flag) -> Result<Before> {
        let before = cx.last_checkpoint().unwrap_or(Before { was_on: self.is_on(flag) });
        cx.checkpoint(&before).await?; // durable before the effect, so that there is a way back in any case
        self.set(flag, flag.on)?;
        tokio::time::sleep(Duration::from_secs(1)).await; // the answer takes its time
        Ok(before)
    }

    async fn observe(&self, cx: &StepContext, flag: &Flag) -> Result<Observed<Before>> {
        let before = cx.last_checkpoint().filter(|_| self.is_on(flag) == flag.on);
        Ok(before.map_or(Observed::NotDone, Observed::Done))
    }

    async fn undo(&self, cx: &StepContext, flag: &Flag, output: Option<&Before>) -> Result<()> {
        let before = output.cloned().or_else(|| cx.last_checkpoint());
        before.map_or(Ok(()), |before| self.set(flag, before.was_on))
    }
}

impl SetFlag {
    fn is_on(&self, flag: &Flag) -> bool {
        self.0.join(&flag.flag).exists()
    }

    fn set(&self, flag: &Flag, on: bool) -> Result<()> {
        let path = self.0.join(&flag.flag);
        let done = if on { std::fs::write(&path, "on") } else { std::fs::remove_file(&path) };
        println!("  the flag {} is set to {on}", flag.flag);
        done.map_err(|e| Error::new(ErrorKind::Unavailable, "flags", "set the flag", e.to_string()).on(&flag.flag))
    }
}

const PLAN: &str = "
name: checkout
environment: {name: staging, kind: staging, namespace: moodify-staging}
release:
  version: v1.2.3
  services:
    - name: backend
      workload: backend-deployment
      image: registry.example/moodify/backend:v1.2.3
      traffic: {router: replica-ratio, service: backend-service}
phases:
  - name: flags
    steps:
      - {name: checkout-on, action: set-flag, with: {flag: new-checkout, on: true}}
      - {name: look-at-it, action: wait, with: {period: 1h}}
";

/// An engine as a new process would make it.
fn engine(dir: &Path) -> Result<Engine> {
    let registry = Registry::with_builtins().register("set-flag", SetFlag(dir.join("flags")));
    let journal = FileJournal::open(dir.join("journal"))?;
    Ok(Engine::new(Arc::new(journal), Backends::default()).with_registry(registry))
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("moodify-own-step-{}", std::process::id()));
    let flag = dir.join("flags/new-checkout");
    std::fs::create_dir_all(dir.join("flags")).expect("the temporary directory can be written");
    let plan = planfile::read(PLAN, "checkout.yaml")?.0.expand();

    println!("a first engine begins");
    let first = engine(&dir)?;
    let run = first.create(&plan, "ana").await?;
    let stop = CancellationToken::new();
    tokio::select! {
        ending = first.drive(&run, &stop) => println!("it should not have come to its end: {ending:?}"),
        () = exists(&flag) => println!("and dies between effect and answer: its future is dropped"),
    }
    drop(first);

    println!("a second engine takes the run");
    let second = engine(&dir)?;
    let person = async {
        while !matches!(second.state(&run).await?.status("checkout-on"), StepStatus::Finished(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("it looked, found the flag set, and did not set it again; now somebody aborts");
        second.command(&run, &Command::new(CommandKind::Abort, "ben", "the new checkout is ugly")).await
    };
    let (ending, told) = tokio::join!(second.drive(&run, &stop), person);
    told?;
    println!("{:?}; the flag is {}", ending?, if flag.exists() { "still set" } else { "as it was before" });
    // Only of this demonstration.
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}

async fn exists(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
