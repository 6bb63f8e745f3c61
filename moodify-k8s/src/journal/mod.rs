//! Runs kept in the cluster itself.

mod inbox;
mod object;
mod session;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kube::core::params::{ListParams, Preconditions};
use moodify_core::journal::{Command, Entry, JournalStore, Lease, Record, Tail};
use moodify_core::{CallContext, Error, ErrorKind, IdempotencyKey, Result, RunId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::inbox::Inbox;
pub(crate) use self::object::PART;
use self::object::{
    CHUNK_PART, COMMAND_PART, FULL, Known, LARGEST, Map, Meta, Ownership, RUN_PART, add_line, chunk_object, key, own,
    run_object,
};
use self::session::{Lasts, Session, Sessions};
use crate::Kube;
use crate::client::{CONFIG_MAP, Object};
use crate::names::RUN;

/// How long it is tried to find out what became of a write while the API server is away. The lease may run out
/// meanwhile; then the write is refused, whenever it arrives.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait before the next look; doubles, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Keeps runs in a namespace, so that any process with access to it can take over, show or command them.
///
/// A run is the `ConfigMap` `moodify-run-RUN`: a line a record, with the same chained checksums as a journal in files, and
/// who owns it. A long run has immutable `ConfigMaps` with its older records besides. Each write compares the version of
/// that object, which is the fence: who lost the run cannot write, whenever its request arrives. A session is a Lease
/// object that its owner renews; it has run out when it was seen not to change for as long as it lasts, so no clocks are
/// compared. A command is a `ConfigMap` of its own, seen by one watch for all runs.
///
/// An owner is one place in one process. Whether a process that does not renew its session is gone is known once that
/// was looked at for as long as the session lasts; until then taking its run is refused, with the time after which it is
/// worth trying again. A write whose answer is lost is looked for before it is repeated.
///
/// Needs get, list, watch, create, patch and delete for `configmaps`, and all of these but list and watch for `leases`
/// of `coordination.k8s.io`. Secrets do not belong into plans: whoever may read the namespace's `ConfigMaps` reads them.
///
/// ```no_run
/// # async fn connect() -> moodify_core::Result<()> {
/// use std::sync::Arc;
/// use moodify_core::Engine;
/// use moodify_k8s::{Kube, KubeConfig};
/// let kube = Kube::connect(&KubeConfig::new().context("production")).await?;
/// let engine = Engine::new(Arc::new(kube.journal("deployments")), kube.backends());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KubeJournal {
    inner: Arc<Inner>,
}

struct Inner {
    kube: Kube,
    namespace: String,
    sessions: Sessions,
    inbox: Inbox,
    /// What this process owns.
    held: Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<Held>>>>,
}

/// A run that this process owns.
#[derive(Debug)]
struct Held {
    lease: Lease,
    session: Arc<Session>,
    ownership: Ownership,
    /// Of its object, after our last write.
    version: String,
    tail: Tail,
    /// What its object holds.
    bytes: usize,
}

impl fmt::Debug for KubeJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kube, namespace, .. } = self.inner.as_ref();
        f.debug_struct("KubeJournal").field("kube", kube).field("namespace", namespace).finish_non_exhaustive()
    }
}

/// How a write of the run's object came out.
enum Wrote {
    /// It took place; the object's version after it.
    Done(String),
    /// It did not, and cannot any more: somebody else changed the run.
    Lost(Box<Map>),
}

fn call(run: &RunId) -> CallContext {
    CallContext::new(run.clone(), IdempotencyKey::new(format!("{run}/journal")), PATIENCE)
}

/// A failure of the API server as one of the journal.
fn storage(operation: &'static str, run: &RunId, e: Error) -> Error {
    if e.to_record().backend == "journal" {
        return e;
    }
    let transient = e.is_transient();
    let hint = match e.kind() {
        ErrorKind::Forbidden => {
            "`moodify rbac PLAN --cluster NAMESPACE` prints the Role that is needed; then resume the run"
        }
        ErrorKind::Unauthenticated => "log in again, then resume the run",
        _ => "the run is kept in the cluster: once its API server takes writes again, resume it",
    };
    Error::new(ErrorKind::Storage, "journal", operation, e.message().to_owned())
        .on(run.as_str())
        .hint(hint)
        .transient(transient)
        .with_source(e)
}

