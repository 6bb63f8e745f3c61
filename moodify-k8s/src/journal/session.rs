//! Sessions of owners: a Lease object each. Whether another one's has run out is seen, not computed: it did if its Lease
//! did not change for as long as it lasts, by our own monotonic time. No clock has to agree with another one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::core::params::Preconditions;
use moodify_core::clock::{Clock, SystemClock};
use moodify_core::{Error, ErrorKind, Result, RunId};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::object::{Known, Meta, PART};
use super::{call, storage};
use crate::Kube;
use crate::client::{LEASE, Object};
use crate::names::MANAGED_BY;
use crate::patch::annotation;

/// The annotation with how long the session lasts after its last sign of life, in milliseconds: a Lease counts in seconds.
const TTL: &str = "moodify.dev/session-ms";
/// When to look again at a session of another process, while it is found out whether it lasts.
const LOOK: Duration = Duration::from_secs(1);

/// A session of this process.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) owner: String,
    /// Of its Lease.
    pub(super) name: String,
    uid: String,
    until: Mutex<Instant>,
    ended: AtomicBool,
    /// Nothing is owned by it any more, so its Lease was deleted.
    closed: AtomicBool,
}

impl Session {
    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lasts(&self) -> bool {
        !self.has_ended() && *self.until() > Instant::now()
    }

    /// Whether another owner ended it. Ended once, ended for good.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// A version of another process's Lease, and since when it is known.
#[derive(Debug, Clone)]
struct Seen {
    version: String,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Sessions {
    kube: Kube,
    namespace: String,
    /// This process's own, by owner. Locked while one begins or is renewed, so that there is one at a time.
    own: tokio::sync::Mutex<HashMap<String, Arc<Session>>>,
    /// Those of others, by name of their Lease.
    seen: Mutex<HashMap<String, Seen>>,
}

/// A session that lasts, as far as is known: it is worth another look after that time, if there is one.
pub(super) struct Lasts(pub(super) Option<Duration>);

impl Sessions {
    pub(super) fn new(kube: Kube, namespace: String) -> Self {
        Self { kube, namespace, own: tokio::sync::Mutex::default(), seen: Mutex::default() }
    }

    fn object(&self, name: &str) -> Object {
        Object::new(LEASE, &self.namespace, name)
    }

