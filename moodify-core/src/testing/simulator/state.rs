//! The whole simulated world at one moment. It is moved forward from event to event, so that every moment is exact.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::backend::{
    ApprovalRequest, Artifact, Backup, BackupState, Decision, Incident, IncidentStatus, Notification, PodState,
    RestorePoint, RestoreState, Restored, Workload,
};
use crate::context::{CallContext, IdempotencyKey};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ImageRef, Layout, RunId, Target, Track};

use super::caches::SimCache;
use super::configuration::{self, Objects};
use super::fault::{BackendKind, Site};
use super::jobs::SimJob;
use super::nodes::SimNode;
use super::operations::SimConnection;
use super::scenario::{Answer, Edit, Scenario};
use super::service::{Flow, SimService, place};

/// Who calls what.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) who: Arc<str>,
    pub(super) backend: BackendKind,
    pub(super) operation: &'static str,
    pub(super) subject: String,
    pub(super) run: Option<RunId>,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) reads: bool,
}

impl Caller {
    pub(super) fn new(who: &Arc<str>, backend: BackendKind, operation: &'static str, subject: &str) -> Self {
        let (who, subject) = (who.clone(), subject.to_owned());
        Self { who, backend, operation, subject, run: None, key: None, reads: false }
    }

    pub(super) fn reading(mut self) -> Self {
        self.reads = true;
        self
    }

    pub(super) fn in_context(mut self, cx: &CallContext) -> Self {
        self.run = Some(cx.run_id().clone());
        self.key = Some(cx.key().clone());
        self
    }

    pub(super) fn site(&self) -> Site<'_> {
        Site { backend: self.backend, operation: self.operation, service: &self.subject }
    }

    pub(super) fn fails(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, self.backend.name(), self.operation, message).on(self.subject.clone())
    }
}

/// A change of the world, and on whose behalf it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// When, from the start of the simulation.
    pub at: Duration,
    /// The engine, by its label, or whoever else.
    pub by: String,
    /// The run; `None` for foreign edits.
    pub run: Option<RunId>,
    /// The idempotency key.
    pub key: Option<IdempotencyKey>,
    /// The kind of backend; `None` for foreign edits.
    pub backend: Option<BackendKind>,
    /// The method.
    pub operation: String,
    /// The service, or the name of store, cache or notifier.
    pub subject: String,
    /// What was changed, for people.
    pub what: String,
}

/// A backup in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimBackup {
    /// The store, by its name.
    pub store: String,
    /// The key under which it was made.
    pub key: IdempotencyKey,
    /// When, from the start of the simulation.
    pub begun: Duration,
    /// When it was verified, and found good.
    pub verified: Option<Duration>,
    /// As its store describes it.
    pub backup: Backup,
}

/// An artifact in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimArtifact {
    /// The store, by its name.
    pub store: String,
    /// As its store describes it.
    pub artifact: Artifact,
    /// What is in it.
    pub content: Bytes,
}

/// What was made from a backup in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimRestored {
    /// The store, by its name.
    pub store: String,
    /// The key under which it was made.
    pub key: IdempotencyKey,
    /// When, from the start of the simulation.
    pub begun: Duration,
    /// What it was made from.
    pub from: RestorePoint,
    /// Its name.
    pub target: String,
}

/// A restore into a database itself in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimLiveRestore {
    /// The store, by its name.
    pub store: String,
    /// The key under which it was begun.
    pub key: IdempotencyKey,
    /// When, from the start of the simulation.
    pub begun: Duration,
    /// The backup that was restored.
    pub backup: String,
    /// The backup of what was there.
    pub before: String,
}

/// An incident on the simulated status page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimIncident {
    /// The key under which it was opened.
    pub key: IdempotencyKey,
    /// The run that opened it.
    pub run: RunId,
    /// As the page shows it.
    pub incident: Incident,
}

impl SimIncident {
    /// Whether it is not resolved.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.incident.status != IncidentStatus::Resolved
    }
}

/// A message that reached people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// When, from the start of the simulation.
    pub at: Duration,
    /// The notifier, by its name.
    pub notifier: String,
    /// The key that went with it.
    pub key: IdempotencyKey,
    /// The message.
    pub notification: Notification,
}