fn no_such_run(run: &RunId, operation: &'static str) -> Error {
    Error::new(ErrorKind::NotFound, "journal", operation, "there is no such run in this namespace").on(run.as_str())
}

fn fenced(run: &RunId, ownership: &Ownership) -> Error {
    let message = match &ownership.session {
        Some(_) => format!("another engine owns the run now: {}", ownership.owner),
        None => "the run was given up, or removed".to_owned(),
    };
    Error::new(ErrorKind::Fenced, "journal", "write", message).on(run.as_str())
}

impl KubeJournal {
    pub(crate) fn new(kube: Kube, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        let sessions = Sessions::new(kube.clone(), namespace.clone());
        let inbox = Inbox::new(kube.clone(), namespace.clone());
        Self { inner: Arc::new(Inner { kube, namespace, sessions, inbox, held: Mutex::default() }) }
    }

    /// The namespace in which the runs are.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, HashMap<RunId, Arc<tokio::sync::Mutex<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, run: &RunId) -> Object {
        run_object(&self.namespace, run)
    }

    /// Reads the run's object; what hinders it is waited out for a while.
    async fn find(&self, run: &RunId, operation: &'static str) -> Result<Option<Map>> {
        let (cx, mut wait) = (call(run), FIRST_WAIT);
        loop {
            match self.kube.find(&cx, &self.object(run)).await {
                Err(e) if e.is_transient() && Instant::now() + wait < cx.deadline() => {
                    sleep(e.retry_after_of().unwrap_or(wait)).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                other => return other.map_err(|e| storage(operation, run, e)),
            }
        }
    }

    async fn get(&self, run: &RunId, operation: &'static str) -> Result<Map> {
        self.find(run, operation).await?.ok_or_else(|| no_such_run(run, operation))
    }

    /// All records, and where they end.
    async fn read(&self, run: &RunId, map: &Map) -> Result<(Vec<Entry>, Tail)> {
        const OPERATION: &str = "read the records";
        let mut chunks = Vec::new();
        if map.has_chunks() {
            let labels = ListParams::default().labels(&format!("{PART}={CHUNK_PART},{RUN}={run}"));
            let all: Vec<Map> = self
                .kube
                .list(&call(run), CONFIG_MAP, &self.namespace, &labels)
                .await
                .map_err(|e| storage(OPERATION, run, e))?;
            chunks.extend(all.into_iter().filter(|chunk| chunk.metadata.is_of(&map.metadata.uid)));
        }
        Tail::read(&map.text(&chunks)).map_err(|e| e.on(run.as_str()))
    }

    /// Changes the run's object if it is still the version `from`, until it is known whether that took place. `done`
    /// says whether the object shows it, `open` whether it still can take place.
    async fn write(
        &self,
        run: &RunId,
        from: &str,
        operations: &[Value],
        done: impl Fn(&Map) -> bool,
        open: impl Fn(&Map) -> bool,
    ) -> Result<Wrote> {
        const OPERATION: &str = "write to the run";
        let (end, mut wait, mut from) = (Instant::now() + PATIENCE, FIRST_WAIT, from.to_owned());
        loop {
            let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": from});
            let patch = std::iter::once(test).chain(operations.iter().cloned()).collect();
            let failed = match self.kube.patch_metadata::<Known>(&call(run), &self.object(run), patch).await {
                Ok(known) => return Ok(Wrote::Done(known.metadata.resource_version)),
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(no_such_run(run, OPERATION)),
                Err(e) => e,
            };
            let conflict = failed.kind() == ErrorKind::Conflict;
            if !conflict && !failed.is_transient() && failed.effect_of() != moodify_core::Effect::Unknown {
                return Err(storage(OPERATION, run, failed));
            }
            let map = self.get(run, OPERATION).await?;
            if done(&map) {
                return Ok(Wrote::Done(map.metadata.resource_version));
            }
            if !open(&map) {
                return Ok(Wrote::Lost(Box::new(map)));
            }
            // Whatever else changed in the object is not ours to mind; and a request that is still on its way finds
            // another version once this one was taken.
            from.clone_from(&map.metadata.resource_version);
            if Instant::now() + wait >= end {
                return Err(storage(OPERATION, run, failed));
            }
            if !conflict {
                sleep(failed.retry_after_of().unwrap_or(wait)).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    /// Makes sure that nobody but `owner` of this process has a run; ends a session that ran out.
    async fn claim(&self, run: &RunId, ownership: &Ownership, owner: Option<&str>) -> Result<()> {
        let Some(session) = &ownership.session else { return Ok(()) };
        if let Some(owner) = owner
            && ownership.owner == owner
            && self.sessions.is_own(session, owner).await
        {
            return Ok(());
        }
        self.sessions.end(run, session).await?.map_err(|Lasts(again)| {
            let alive = if again.is_some() { "may be alive" } else { "is alive" };
            let message = format!("it is owned by {}, which {alive}", ownership.owner);
            let refused = Error::new(ErrorKind::Refused, "journal", "take the run", message)
                .on(run.as_str())
                .hint("wait for it, stop it, or give it commands: pause, continue, abort");
            match again {
                Some(again) => refused.retry_after(again),
                None => refused,
            }
        })
    }

    /// Moves the records of the run's object into a chunk, all but the last.
    async fn seal(&self, run: &RunId, held: &mut Held) -> Result<()> {
        const OPERATION: &str = "make room for records";
        let map = self.get(run, OPERATION).await?;
        let last = map.last().cloned();
        let old: Vec<(&String, &String)> = map.lines().filter(|(key, _)| Some(*key) != last.as_ref()).collect();
        let Some((first, _)) = old.first() else { return Ok(()) };
        let object = chunk_object(&self.namespace, run, first);
        let data: serde_json::Map<String, Value> =
            old.iter().map(|(key, line)| ((*key).clone(), json!(line))).collect();
        let body = object::body(&object, CHUNK_PART, run, Some(&map.metadata), &Value::Object(data));
        let made: Result<Option<Map>> = match self.kube.create(&call(run), &object, &body).await {
            // One that was left by a write that went no further holds the same records: they are chained.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => self.kube.find(&call(run), &object).await,
            made => made.map(Some),
        };
        let found = made.map_err(|e| storage(OPERATION, run, e))?;
        let kept = found.filter(|chunk| chunk.metadata.is_of(&map.metadata.uid));
        let moved: Vec<&String> = old
            .iter()
            .filter(|(key, line)| kept.as_ref().is_some_and(|chunk| chunk.data.get(*key) == Some(*line)))
            .map(|(key, _)| *key)
            .collect();
        let operations: Vec<Value> =
            moved.iter().map(|key| json!({"op": "remove", "path": format!("/data/{key}")})).collect();
        let gone = |map: &Map| moved.iter().all(|key| !map.data.contains_key(*key));
        let (ours, end) = (held.ownership.clone(), key(held.tail.seq()));
        let mine = |map: &Map| map.ownership().is_ok_and(|o| o == ours) && map.data.contains_key(&end);
        match self.write(run, &held.version, &operations, |map| mine(map) && gone(map), mine).await? {
            Wrote::Done(version) => {
                held.version = version;
                let freed: usize = moved.iter().map(|key| key.len() + map.data[*key].len()).sum();
                held.bytes = map.bytes() - freed;
                Ok(())
            }
            Wrote::Lost(map) => Err(fenced(run, &map.ownership()?)),
        }
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        let found = self.held().get(run).cloned();
        let Some(held) = found else {
            let map = self.get(run, "write").await?;
            return Err(fenced(run, &map.ownership()?));
        };
        let mut held = held.lock().await;
        if held.lease != *lease || held.session.has_ended() {
            return Err(fenced(run, &held.ownership));
        }
        if held.tail.seq() != expected {
            let message = format!("it ends with record {}, not with record {expected}", held.tail.seq());
            return Err(Error::new(ErrorKind::Fenced, "journal", "write", message).on(run.as_str()));
        }
        let mut tail = held.tail.clone();
        let mut lines = Vec::with_capacity(entries.len());
        for entry in entries {
            let line = tail.line(entry)?;
            if line.len() > LARGEST {
                return Err(object::too_large(entry.seq, line.len()).on(run.as_str()));
            }
            lines.push((entry.seq, line));
        }
        let more: usize = lines.iter().map(|(seq, line)| key(*seq).len() + line.len()).sum();
        if held.bytes + more > FULL {
            self.seal(run, &mut held).await?;
        }
        let operations: Vec<Value> = lines.iter().map(|(seq, line)| add_line(*seq, line)).collect();
        let done = |map: &Map| lines.iter().all(|(seq, line)| map.data.get(&key(*seq)) == Some(line));
        let ours = held.ownership.clone();
        let end = key(expected);
        let open = |map: &Map| map.ownership().is_ok_and(|o| o == ours) && map.last() == Some(&end);
        match self.write(run, &held.version, &operations, done, open).await? {
            Wrote::Done(version) => {
                held.version = version;
                held.tail = tail;
                held.bytes += more;
            }
            Wrote::Lost(map) => return Err(fenced(run, &map.ownership()?)),
        }
        drop(held);
        for entry in entries {
            if let Record::Commanded { command, .. } = &entry.record {
                self.inbox.taken(run, &command.id).await;
            }
        }
        Ok(())
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        loop {
            let map = self.get(run, "take the run").await?;
            let before = map.ownership()?;
            self.claim(run, &before, Some(owner)).await?;
            let (entries, tail) = self.read(run, &map).await?;
            tail.writable()?;
            let session = self.sessions.begin(run, owner, ttl).await?;
            let last = entries.last().map_or(0, |entry| entry.token);
            let lease = Lease { owner: owner.to_owned(), token: before.token.max(last) + 1 };
            let ownership =
                Ownership { owner: owner.to_owned(), token: lease.token, session: Some(session.name.clone()) };
            let end = key(tail.seq());
            let done = |map: &Map| map.ownership().is_ok_and(|o| o == ownership);
            let open = |map: &Map| map.ownership().is_ok_and(|o| o == before) && map.last() == Some(&end);
            match self.write(run, &map.metadata.resource_version, &[own(&ownership)], done, open).await {
                Ok(Wrote::Done(version)) => {
                    let bytes = map.bytes();
                    let held = Held { lease: lease.clone(), session, ownership, version, tail, bytes };
                    self.held().insert(run.clone(), Arc::new(tokio::sync::Mutex::new(held)));
                    return Ok(lease);
                }
                // Somebody was faster, or the owner before wrote in the last moment.
                Ok(Wrote::Lost(_)) => {}
                Err(e) => {
                    self.sessions.close(run, session).await;
                    return Err(e);
                }
            }
        }
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        let found = self.held().get(run).cloned();
        let Some(kept) = found else { return Ok(()) };
        let held = kept.lock().await;
        if held.lease != *lease {
            return Ok(());
        }
        let ours = held.ownership.clone();
        let free = Ownership { session: None, ..ours.clone() };
        let is = |map: &Map, wanted: &Ownership| map.ownership().is_ok_and(|o| o == *wanted);
        let written = self.write(run, &held.version, &[own(&free)], |m| is(m, &free), |m| is(m, &ours)).await;
        if let Err(e) = written
            && e.kind() != ErrorKind::NotFound
        {
            return Err(e);
        }
        let session = held.session.clone();
        drop(held);
        self.held().remove(run);
        drop(kept);
        self.sessions.close(run, session).await;
        Ok(())
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        const OPERATION: &str = "remove the run";
        let map = self.get(run, OPERATION).await?;
        self.claim(run, &map.ownership()?, None).await?;
        let Meta { uid, resource_version, .. } = map.metadata;
        let this_one = Preconditions { uid: Some(uid.clone()), resource_version: Some(resource_version) };
        match self.kube.delete_if(&call(run), &self.object(run), this_one).await {
            Err(e) if e.kind() == ErrorKind::Conflict => {
                let message = "it was written to in this moment";
                return Err(Error::new(ErrorKind::Refused, "journal", OPERATION, message).on(run.as_str()));
            }
            other => other.map_err(|e| storage(OPERATION, run, e))?,
        }
        self.held().remove(run);
        // The cluster removes what belonged to it, but not at once.
        let labels = ListParams::default().labels(&format!("{PART} in ({CHUNK_PART},{COMMAND_PART}),{RUN}={run}"));
        let left: Vec<Known> = self
            .kube
            .list_metadata(&call(run), CONFIG_MAP, &self.namespace, &labels)
            .await
            .map_err(|e| storage(OPERATION, run, e))?;
        for part in left.into_iter().filter(|part| part.metadata.is_of(&uid)) {
            let object = Object::new(CONFIG_MAP, &self.namespace, &part.metadata.name);
            let removed = self.kube.delete(&call(run), &object, part.metadata.uid).await;
            removed.map_err(|e| storage(OPERATION, run, e))?;
        }
        Ok(())
    }

    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        const OPERATION: &str = "create the run";
        let (object, data) = (self.object(run), object::first(first).map_err(|e| e.on(run.as_str()))?);
        let body = object::body(&object, RUN_PART, run, None, &data);
        let failed = match self.kube.create::<Known>(&call(run), &object, &body).await {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::new(e.kind(), "journal", OPERATION, "it exists").on(run.as_str()));
            }
            Err(e) => e,
        };
        // It may have been made after all.
        if failed.effect_of() == moodify_core::Effect::Unknown
            && let Some(map) = self.find(run, OPERATION).await?
            && json!(map.data) == data
        {
            return Ok(());
        }
        Err(storage(OPERATION, run, failed))
    }
}

