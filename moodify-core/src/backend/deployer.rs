use std::fmt;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Color, ConfigRefs, ImageRef, Target, Track, WorkloadKind};

/// What a deployer can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeployerCapabilities {
    /// The kinds of workload that it can put a canary beside.
    pub kinds: Vec<String>,
    /// Whether [`Deployer::preview`] asks the server (a dry run) instead of guessing.
    pub server_preview: bool,
    /// Whether two workloads can take turns ([`Layout::Colors`](crate::model::Layout)).
    pub colors: bool,
    /// The kinds of workload in which the new version can take the place of the old one
    /// ([`Layout::Single`](crate::model::Layout)).
    pub single: Vec<Single>,
}

/// How the new version takes the place of the old one in workloads of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Single {
    /// The kind.
    pub kind: WorkloadKind,
    /// Whether the platform itself holds a batch at its size. Where it does not, more instances than asked for may run the
    /// new version until the deployer holds them.
    pub exact: bool,
    /// Whether it can have no instance at all.
    pub stops: bool,
}

impl DeployerCapabilities {
    /// Capabilities with these kinds of workload.
    #[must_use]
    pub fn new(kinds: &[&str], server_preview: bool) -> Self {
        let kinds = kinds.iter().map(ToString::to_string).collect();
        Self { kinds, server_preview, colors: false, single: Vec::new() }
    }

    /// And the new version can take the place of the old one in these kinds of workload.
    #[must_use]
    pub fn with_single(mut self, kinds: &[Single]) -> Self {
        self.single = kinds.to_vec();
        self
    }

    /// And two workloads can take turns.
    #[must_use]
    pub fn with_colors(mut self) -> Self {
        self.colors = true;
        self
    }
}

/// How many instances there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replicas {
    /// Asked for.
    pub desired: u32,
    /// Existing, of any revision.
    pub total: u32,
    /// Of the current revision.
    pub updated: u32,
    /// Ready.
    pub ready: u32,
    /// Ready for long enough to count on.
    pub available: u32,
}

/// The state of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The image of the container that carries the release.
    pub image: ImageRef,
    /// Which objects its instances read, of the configuration that ships with the service.
    #[serde(default, skip_serializing_if = "ConfigRefs::is_empty")]
    pub config: ConfigRefs,
    /// The counts.
    pub replicas: Replicas,
    /// Grows with every change of what is asked for (Kubernetes: `metadata.generation`). An unexpected value is drift.
    pub generation: i64,
    /// The platform has acted on this generation: the counts speak of it and not of the one before.
    pub observed: bool,
    /// The platform gave up on this generation (Kubernetes: `ProgressDeadlineExceeded`), and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
}

impl Workload {
    /// Everything asked for is there, updated and available, and nothing old is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let r = self.replicas;
        self.observed && r.updated == r.desired && r.available == r.desired && r.total == r.desired
    }

    /// At least `count` are available, of the current revision.
    #[must_use]
    pub fn has_available(&self, count: u32) -> bool {
        self.observed && self.replicas.available.min(self.replicas.updated) >= count
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.replicas;
        write!(f, "{} ({}): {} of {} available", self.name, self.image, r.available, r.desired)
    }
}

/// A canary workload as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CanarySpec {
    /// The image of the container that carries the release. The rest is copied from the stable workload.
    pub image: ImageRef,
    /// The version, for labels.
    pub version: String,
    /// Which objects it reads instead of those that the stable one reads.
    pub config: ConfigRefs,
    /// How many instances.
    pub replicas: u32,
    /// Whether the canary's instances sit behind the stable version's Service (traffic by ratio) or behind a Service
    /// of their own (traffic by a router's weights).
    pub shares_service: bool,
    /// Where two workloads take turns: the one that does not serve is taken as it is if it has this image already,
    /// with all else that it had when it served.
    pub restore: bool,
    /// Where two workloads take turns: the one that the plan names becomes what it was before the first release, without
    /// what the two are told apart by. Only its name leads to it then, no router.
    pub plain: bool,
}

impl CanarySpec {
    /// A canary with this image, version and count.
    #[must_use]
    pub fn new(image: ImageRef, version: &str, replicas: u32, shares_service: bool) -> Self {
        let config = ConfigRefs::new();
        Self { image, version: version.to_owned(), config, replicas, shares_service, restore: false, plain: false }
    }

    /// It reads these objects.
    #[must_use]
    pub fn reading(mut self, config: ConfigRefs) -> Self {
        self.config = config;
        self
    }

    /// Without what two workloads are told apart by.
    #[must_use]
    pub fn plainly(mut self) -> Self {
        self.plain = true;
        self
    }

