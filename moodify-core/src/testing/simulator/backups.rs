//! Backups, and what is restored from them.

use async_trait::async_trait;

use crate::backend::{
    Backup, BackupCapabilities, BackupRequest, BackupState, BackupStore, DeleteRequest, EndpointKind,
    LiveRestoreRequest, RestorePoint, RestoreRequest, Restored,
};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{ErrorKind, Result};

use super::chance;
use super::cluster::Facet;
use super::fault::BackendKind;
use super::scenario::Scenario;
use super::state::{Caller, SimBackup, SimLiveRestore, SimRestored, State};

fn stored<'a>(state: &'a State, store: &str, id: &str) -> Option<&'a SimBackup> {
    state.backups.iter().find(|made| made.store == store && made.backup.id == id)
}

/// Puts the backup that a store has at first into it.
fn furnish(state: &mut State, store: &str) {
    let key = IdempotencyKey::new(format!("before/{store}"));
    let Some(age) = state.scenario.backups.made_before else { return };
    if state.backups.iter().any(|made| made.key == key) {
        return;
    }
    let backup = Backup {
        id: format!("{store}-nightly"),
        source: store.to_owned(),
        state: BackupState::Available,
        created: Some(state.base - age.get()),
        bytes: Some(3 << 30),
        encrypted: Some(true),
        engine: Some("simulated 1.0".to_owned()),
        run: None,
        cost: None,
    };
    let made = SimBackup { store: store.to_owned(), key, begun: std::time::Duration::ZERO, verified: None, backup };
    state.backups.insert(0, made);
}

fn create(state: &mut State, caller: &Caller, key: &IdempotencyKey) -> Backup {
    let store = &caller.subject;
    if let Some(made) = state.backups.iter().find(|made| made.store == *store && made.key == *key) {
        return state.backup(made);
    }
    let backup = Backup {
        id: format!(
            "{store}-{:08x}",
            chance::mix(&[state.scenario.seed, state.now.as_nanos() as u64, state.backups.len() as u64]) >> 32
        ),
        source: store.to_owned(),
        state: BackupState::Creating(Some(0)),
        created: Some(state.wall()),
        bytes: Some(if state.scenario.backups.damaged { 0 } else { 1 << 30 }),
        encrypted: Some(true),
        engine: Some("simulated 1.0".to_owned()),
        run: caller.run.clone(),
        cost: None,
    };
    let made = SimBackup { store: store.clone(), key: key.clone(), begun: state.now, verified: None, backup };
    let now = state.backup(&made);
    state.wrote(format!("backup {} begun", made.backup.id));
    state.backups.push(made);
    now
}

fn verify(state: &mut State, caller: &Caller, id: &str) -> Result<Backup> {
    let made = stored(state, &caller.subject, id);
    let made = made.ok_or_else(|| caller.fails(ErrorKind::Unhealthy, format!("there is no backup {id}")))?;
    let backup = state.backup(made);
    let wrong = match &backup.state {
        BackupState::Creating(_) => Some("it is not complete".to_owned()),
        BackupState::Failed(why) => Some(why.clone()),
        BackupState::Available if backup.bytes == Some(0) => Some("it is empty".to_owned()),
        BackupState::Available => None,
    };
    if let Some(wrong) = wrong {
        return Err(caller.fails(ErrorKind::Unhealthy, format!("backup {id}: {wrong}")));
    }
    let now = state.now;
    if let Some(made) = state.backups.iter_mut().find(|made| made.backup.id == id) {
        made.verified = made.verified.or(Some(now));
    }
    Ok(backup)
}

/// What was restored to that name, by this key; an error if another made it.
fn target_of(
    state: &State,
    caller: &Caller,
    key: &IdempotencyKey,
    target: &str,
    taken: ErrorKind,
) -> Result<Option<SimRestored>> {
    match state.restored.iter().find(|made| made.store == caller.subject && made.target == target) {
        Some(made) if made.key == *key => Ok(Some(made.clone())),
        Some(made) => {
            let message = format!("{target} was made under the key {}, and was left as it is", made.key);
            Err(caller.fails(taken, message))
        }
        None => Ok(None),
    }
}

fn restore(state: &mut State, caller: &Caller, key: &IdempotencyKey, request: &RestoreRequest) -> Result<Restored> {
    let target = &request.target;
    if let Some(made) = target_of(state, caller, key, target, ErrorKind::AlreadyExists)? {
        return Ok(state.restored(&made));
    }
    match &request.from {
        RestorePoint::Backup(id) => {
            let made = stored(state, &caller.subject, id);
            let missing = || caller.fails(ErrorKind::NotFound, format!("there is no backup {id}"));
            if state.backup(made.ok_or_else(missing)?).state != BackupState::Available {
                return Err(caller.fails(ErrorKind::Unhealthy, format!("backup {id} is not available")));
            }
        }
        RestorePoint::Time(time) if *time > state.wall() => {
            return Err(caller.fails(ErrorKind::Invalid, format!("{time} has not come yet")));
        }
        RestorePoint::Time(_) => {}
    }
    let (store, from) = (caller.subject.clone(), request.from.clone());
    let made = SimRestored { store, key: key.clone(), begun: state.now, from, target: target.clone() };
    let now = state.restored(&made);
    state.wrote(format!("{target} restored from {}", made.from));
    state.restored.push(made);
    Ok(now)
}