#[async_trait]
impl JournalStore for KubeJournal {
    async fn create(&self, run: &RunId, first: &Entry) -> Result<()> {
        self.inner.create(run, first).await
    }

    async fn append(&self, run: &RunId, lease: &Lease, expected: u64, entries: &[Entry]) -> Result<()> {
        self.inner.append(run, lease, expected, entries).await
    }

    async fn load(&self, run: &RunId) -> Result<Vec<Entry>> {
        let map = self.inner.get(run, "read the records").await?;
        Ok(self.inner.read(run, &map).await?.0)
    }

    async fn list(&self) -> Result<Vec<RunId>> {
        let anyone = RunId::new("all")?;
        let labels = ListParams::default().labels(&format!("{PART}={RUN_PART}"));
        let all: Vec<Known> = self
            .inner
            .kube
            .list_metadata(&call(&anyone), CONFIG_MAP, &self.inner.namespace, &labels)
            .await
            .map_err(|e| storage("list the runs", &anyone, e))?;
        let mut runs: Vec<RunId> =
            all.iter().filter_map(|map| RunId::new(map.metadata.labels.get(RUN)?).ok()).collect();
        runs.sort();
        Ok(runs)
    }

    async fn remove(&self, run: &RunId) -> Result<()> {
        self.inner.remove(run).await
    }

    async fn acquire(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Lease> {
        self.inner.acquire(run, owner, ttl).await
    }

    async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        self.inner.sessions.renew(owner, ttl).await
    }

    async fn give_up(&self, run: &RunId, lease: &Lease) -> Result<()> {
        self.inner.give_up(run, lease).await
    }

    async fn holder(&self, run: &RunId) -> Result<Option<String>> {
        let ownership = self.inner.get(run, "find the owner").await?.ownership()?;
        let Some(session) = &ownership.session else { return Ok(None) };
        let there = self.inner.sessions.is_there(run, session).await?;
        Ok(there.then_some(ownership.owner))
    }

    async fn send(&self, run: &RunId, command: &Command) -> Result<()> {
        let map = self.inner.get(run, "send a command").await?;
        self.inner.inbox.send(run, &map.metadata, command).await
    }

    async fn commands(&self, run: &RunId, known: &BTreeSet<String>) -> Result<Vec<Command>> {
        let map = self.inner.get(run, "read the inbox").await?;
        self.inner.inbox.commands(run, &map.metadata, known).await
    }
}