    /// A workload that has the image already is taken as it is.
    #[must_use]
    pub fn restoring(mut self) -> Self {
        self.restore = true;
        self
    }
}

/// A change of the number of instances. Refused as drift if neither `from` nor `to` is what is asked for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// What the caller believes is asked for now.
    pub from: u32,
    /// What shall be asked for.
    pub to: u32,
}

/// A change of the image of the stable workload. Refused as drift if neither `from` nor `to` is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChange {
    /// What the caller believes is there now.
    pub from: ImageRef,
    /// What shall be there.
    pub to: ImageRef,
    /// Which objects its instances read from then on, of the configuration that ships with the service. What is left out
    /// stays.
    pub config: ConfigRefs,
    /// Sets the number of instances in the same write, if it is asked for.
    pub scale: Option<Scale>,
}

/// What a person may have to do by hand when moodify could not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Roll the stable workload to this image.
    Image(ImageRef),
    /// Ask for so many instances of the stable workload.
    Replicas(u32),
    /// Remove the canary and all that was made for it.
    RemoveCanary,
    /// Let the service's name stand for this track.
    HandOver(Track),
}

/// One change that a release would make, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The object: `Deployment moodify-production/backend-deployment-canary`.
    pub object: String,
    /// What would happen to it: `create with 1 replica of ...`.
    pub what: String,
}