/// A question put to people.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) request: ApprovalRequest,
    pub(super) asked: Duration,
    pub(super) decisions: Vec<Decision>,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) scenario: Arc<Scenario>,
    pub(super) base: Timestamp,
    pub(super) now: Duration,
    next: Option<Duration>,
    pub(super) services: BTreeMap<String, SimService>,
    edits: Vec<Edit>,
    pub(super) jobs: Vec<SimJob>,
    /// The images that `CronJob`s were set to.
    pub(super) cron_images: BTreeMap<String, ImageRef>,
    /// The `CronJob`s that were suspended, or were let go on.
    pub(super) suspended: BTreeMap<String, bool>,
    pub(super) backups: Vec<SimBackup>,
    pub(super) restored: Vec<SimRestored>,
    pub(super) live_restores: Vec<SimLiveRestore>,
    pub(super) artifacts: Vec<SimArtifact>,
    /// How many artifacts were ever written.
    pub(super) puts: u64,
    pub(super) configuration: Objects,
    pub(super) connections: Vec<SimConnection>,
    pub(super) incidents: Vec<SimIncident>,
    /// Those that were changed; others are as at first.
    pub(super) caches: BTreeMap<String, SimCache>,
    /// Nodes of each cache that was looked at.
    pub(super) cache_nodes: BTreeMap<String, Vec<SimNode>>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) questions: BTreeMap<IdempotencyKey, Question>,
    /// On whose behalf the world is changed just now.
    author: Option<Caller>,
    /// What happened since the log was written last.
    pub(super) flows: Vec<Flow>,
    pub(super) writes: Vec<Write>,
}

impl State {
    pub(super) fn new(scenario: Arc<Scenario>, base: Timestamp, services: Vec<SimService>) -> Self {
        let mut state = Self {
            edits: scenario.edits.clone(),
            scenario,
            base,
            now: Duration::ZERO,
            next: None,
            services: services.into_iter().map(|service| (service.name().to_owned(), service)).collect(),
            jobs: Vec::new(),
            cron_images: BTreeMap::new(),
            suspended: BTreeMap::new(),
            backups: Vec::new(),
            restored: Vec::new(),
            live_restores: Vec::new(),
            artifacts: Vec::new(),
            puts: 0,
            configuration: Objects::new(),
            connections: Vec::new(),
            incidents: Vec::new(),
            caches: BTreeMap::new(),
            cache_nodes: BTreeMap::new(),
            deliveries: Vec::new(),
            questions: BTreeMap::new(),
            author: None,
            flows: Vec::new(),
            writes: Vec::new(),
        };
        state.configuration = configuration::at_first(&state);
        state.settle();
        state
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.base + self.now
    }

    /// Moves on to `now`, through everything that happens until then.
    pub(super) fn advance(&mut self, now: Duration) {
        while let Some(at) = self.next.filter(|at| *at <= now) {
            self.now = at;
            self.settle();
        }
        self.now = self.now.max(now);
    }

    /// Lets everything happen that is due now.
    pub(super) fn settle(&mut self) {
        let (scenario, now) = (self.scenario.clone(), self.now);
        loop {
            for service in self.services.values_mut() {
                service.settle(&scenario, now, &mut self.flows);
            }
            let edits = std::mem::take(&mut self.edits);
            let waiting: Vec<Edit> = edits.iter().filter(|edit| !self.edit_if_due(edit)).cloned().collect();
            let none_made = waiting.len() == edits.len();
            self.edits = waiting;
            if none_made {
                break;
            }
        }
        self.next = self.next_change();
    }

    fn edit_if_due(&mut self, edit: &Edit) -> bool {
        let due = self.services.get(&edit.service).and_then(|service| service.edit_due(edit));
        due.is_some_and(|due| due <= self.now) && self.edit(edit)
    }

    /// Makes a foreign edit; false if what it edits is not there.
    pub(super) fn edit(&mut self, edit: &Edit) -> bool {
        let (scenario, now) = (self.scenario.clone(), self.now);
        let service = self.services.get_mut(&edit.service);
        let Some(what) = service.and_then(|service| service.edit(&scenario, edit, now)) else { return false };
        self.writes.push(Write {
            at: now,
            by: edit.by.clone(),
            run: None,
            key: None,
            backend: None,
            operation: "edit".to_owned(),
            subject: edit.service.clone(),
            what,
        });
        true
    }

    /// When something changes next by itself.
    pub(super) fn next(&self) -> Option<Duration> {
        self.next
    }

    fn next_change(&self) -> Option<Duration> {
        let now = self.now;
        let services = self.services.values().filter_map(|service| service.next_change(&self.scenario, now));
        let edits = self.edits.iter().filter_map(|edit| self.services.get(&edit.service)?.edit_due(edit));
        services.chain(edits.filter(|at| *at > now)).chain(self.next_job()).min()
    }

    /// Changes the world on behalf of a caller.
    pub(super) fn act<T>(&mut self, caller: &Caller, effect: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.author = Some(caller.clone());
        let result = effect(self);
        self.author = None;
        self.settle();
        result
    }

