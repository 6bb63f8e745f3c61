//! `cache`: what a person does with one cache beside any run.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use moodify_core::CallContext;
use moodify_core::backend::{Backends, CacheInfo, CacheServer, CacheSnapshot, DeleteKeys, FlushRequest};
use serde::Serialize;
use tokio::sync::watch;

use crate::args::{CacheCommand, Global, Named, Output};
use crate::backends::Settings;
use crate::exit::{Exit, Stop};
use crate::runtime;
use crate::show::say;

pub(crate) fn cache(command: &CacheCommand, global: &Global) -> Result<Exit, Stop> {
    let tell = Tell { json: global.output == Some(Output::Json) };
    runtime()?.block_on(async {
        match command {
            CacheCommand::Info(named) => {
                let (backends, cx) = open(named, "look at the cache")?;
                let info = backends.cache(&named.name)?.admin()?.info(&cx).await?;
                tell.tell(&info, || lines(&info));
            }
            CacheCommand::Flush { cache: named, confirm, production, at_most, dry_run } => {
                let (backends, cx) = open(named, "flush the cache")?;
                let mut request = match (dry_run, confirm) {
                    (false, Some(confirm)) => FlushRequest::confirmed(confirm),
                    _ => FlushRequest::dry_run(),
                };
                request.in_production = *production;
                request.at_most = *at_most;
                let keys = backends.cache(&named.name)?.admin()?.flush(&cx, &request).await?;
                let done = if *dry_run { "would be deleted" } else { "deleted" };
                tell.tell(&serde_json::json!({"dry-run": dry_run, "keys": keys}), || {
                    vec![format!("{keys} keys {done}")]
                });
            }
            CacheCommand::Delete { cache: named, pattern, keys_per_second, dry_run } => {
                let (backends, cx) = open(named, "delete keys")?;
                let mut request = DeleteKeys::matching(pattern.clone());
                request.keys_per_second = *keys_per_second;
                request.dry_run = *dry_run;
                let admin = backends.cache(&named.name)?.admin()?;
                let keys = admin.delete_matching(&cx, &request, &watch::Sender::new(0)).await?;
                tell.tell(&keys, || match dry_run {
                    true => vec![format!("{} keys match {pattern}", keys.found)],
                    false => vec![format!("{} keys deleted that match {pattern}", keys.deleted)],
                });
            }
            CacheCommand::Snapshot(named) => {
                let (backends, cx) = open(named, "snapshot the cache")?;
                let made = backends.cache(&named.name)?.admin()?.snapshot(&cx).await?;
                tell.tell(&made, || made.iter().map(snapshot).collect());
            }
        }
        Ok(Exit::Completed)
    })
}

/// The stores and caches of the settings, and a context for one thing to do with them.
pub(crate) fn open(named: &Named, what: &str) -> Result<(Backends, CallContext), Stop> {
    let backends = Settings::stores_of(named.settings.as_deref())?;
    Ok((backends, CallContext::by_hand(what, named.timeout)))
}

/// How results are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tell {
    pub(crate) json: bool,
}

impl Tell {
    /// How far it is, beside the result: once for each state, and not to a program.
    pub(crate) fn progress(self, last: &Mutex<String>, line: String) {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.json && *last != line {
            let _ = writeln!(std::io::stderr(), "{line}");
            *last = line;
        }
    }

    pub(crate) fn tell(self, value: &impl Serialize, lines: impl FnOnce() -> Vec<String>) {
        match self.json {
            true => say(&format!("{:#}", serde_json::json!(value))),
            false => lines().iter().for_each(|line| say(line)),
        }
    }
}

fn snapshot(made: &CacheSnapshot) -> String {
    let file = made.file.as_ref().map(|file| format!(", in {file}")).unwrap_or_default();
    let (node, keys, completed, took) = (&made.node, made.keys, made.completed, made.took);
    format!("{node}: {keys} keys, complete at {completed}, took {took}{file}; {}", made.dump)
}

fn lines(info: &CacheInfo) -> Vec<String> {
    let line = |node: &CacheServer| {
        let limit = node.max_memory.map(|limit| format!(" of {limit}")).unwrap_or_default();
        let role = serde_json::json!(node.role);
        format!(
            "  {} ({}): {} keys, {}{limit} bytes, {} hits and {} misses, {} clients, {} replicas",
            node.address,
            role.as_str().unwrap_or_default(),
            node.keys,
            node.used_memory,
            node.hits,
            node.misses,
            node.clients,
            node.replicas
        )
    };
    let rate = info.hit_rate().map(|rate| format!(", hit rate {rate:.3}")).unwrap_or_default();
    let first = format!("{}: {} keys in {} bytes{rate}", info.engine, info.keys(), info.used_memory());
    std::iter::once(first).chain(info.nodes.iter().map(line)).collect()
}