/// Runs workloads: a stable one that belongs to the user, and beside it a temporary canary that belongs to a run; or two
/// that take turns ([`Layout::Colors`](crate::model::Layout)).
///
/// # Contract
/// - The canary carries the run's id ([`CallContext::run_id`]). One of another run is [`ErrorKind::AlreadyExists`];
///   one of this run that somebody else edited is [`ErrorKind::Drift`], with the editor's name, from every method but
///   [`remove`](Self::remove); a watch yields it as an item as soon as it happens, and ends.
/// - `deploy`, `scale`, `set_image` and `remove` return when the write is accepted, not when it has taken effect:
///   wait with [`watch`](Self::watch). Each is idempotent: if all is as asked for already, nothing is written.
/// - Configuration that ships with a version ([`Service::config`](crate::model::Service)) is made before anything refers
///   to it, by `deploy` and `set_image`, and never changed. `remove` deletes what was made so and no version can need any
///   more. What is to be there already is not looked for: it may be a secret that moodify may not even see.
/// - `scale` and `set_image` compare before they write, and the comparison holds at the moment of the write.
/// - From `deploy` to `remove`, or until what served before is scaled to nothing, no autoscaler leaves what serves fewer
///   instances than it had: a way back needs them. Autoscalers go on otherwise, and are as they were afterwards.
/// - Where two workloads take turns, the canary is the one that does not serve. Scaled to nothing it is nobody's: it is
///   not seen, and any run may deploy it. `remove` leaves of it what costs nothing, and refuses while the service's
///   name stands for it, as [`ErrorKind::Conflict`].
/// - `leave` ends the turns: only the workload that the plan names stays, as if there had been no other. It refuses, with
///   nothing changed, while the name stands for the other one ([`ErrorKind::Conflict`]) or that has instances of another
///   run ([`ErrorKind::AlreadyExists`]).
/// - In a single workload ([`Layout::Single`](crate::model::Layout)) the canary is that part of it which runs the new
///   version while it is held back from running all of it. `deploy` makes that part so large, and returns when the
///   workload holds there by itself; `set_image` ends the holding, whichever the image, and `remove` does so with the
///   image of before. What the workload was before is kept with it, and is as it was afterwards. Whoever scales it to
///   nothing waits until no instance runs, not even one that is ending.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Deployer: Send + Sync + fmt::Debug {
    /// What this deployer can do.
    fn capabilities(&self) -> DeployerCapabilities;

    /// The state of a track now; `None` if there is no such workload.
    ///
    /// # Errors
    /// As in the contract.
    async fn observe(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<Workload>>;

    /// The state of a track now and after every change, until the context ends; `None` items while it is missing.
    /// Survives short absences of the server; an item is an error only if going on is hopeless.
    ///
    /// # Errors
    /// As in the contract.
    async fn watch(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Option<Workload>>>>;

    /// Makes the canary exist as specified, copied from the stable workload but for image, labels and count.
    ///
    /// # Errors
    /// As in the contract; [`ErrorKind::NotFound`] if there is no stable workload to copy.
    async fn deploy(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Workload>;

    /// Asks for another number of instances of a track.
    ///
    /// # Errors
    /// As in the contract.
    async fn scale(&self, cx: &CallContext, target: &Target, track: Track, scale: Scale) -> Result<Workload>;

    /// Changes the image of the stable workload; the platform rolls it out.
    ///
    /// # Errors
    /// As in the contract.
    async fn set_image(&self, cx: &CallContext, target: &Target, change: &ImageChange) -> Result<Workload>;

    /// Which of two workloads that take turns the service's name stands for; who serves, as long as no router divides.
    ///
    /// # Errors
    /// As in the contract; [`ErrorKind::Unsupported`] if it cannot do that; [`ErrorKind::Invalid`] if the name stands for
    /// neither of the two, or for both.
    async fn serving(&self, cx: &CallContext, target: &Target) -> Result<Color>;

    /// Lets the service's name stand for the workload of this track, and with it whatever goes by that name: callers
    /// inside the platform, autoscalers. Writes nothing that is so already; [`ErrorKind::Drift`] if it stands for
    /// neither of the two.
    ///
    /// # Errors
    /// As in the contract; [`ErrorKind::Unsupported`] if two workloads cannot take turns.
    async fn hand_over(&self, cx: &CallContext, target: &Target, to: Track) -> Result<()>;

    /// Removes what two workloads that take turns have beside the one that the plan names, and the marks of runs on that
    /// one. Its instances are not touched. Fine if there is nothing.
    ///
    /// # Errors
    /// As in the contract; [`ErrorKind::Unsupported`] if two workloads cannot take turns.
    async fn leave(&self, cx: &CallContext, target: &Target) -> Result<()>;

    /// Removes the run's canary and everything that was made for it. Fine if it never existed.
    ///
    /// # Errors
    /// As in the contract; never [`ErrorKind::Drift`].
    async fn remove(&self, cx: &CallContext, target: &Target) -> Result<()>;

    /// What `deploy` would change, without changing it; validated by the server where it can. Nothing if all is as asked
    /// for already. A deployer may list after it, for people, what the release would change later.
    ///
    /// # Errors
    /// What `deploy` would fail with.
    async fn preview(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Vec<Change>>;

    /// Commands with which a person does this without moodify. Asks nobody; empty if there are none.
    fn by_hand(&self, target: &Target, remedy: &Remedy) -> Vec<String>;
}

/// Comfort on top of any [`Deployer`].
#[async_trait]
pub trait DeployerExt {
    /// Watches a track until `done` says so, and returns that state. `seen` is told every state on the way.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with the last state in the message; [`ErrorKind::Unhealthy`]
    /// as soon as the platform gives up; [`ErrorKind::NotFound`] if the workload goes away.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting.
    async fn wait(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
        done: &(dyn for<'a> Fn(&'a Workload) -> bool + Send + Sync),
        seen: &(dyn for<'a> Fn(&'a Workload) + Send + Sync),
    ) -> Result<Workload>;
}

#[async_trait]
impl<D: Deployer + ?Sized> DeployerExt for D {
    async fn wait(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
        done: &(dyn for<'a> Fn(&'a Workload) -> bool + Send + Sync),
        seen: &(dyn for<'a> Fn(&'a Workload) + Send + Sync),
    ) -> Result<Workload> {
        const OPERATION: &str = "wait for the workload";
        let name = format!("{target} ({track})");
        let mut last: Option<Workload> = None;
        let waiting = async {
            let mut states = self.watch(cx, target, track).await?;
            while let Some(state) = states.next().await {
                let Some(workload) = state? else {
                    // A watch may begin before the cache behind it has seen our own write.
                    if last.is_some() {
                        let gone = "it went away while we waited for it";
                        return Err(Error::new(ErrorKind::NotFound, "moodify", OPERATION, gone));
                    }
                    continue;
                };
                seen(&workload);
                if done(&workload) {
                    return Ok(workload);
                }
                if let Some(why) = workload.stalled.as_ref().filter(|_| workload.observed) {
                    return Err(Error::new(ErrorKind::Unhealthy, "moodify", OPERATION, why.clone()));
                }
                last = Some(workload);
            }
            Err(Error::new(ErrorKind::Unavailable, "moodify", OPERATION, "the watch ended"))
        };
        let result = cx.run("moodify", OPERATION, waiting).await;
        result.map_err(|e| match e.kind() {
            ErrorKind::Timeout => {
                let state = last.map_or_else(|| "it was never seen".to_owned(), |w| w.to_string());
                let message = format!("not ready at the deadline: {state}");
                Error::new(ErrorKind::Timeout, "moodify", OPERATION, message).on(name).effect(crate::Effect::None)
            }
            ErrorKind::Unhealthy | ErrorKind::NotFound if e.target().is_empty() => e.on(name),
            _ => e,
        })
    }
}
