//! Commands to runs: a `ConfigMap` each. One watch sees those of all runs that this process waits for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::params::Preconditions;
use kube::runtime::watcher::{Config, Event};
use moodify_core::journal::Command;
use moodify_core::{CallContext, Error, ErrorKind, IdempotencyKey, Result, RunId};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::object::{self, COMMAND_PART, Known, Meta, PART};
use super::{call, storage};
use crate::Kube;
use crate::client::{CONFIG_MAP, Object};

/// How long one watch may be asked for; it is begun again when it is needed again.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Commands by name of their object, by uid of their run's object.
type Commands = HashMap<String, BTreeMap<String, Command>>;

#[derive(Debug, Clone, Default)]
struct Seen {
    commands: Commands,
    /// The first list has come.
    complete: bool,
    /// The watch ended, since.
    ended: Option<String>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    kube: Kube,
    namespace: String,
    seen: watch::Sender<Seen>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(task) = self.watching.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// The object of a command.
pub(super) fn command_object(namespace: &str, run: &RunId, id: &str) -> Result<Object> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(fits) || id.starts_with('-') || id.ends_with('-') {
        let message = format!("{id:?} is not the id of a command: at most 64 of a-z, 0-9 and inner dashes");
        return Err(Error::new(ErrorKind::Invalid, "journal", "send a command", message).on(run.as_str()));
    }
    Ok(Object::new(CONFIG_MAP, namespace, &format!("moodify-run-{run}-command-{id}")))
}

impl Inbox {
    pub(super) fn new(kube: Kube, namespace: String) -> Self {
        Self { kube, namespace, seen: watch::Sender::new(Seen::default()), watching: Mutex::default() }
    }

    pub(super) async fn send(&self, run: &RunId, of: &Meta, command: &Command) -> Result<()> {
        let object = command_object(&self.namespace, run, &command.id)?;
        let body = object::body(&object, COMMAND_PART, run, Some(of), &json!({"command": json!(command).to_string()}));
        let sent = self.kube.create::<Known>(&call(run), &object, &body).await;
        match sent {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(storage("send a command", run, e)),
            _ => Ok(()),
        }
    }

    /// Removes a command that is on the record. What cannot be removed now goes with its run.
    pub(super) async fn taken(&self, run: &RunId, id: &str) {
        let Ok(object) = command_object(&self.namespace, run, id) else { return };
        if let Err(e) = self.kube.delete_if(&call(run), &object, Preconditions::default()).await {
            tracing::debug!(%run, error = %e, "a command that was taken could not be removed");
        }
    }

    /// Waits for commands to the run with that object whose ids are not known.
    pub(super) async fn commands(&self, run: &RunId, of: &Meta, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        let mut seen = self.seen.subscribe();
        self.watch(run)?;
        let new = |seen: &Seen| {
            let all = seen.commands.get(&of.uid).into_iter().flat_map(BTreeMap::values);
            let mut new: Vec<Command> = all.filter(|command| !known.contains(&command.id)).cloned().collect();
            new.sort_by(|a, b| a.id.cmp(&b.id));
            new
        };
        let some = |seen: &Seen| seen.ended.is_some() || (seen.complete && !new(seen).is_empty());
        let seen = seen.wait_for(some).await.map_err(|_| ended(run, "the journal was closed"))?;
        match &seen.ended {
            Some(why) => Err(ended(run, why)),
            None => Ok(new(&seen)),
        }
    }

    /// Begins to watch, if nobody does.
    fn watch(&self, run: &RunId) -> Result<()> {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        if watching.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.seen.send_replace(Seen::default());
        let cx = CallContext::new(run.clone(), IdempotencyKey::new("inbox"), LONGEST);
        let config = Config::default().labels(&format!("{PART}={COMMAND_PART}"));
        let mut events = self.kube.watch(&cx, CONFIG_MAP, &self.namespace, config).boxed();
        let seen = self.seen.clone();
        *watching = Some(tokio::spawn(async move {
            let mut listed = Commands::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(object)) => put(&mut listed, &object),
                    Ok(Event::InitDone) => {
                        let commands = std::mem::take(&mut listed);
                        seen.send_modify(|seen| *seen = Seen { commands, complete: true, ended: None });
                    }
                    Ok(Event::Apply(object)) => seen.send_modify(|seen| put(&mut seen.commands, &object)),
                    Ok(Event::Delete(object)) => seen.send_modify(|seen| remove(&mut seen.commands, &object)),
                    Err(e) => {
                        seen.send_modify(|seen| seen.ended = Some(e.to_string()));
                        return;
                    }
                }
            }
            seen.send_modify(|seen| seen.ended = Some("its watch ended".to_owned()));
        }));
        Ok(())
    }
}

fn ended(run: &RunId, why: &str) -> Error {
    Error::new(ErrorKind::Storage, "journal", "read the inbox", why.to_owned()).on(run.as_str())
}

fn place(object: &DynamicObject) -> Option<(String, String)> {
    let owners = object.metadata.owner_references.as_ref()?;
    Some((owners.first()?.uid.clone(), object.metadata.name.clone()?))
}

fn put(commands: &mut Commands, object: &DynamicObject) {
    let text = object.data["data"]["command"].as_str();
    let command = text.and_then(|text| serde_json::from_str::<Command>(text).ok());
    match (place(object), command) {
        (Some((of, name)), Some(command)) => drop(commands.entry(of).or_default().insert(name, command)),
        _ => tracing::warn!(object = ?object.metadata.name, "this command cannot be read"),
    }
}

fn remove(commands: &mut Commands, object: &DynamicObject) {
    let Some((of, name)) = place(object) else { return };
    if let Some(left) = commands.get_mut(&of) {
        left.remove(&name);
        if left.is_empty() {
            commands.remove(&of);
        }
    }
}