    /// The owner's session, which lasts for `ttl` from now at least.
    pub(super) async fn begin(&self, run: &RunId, owner: &str, ttl: Duration) -> Result<Arc<Session>> {
        let mut own = self.own.lock().await;
        if let Some(session) = own.get(owner).filter(|s| !s.has_ended() && !s.closed.load(Ordering::Acquire))
            && (*session.until() >= Instant::now() + ttl || self.extend(session, ttl).await?)
        {
            return Ok(session.clone());
        }
        let object = self.object(&format!("moodify-session-{}", uuid::Uuid::now_v7().simple()));
        let before = Instant::now();
        let body = json!({
            "apiVersion": LEASE.api_version(),
            "kind": LEASE.kind,
            "metadata": {"name": object.name, "labels": {MANAGED_BY: "moodify", PART: "session"},
                "annotations": {TTL: ttl.as_millis().to_string()}},
            "spec": spec(owner, ttl),
        });
        let made: Known =
            self.kube.create(&call(run), &object, &body).await.map_err(|e| storage("begin a session", run, e))?;
        let session = Arc::new(Session {
            owner: owner.to_owned(),
            name: object.name,
            uid: made.metadata.uid,
            until: Mutex::new(before + ttl),
            ended: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        own.insert(owner.to_owned(), session.clone());
        Ok(session)
    }

    /// Lets a session last for `ttl` from now; false if it was ended.
    async fn extend(&self, session: &Session, ttl: Duration) -> Result<bool> {
        let before = Instant::now();
        let patch = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": session.uid}),
            json!({"op": "add", "path": "/spec", "value": spec(&session.owner, ttl)}),
            json!({"op": "add", "path": annotation(TTL),
                "value": ttl.as_millis().to_string()}),
        ];
        let who = RunId::new("session")?;
        match self.kube.patch_metadata::<Known>(&call(&who), &self.object(&session.name), patch).await {
            Ok(_) => {
                *session.until() = before + ttl;
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Conflict) => {
                session.ended.store(true, Ordering::Release);
                Ok(false)
            }
            Err(e) => Err(Error::new(ErrorKind::Storage, "journal", "renew the session", e.message().to_owned())
                .on(session.owner.as_str())
                .with_source(e)),
        }
    }

    pub(super) async fn renew(&self, owner: &str, ttl: Duration) -> Result<()> {
        let own = self.own.lock().await;
        let lost = || {
            let message = "the session ran out, and another engine took over what it owned";
            Error::new(ErrorKind::Fenced, "journal", "renew the session", message).on(owner)
        };
        let session = own.get(owner).ok_or_else(lost)?;
        if session.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if !session.has_ended() && self.extend(session, ttl).await? { Ok(()) } else { Err(lost()) }
    }

    /// Deletes the Lease of a session if `session` was the last use of it.
    pub(super) async fn close(&self, run: &RunId, session: Arc<Session>) {
        // Whoever begins to use it does so under this lock.
        let _own = self.own.lock().await;
        let used = Arc::strong_count(&session) > 2;
        if used || session.has_ended() || session.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(e) = self.kube.delete(&call(run), &self.object(&session.name), session.uid.clone()).await {
            tracing::warn!(owner = session.owner, error = %e, "the Lease of a session that is over could not be deleted");
        }
    }

    /// Whether it is a session of this process that `owner` has, and lasts or may be extended.
    pub(super) async fn is_own(&self, name: &str, owner: &str) -> bool {
        self.own.lock().await.get(owner).is_some_and(|s| s.name == name && !s.has_ended())
    }

    /// Whether a session is there, as far as can be told.
    pub(super) async fn is_there(&self, run: &RunId, name: &str) -> Result<bool> {
        Ok(self.lease(run, name).await?.is_some())
    }

    async fn lease(&self, run: &RunId, name: &str) -> Result<Option<Meta>> {
        let found = self.kube.find::<Known>(&call(run), &self.object(name)).await;
        Ok(found.map_err(|e| storage("look at a session", run, e))?.map(|known| known.metadata))
    }

    /// Ends a session that ran out for certain.
    pub(super) async fn end(&self, run: &RunId, name: &str) -> Result<std::result::Result<(), Lasts>> {
        let own = self.own.lock().await.values().find(|session| session.name == name).cloned();
        if let Some(own) = &own {
            if own.lasts() {
                return Ok(Err(Lasts(None)));
            }
            own.ended.store(true, Ordering::Release);
        }
        loop {
            let Some(lease) = self.lease(run, name).await? else { return Ok(Ok(())) };
            if own.is_none() {
                match self.observe(&lease) {
                    Observed::Lasts => return Ok(Err(Lasts(None))),
                    Observed::Unclear(rest) => return Ok(Err(Lasts(Some(rest.min(LOOK))))),
                    Observed::RanOut => {}
                }
            }
            let this_one =
                Preconditions { uid: Some(lease.uid.clone()), resource_version: Some(lease.resource_version.clone()) };
            match self.kube.delete_if(&call(run), &self.object(name), this_one).await {
                Ok(()) => return Ok(Ok(())),
                // It was renewed in the last moment, or its end was lost on the way: look again.
                Err(e) if e.kind() == ErrorKind::Conflict || e.is_transient() => sleep(LOOK).await,
                Err(e) => return Err(storage("end a session that ran out", run, e)),
            }
        }
    }

    fn observe(&self, lease: &Meta) -> Observed {
        let ttl = lease
            .annotations
            .get(TTL)
            .and_then(|ms| ms.parse().ok())
            .map_or(Duration::from_secs(60), Duration::from_millis);
        let now = Instant::now();
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, seen| *name == lease.name || now - seen.since < Duration::from_secs(3600));
        let fresh = Seen { version: lease.resource_version.clone(), since: now };
        let Some(before) = all.insert(lease.name.clone(), fresh.clone()) else { return Observed::Unclear(ttl) };
        if before.version != fresh.version {
            // It was renewed after that version was seen first, so it lasts from then on at least.
            return if now - before.since < ttl { Observed::Lasts } else { Observed::Unclear(ttl) };
        }
        all.insert(lease.name.clone(), before.clone());
        match (before.since + ttl).checked_duration_since(now).filter(|rest| !rest.is_zero()) {
            Some(rest) => Observed::Unclear(rest),
            None => Observed::RanOut,
        }
    }
}

enum Observed {
    Lasts,
    /// It runs out after so long, if it does not change.
    Unclear(Duration),
    RanOut,
}

/// The times are for people; nothing is computed from them.
fn spec(owner: &str, ttl: Duration) -> Value {
    let now = SystemClock.now();
    json!({
        "holderIdentity": owner,
        "leaseDurationSeconds": ttl.as_secs().max(1).min(i32::MAX as u64),
        "renewTime": format!("{now:.6}"),
    })
}