fn restore_live(
    state: &mut State,
    caller: &Caller,
    key: &IdempotencyKey,
    request: &LiveRestoreRequest,
) -> Result<Restored> {
    let store = &caller.subject;
    if state.scenario.backups.never_live {
        return Err(caller.fails(ErrorKind::Unsupported, "it restores into new databases only".to_owned()));
    }
    if let Some(made) = state.live_restores.iter().find(|made| made.store == *store && made.key == *key) {
        if made.backup != request.backup() {
            let message = format!("under this key it was begun with backup {}", made.backup);
            return Err(caller.fails(ErrorKind::AlreadyExists, message));
        }
        return Ok(state.restored_live(made));
    }
    if request.backup() == request.before() {
        return Err(caller.fails(ErrorKind::Invalid, "what is restored is no backup of what is there".to_owned()));
    }
    for id in [request.backup(), request.before()] {
        let made = stored(state, store, id);
        let missing = || caller.fails(ErrorKind::NotFound, format!("there is no backup {id}"));
        let made = made.ok_or_else(missing)?;
        if state.backup(made).state != BackupState::Available || made.verified.is_none() {
            return Err(caller.fails(ErrorKind::Unhealthy, format!("backup {id} was not found good")));
        }
    }
    let (backup, before) = (request.backup().to_owned(), request.before().to_owned());
    state.wrote(format!("backup {backup} restored into the database itself"));
    let made = SimLiveRestore { store: store.clone(), key: key.clone(), begun: state.now, backup, before };
    let now = state.restored_live(&made);
    state.live_restores.push(made);
    Ok(now)
}

fn delete(state: &mut State, caller: &Caller, request: &DeleteRequest) -> Result<()> {
    let Some(made) = stored(state, &caller.subject, request.id()) else { return Ok(()) };
    if request.is_by_retention() && made.backup.run.is_none() {
        return Err(caller.fails(ErrorKind::Refused, format!("no run made backup {}", request.id())));
    }
    state.backups.retain(|made| made.store != caller.subject || made.backup.id != request.id());
    state.wrote(format!("backup {} deleted", request.id()));
    Ok(())
}

impl Facet {
    fn store(&self, operation: &'static str) -> Caller {
        self.caller(BackendKind::BackupStore, operation, &self.name)
    }

    async fn at_store<T: Send>(
        &self,
        cx: &CallContext,
        caller: Caller,
        mut effect: impl FnMut(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.name.clone();
        let furnished = move |state: &mut State| {
            furnish(state, &store);
            effect(state)
        };
        self.world.call(cx, caller, furnished).await
    }
}

#[async_trait]
impl BackupStore for Facet {
    fn capabilities(&self) -> BackupCapabilities {
        let can = BackupCapabilities::new(true, true, true).with_point_in_time();
        let asked = |it: &Scenario| (it.backups.names.contains(&*self.name), it.backups.never_live);
        let (names, never_live) = self.world.scenario(asked);
        let can = can.with_endpoint(if names { EndpointKind::Name } else { EndpointKind::Host });
        if never_live { can } else { can.with_live() }
    }

    async fn create(&self, cx: &CallContext, _: &BackupRequest) -> Result<Backup> {
        let (caller, key) = (self.store("create").in_context(cx), cx.key().clone());
        let asks = caller.clone();
        self.at_store(cx, caller, move |state| Ok(create(state, &asks, &key))).await
    }

    async fn describe(&self, cx: &CallContext, id: &str) -> Result<Option<Backup>> {
        let (name, id) = (self.name.clone(), id.to_owned());
        let effect = move |state: &mut State| Ok(stored(state, &name, &id).map(|made| state.backup(made)));
        self.at_store(cx, self.store("describe").reading(), effect).await
    }

    async fn list(&self, cx: &CallContext) -> Result<Vec<Backup>> {
        let name = self.name.clone();
        let effect = move |state: &mut State| {
            let all = state.backups.iter().rev().filter(|made| made.store == *name);
            Ok(all.map(|made| state.backup(made)).collect())
        };
        self.at_store(cx, self.store("list").reading(), effect).await
    }

    async fn verify(&self, cx: &CallContext, id: &str) -> Result<Backup> {
        // Not a reading call, though it changes nothing at the provider: the simulation notes what was verified.
        let (caller, id) = (self.store("verify"), id.to_owned());
        let asks = caller.clone();
        self.at_store(cx, caller, move |state| verify(state, &asks, &id)).await
    }

    async fn restore(&self, cx: &CallContext, request: &RestoreRequest) -> Result<Restored> {
        let (caller, key, request) = (self.store("restore"), cx.key().clone(), request.clone());
        let asks = caller.clone();
        self.at_store(cx, caller, move |state| restore(state, &asks, &key, &request)).await
    }

    async fn restore_live(&self, cx: &CallContext, request: &LiveRestoreRequest) -> Result<Restored> {
        let (caller, key, request) = (self.store("restore_live"), cx.key().clone(), request.clone());
        let asks = caller.clone();
        self.at_store(cx, caller, move |state| restore_live(state, &asks, &key, &request)).await
    }

    async fn target_exists(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let (name, target) = (self.name.clone(), target.to_owned());
        let effect =
            move |state: &mut State| Ok(state.restored.iter().any(|made| made.store == *name && made.target == target));
        self.at_store(cx, self.store("look for the target").reading(), effect).await
    }

    async fn discard(&self, cx: &CallContext, target: &str) -> Result<bool> {
        let (caller, key, target) = (self.store("discard"), cx.key().clone(), target.to_owned());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            if target_of(state, &asks, &key, &target, ErrorKind::Refused)?.is_some() {
                state.restored.retain(|made| made.store != asks.subject || made.target != target);
                state.wrote(format!("{target} discarded"));
            }
            Ok(true)
        };
        self.at_store(cx, caller, effect).await
    }

    async fn delete(&self, cx: &CallContext, request: &DeleteRequest) -> Result<()> {
        let (caller, request) = (self.store("delete"), request.clone());
        let asks = caller.clone();
        self.at_store(cx, caller, move |state| delete(state, &asks, &request)).await
    }
}
