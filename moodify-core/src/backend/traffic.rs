use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::context::CallContext;
use crate::error::Result;
use crate::model::{Target, Weight};

/// How finely a router divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// Any whole percent.
    Percent,
    /// Only ratios of instances: the router itself scales the tracks, and the canary sits behind the stable Service.
    Instances,
    /// All or nothing: what the service's name stands for is switched. Only between two workloads that take turns, which
    /// is how a connection that is kept alive on the one that served keeps its answers.
    Whole,
}

/// What a router can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterCapabilities {
    /// How finely it divides.
    pub granularity: Granularity,
    /// Whether it can say that the data plane follows, and not only that the API accepted.
    pub verifies: bool,
}

impl RouterCapabilities {
    /// Capabilities of a router.
    #[must_use]
    pub fn new(granularity: Granularity, verifies: bool) -> Self {
        Self { granularity, verifies }
    }
}

/// Whether a weight that was set is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// The router reports it.
    Verified,
    /// The router has not acted on it yet.
    NotYet,
    /// Read back as set; this router cannot say more.
    CannotTell,
}

/// How the traffic is divided now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The canary's weight, in percent; for ratios of instances the nearest whole one.
    pub weight: Weight,
    /// The canary's share that follows from it, as a fraction of one.
    pub share: f64,
    /// Whether it is in force.
    pub verification: Verification,
    /// Who edited the routing object last, if that was not moodify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_by: Option<String>,
}

/// A change of the canary's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightChange {
    /// The weight that the journal says is in force; anything else but `to` is drift.
    pub from: Weight,
    /// The weight that shall be.
    pub to: Weight,
    /// The number of stable instances before the release: the capacity that is never gone below.
    pub capacity: u32,
}

/// Divides traffic between stable and canary.
///
/// # Contract
/// - `set` leaves everything in the routing object as it is but the canary's and the stable version's weight, also
///   rules, matches and filters of other people.
/// - `set` to `to` when `to` is in force writes nothing. If the routing object was edited by somebody else so that
///   neither `from` nor `to` is in force, it is [`Drift`](crate::ErrorKind::Drift), with the editor's name. From zero
///   to zero it only compares, also when the canary is not in the object.
/// - `set` is never called before the canary has available instances for the weight (but by a router of granularity
///   [`Instances`](Granularity::Instances), which scales itself, waits for availability, and goes back on its own
///   deadline only as far as it has come).
/// - `reset` needs nothing of the canary: not that it exists, not that it is healthy. It sends everything to stable
///   and removes every reference to the canary. It changes only what is ours, also in an edited object. Fine if there
///   is nothing to do. A router of granularity `Instances` restores `capacity` stable instances.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait TrafficRouter: Send + Sync + fmt::Debug {
    /// What this router can do.
    fn capabilities(&self) -> RouterCapabilities;

    /// How the traffic is divided now.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no routing object.
    async fn read(&self, cx: &CallContext, target: &Target) -> Result<Traffic>;

    /// How the traffic is divided now and after every change, until the context ends. Survives short absences of the
    /// server; an item is an error only if going on is hopeless. Whether it is in force is as the routing object says, and
    /// nobody else is asked.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    async fn watch(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>>;

    /// The same for as long as it takes a weight to come into force: an item is [`Verified`](Verification::Verified) only
    /// when everybody who reports on it says so, as the Gateway does that carries a route. Who may not be asked makes it
    /// [`CannotTell`](Verification::CannotTell), and no error.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    async fn watch_in_force(&self, cx: &CallContext, target: &Target) -> Result<BoxStream<'static, Result<Traffic>>> {
        self.watch(cx, target).await
    }

    /// Sets the canary's weight, above zero (zero only to compare); returns when it is accepted and read back.
    ///
    /// # Errors
    /// As in the contract.
    async fn set(&self, cx: &CallContext, target: &Target, change: WeightChange) -> Result<Traffic>;

    /// Sends everything to the stable version.
    ///
    /// # Errors
    /// As in the contract.
    async fn reset(&self, cx: &CallContext, target: &Target, capacity: u32) -> Result<Traffic>;

    /// Commands with which a person does what [`reset`](Self::reset) does without moodify. Asks nobody; empty if there
    /// are none.
    fn by_hand(&self, target: &Target, capacity: u32) -> Vec<String>;
}
