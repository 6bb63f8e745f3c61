use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::journal::{JournalStore, Lease};
use crate::model::RunId;
use crate::mutation::{self, Mutation};

/// The sessions of one engine: one while it drives runs, and a new one after one was lost.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Weak<Session>>);

/// What every run of an engine has in common: its owner's name, and until when it certainly owns what it owns. Renewed
/// by one task for all runs.
#[derive(Debug)]
pub(crate) struct Session {
    store: Arc<dyn JournalStore>,
    owner: String,
    ttl: Duration,
    /// In time that no clock change moves.
    until: Mutex<Instant>,
    lost: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Sessions {
    /// The session of runs that begin now.
    pub(crate) fn current(&self, store: &Arc<dyn JournalStore>, owner: &str, ttl: Duration) -> Arc<Session> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = current.upgrade().filter(|session| session.holds()) {
            return session;
        }
        let session = Arc::new(Session {
            store: store.clone(),
            owner: owner.to_owned(),
            ttl,
            until: Mutex::new(Instant::now() + ttl),
            lost: CancellationToken::new(),
            keeper: Mutex::new(None),
        });
        let keeper = tokio::spawn(keep(Arc::downgrade(&session), ttl));
        *session.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper);
        *current = Arc::downgrade(&session);
        session
    }
}

/// Renews a session until it is dropped or lost.
async fn keep(session: Weak<Session>, ttl: Duration) {
    loop {
        sleep(ttl / 3).await;
        let Some(session) = session.upgrade() else { return };
        let (before, until) = (Instant::now(), session.until());
        tokio::select! {
            biased;
            renewed = session.store.renew(&session.owner, ttl), if before < until => match renewed {
                Ok(()) => session.extend(before + ttl),
                Err(e) if e.kind() == ErrorKind::Fenced => session.lose(),
                Err(e) => tracing::warn!(owner = session.owner, error = %e, "the session could not be renewed"),
            },
            () = sleep_until(until) => {}
        }
        if !session.holds() {
            return;
        }
    }
}

impl Session {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lasts until then, if it was not lost meanwhile: what ran out once may have been taken over.
    fn extend(&self, until: Instant) {
        let mut current = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < *current {
            *current = until.max(*current);
        } else {
            self.lose();
        }
    }

    fn lose(&self) {
        if !mutation::on(Mutation::SkipFence) {
            self.lost.cancel();
        }
    }

    /// Whether it certainly lasts.
    pub(crate) fn holds(&self) -> bool {
        if Instant::now() >= self.until() {
            self.lose();
        }
        !self.lost.is_cancelled()
    }

    /// Cancelled when all its runs are lost.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Takes a run.
    pub(crate) async fn acquire(&self, run: &RunId) -> Result<Lease> {
        let before = Instant::now();
        let lease = self.store.acquire(run, &self.owner, self.ttl).await?;
        self.extend(before + self.ttl);
        if self.holds() { Ok(lease) } else { Err(gone(run)) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner) {
            keeper.abort();
        }
    }
}

/// The run is not certainly ours any more.
pub(crate) fn gone(run: &RunId) -> Error {
    let message = "the lease has run out or another engine has the run; this one changes nothing any more";
    Error::new(ErrorKind::Fenced, "engine", "keep the run", message).on(run.as_str())
}