    /// Notes that the caller has changed something.
    pub(super) fn wrote(&mut self, what: impl Into<String>) {
        let Some(author) = &self.author else { return };
        self.writes.push(Write {
            at: self.now,
            by: author.who.to_string(),
            run: author.run.clone(),
            key: author.key.clone(),
            backend: Some(author.backend),
            operation: author.operation.to_owned(),
            subject: author.subject.clone(),
            what: what.into(),
        });
    }

    pub(super) fn service(&self, target: &Target) -> Option<&SimService> {
        let service = self.services.get(&target.service.name)?;
        (service.target.namespace == target.namespace).then_some(service)
    }

    pub(super) fn service_mut(&mut self, target: &Target) -> Option<&mut SimService> {
        let service = self.services.get_mut(&target.service.name)?;
        (service.target.namespace == target.namespace).then_some(service)
    }

    pub(super) fn pods(&self, target: &Target, track: Track) -> Vec<PodState> {
        let Some(service) = self.service(target) else { return Vec::new() };
        let mut pods = service.pods(&self.scenario, place(target.layout, track), self.now);
        if target.layout == Layout::Single && track == Track::Canary {
            pods.retain(|pod| pod.image == target.service.image.as_str());
        }
        pods
    }

    /// A workload, whoever owns it.
    pub(super) fn workload(&self, target: &Target, track: Track) -> Option<Workload> {
        let service = self.service(target)?;
        let running = service.of(target, track)?;
        let pods = service.pods(&self.scenario, place(target.layout, track), self.now);
        let mut whole = running.view(&pods, self.now, self.scenario.world.progress_deadline.get());
        whole.config = SimService::reads(running, target);
        match (target.layout, track) {
            (Layout::Single, Track::Canary) => Some(running.part(whole, &pods)),
            _ => Some(whole),
        }
    }

    /// A backup as it stands now.
    pub(super) fn backup(&self, made: &SimBackup) -> Backup {
        let script = &self.scenario.backups;
        let was_there = made.backup.created.is_some_and(|created| created < self.base);
        let passed = self.now.saturating_sub(made.begun).as_secs_f64();
        let takes = script.takes.get().as_secs_f64();
        let state = match &script.fails {
            _ if was_there => BackupState::Available,
            // In 0..100 while it is being made.
            _ if passed < takes => BackupState::Creating(Some((passed / takes * 100.0) as u8)),
            Some(why) => BackupState::Failed(why.clone()),
            None => BackupState::Available,
        };
        Backup { state, ..made.backup.clone() }
    }

    /// A restored target as it stands now.
    pub(super) fn restored(&self, made: &SimRestored) -> Restored {
        let script = &self.scenario.backups;
        let state = self.restore_begun(made.begun);
        let answers = state == RestoreState::Available;
        let endpoint = answers.then(|| match script.names.contains(&made.store) {
            false => format!("{}.simulated.invalid", made.target),
            true => format!("projects/simulated/databases/{}", made.target),
        });
        Restored { target: made.target.clone(), state, endpoint }
    }

    /// A restore into a database itself as it stands now.
    pub(super) fn restored_live(&self, made: &SimLiveRestore) -> Restored {
        Restored { target: made.store.clone(), state: self.restore_begun(made.begun), endpoint: None }
    }

    /// Where a restore stands that was begun then.
    fn restore_begun(&self, begun: Duration) -> RestoreState {
        let script = &self.scenario.backups;
        let over = self.now.saturating_sub(begun) >= script.restore_takes.get();
        match &script.restore_fails {
            _ if !over => RestoreState::Creating("its storage is being filled".to_owned()),
            Some(why) => RestoreState::Failed(why.clone()),
            None => RestoreState::Available,
        }
    }

    /// What people have said so far, also those whom the scenario speaks for.
    pub(super) fn decisions(&self, key: &IdempotencyKey) -> Vec<Decision> {
        let Some(question) = self.questions.get(key) else { return Vec::new() };
        let people = self.scenario.approvals;
        let at = question.asked + people.after.get();
        let mut decisions = question.decisions.clone();
        if people.answer != Answer::Silence && at <= self.now {
            let open =
                question.request.roles.iter().filter(|role| !question.decisions.iter().any(|d| d.role == **role));
            decisions.extend(open.map(|role| Decision {
                person: format!("simulated {role}"),
                role: role.clone(),
                approved: people.answer == Answer::Yes,
                comment: "as the scenario says".to_owned(),
                at: self.base + at,
            }));
        }
        decisions
    }
}
