use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Connection, Endpoint};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::WorkloadKind;

/// A workload by kind and name, written `stateful-set/queue`; a name alone is a Deployment's.
///
/// ```
/// use moodify_core::backend::WorkloadRef;
/// let queue: WorkloadRef = "stateful-set/queue".parse().unwrap();
/// assert_eq!(queue.to_string(), "stateful-set/queue");
/// assert_eq!("backend".parse::<WorkloadRef>().unwrap(), WorkloadRef::deployment("backend"));
/// assert!("cron-job/report".parse::<WorkloadRef>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct WorkloadRef {
    /// What kind of workload.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl WorkloadRef {
    /// A Deployment.
    #[must_use]
    pub fn deployment(name: &str) -> Self {
        Self { kind: WorkloadKind::Deployment, name: name.to_owned() }
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "stateful-set",
            WorkloadKind::DaemonSet => "daemon-set",
        };
        write!(f, "{kind}/{}", self.name)
    }
}

impl FromStr for WorkloadRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, name) = text.split_once('/').unwrap_or(("deployment", text));
        let kind = match kind.replace('-', "").as_str() {
            "deployment" => Some(WorkloadKind::Deployment),
            "statefulset" => Some(WorkloadKind::StatefulSet),
            "daemonset" => Some(WorkloadKind::DaemonSet),
            _ => None,
        };
        let name = Some(name).filter(|name| !name.is_empty() && !name.contains('/'));
        let (Some(kind), Some(name)) = (kind, name) else {
            let message = format!("{text:?} is no workload; write NAME for a Deployment, or stateful-set/NAME");
            return Err(Error::new(ErrorKind::Invalid, "moodify", "name a workload", message));
        };
        Ok(Self { kind, name: name.to_owned() })
    }
}

impl TryFrom<String> for WorkloadRef {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<WorkloadRef> for String {
    fn from(workload: WorkloadRef) -> Self {
        workload.to_string()
    }
}

/// Which workloads of a namespace make up an application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Application {
    /// The namespace.
    pub namespace: String,
    /// The workloads; for none, all Deployments and stateful sets of the namespace.
    pub workloads: Vec<WorkloadRef>,
    /// Workloads that do not belong to it.
    pub except: Vec<WorkloadRef>,
}

impl Application {
    /// All of a namespace.
    #[must_use]
    pub fn all_of(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    /// The same, of these workloads only; of all for none.
    #[must_use]
    pub fn workloads(mut self, workloads: &[WorkloadRef]) -> Self {
        self.workloads = workloads.to_vec();
        self
    }

    /// The same without these.
    #[must_use]
    pub fn except(mut self, workloads: &[WorkloadRef]) -> Self {
        self.except = workloads.to_vec();
        self
    }

    /// Whether a workload belongs to it.
    #[must_use]
    pub fn has(&self, workload: &WorkloadRef) -> bool {
        (self.workloads.is_empty() || self.workloads.contains(workload)) && !self.except.contains(workload)
    }
}

/// How many instances the workloads of an application are to have when it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// The namespace.
    pub namespace: String,
    /// One a workload.
    pub workloads: Vec<Count>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances: u32 = self.workloads.iter().map(|of| of.replicas).sum();
        write!(f, "{instances} instances of {} workloads", self.workloads.len())
    }
}

/// How many instances one workload is to have when it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The workload.
    pub workload: WorkloadRef,
    /// Which object of that name.
    pub uid: String,
    /// Its number of instances.
    pub replicas: u32,
    /// What decides about that number while there are any instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler: Option<Autoscaler>,
}

impl Count {
    /// The number with which it starts again: as before, but within what its autoscaler allows.
    #[must_use]
    pub fn at_start(&self) -> u32 {
        match &self.autoscaler {
            Some(range) if self.replicas > 0 => self.replicas.min(range.max).max(range.min),
            _ => self.replicas,
        }
    }
}

/// What changes the number of instances of a workload by itself, between two bounds. It does nothing while there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscaler {
    /// Its name.
    pub name: String,
    /// The fewest instances.
    pub min: u32,
    /// The most.
    pub max: u32,
}

/// The instances of a workload that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instances {
    /// The workload.
    pub workload: WorkloadRef,
    /// All of them, those that are ending too.
    pub all: u32,
    /// Those that are ready and not ending.
    pub ready: u32,
}

impl Instances {
    /// So many of a workload.
    #[must_use]
    pub fn new(workload: WorkloadRef, all: u32, ready: u32) -> Self {
        Self { workload, all, ready }
    }
}

/// A command to run beside the application: a list of arguments, which no shell reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// In a ready pod of this workload: its name, or `stateful-set/NAME`.
    pub workload: WorkloadRef,
    /// In this container; by default the pod's first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// The pod in which it ran.
    pub pod: String,
    /// Its exit code; 0 is success.
    pub code: i32,
    /// The last line that it wrote to its standard error, or to its output; the secrets that are known are taken out.
    pub said: String,
}

/// What a person has to do where an [`Operations`] could not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Start what was stopped.
    Start(Counts),
    /// Stop what was started.
    Stop(Counts),
    /// Let the application find its old database again.
    Revert {
        /// The namespace.
        namespace: String,
        /// Where it finds it.
        connection: Connection,
    },
}

/// Stops and starts a whole application, and tells it where its database is.
///
/// # Contract
/// - `counts` changes nothing. What this run has stopped it counts as it was before. It refuses what something else would
///   start again by itself ([`Unsupported`](ErrorKind::Unsupported)), and what another run has stopped
///   ([`AlreadyExists`](ErrorKind::AlreadyExists)).
/// - `stop` takes each workload to no instance, and writes to the object itself how many there were and which run stopped
///   it, so that a person sees it. `start` brings back what this run stopped, and takes the note away. Both begin only; they
///   may be repeated, and each undoes the other, also when it came half way. A workload that somebody scaled or made anew
///   in between is [`Drift`](ErrorKind::Drift), and is left as it is; the others are done all the same.
/// - `watch` yields the instances now and after every change until the context ends.
/// - `switch` changes the host in a [`Connection`], and keeps the value that was there in the same object: it is nowhere
///   else. Repeated, it finds its own work. `revert` brings the kept value back if the connection still points to where
///   this run switched it, and does nothing if the run switched nothing; `forget` removes what was kept, after which there
///   is nothing to revert. What somebody else wrote in between is [`Drift`](ErrorKind::Drift); a connection that another run
///   has switched is [`AlreadyExists`](ErrorKind::AlreadyExists). Every write compares with what was read.
/// - `exec` runs a command to its end; that it fails is no error, but in its result.
/// - No value of a connection is in any result, error or log.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Operations: Send + Sync + fmt::Debug {
    /// How many instances each workload is to have.
    ///
    /// # Errors
    /// As in the contract; [`NotFound`](ErrorKind::NotFound) for one that is named and is not there.
    async fn counts(&self, cx: &CallContext, application: &Application) -> Result<Counts>;

    /// Begins to stop what was counted.
    ///
    /// # Errors
    /// The first one, after all were tried.
    async fn stop(&self, cx: &CallContext, counts: &Counts) -> Result<()>;

    /// Begins to start what was stopped.
    ///
    /// # Errors
    /// The first one, after all were tried.
    async fn start(&self, cx: &CallContext, counts: &Counts) -> Result<()>;

    /// The instances of what was counted, in its order, now and after every change.
    ///
    /// # Errors
    /// When the watch cannot begin.
    async fn watch(&self, cx: &CallContext, counts: &Counts) -> Result<BoxStream<'static, Result<Vec<Instances>>>>;

    /// Where a connection points to; `None` if its value does not tell.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Unsupported`](ErrorKind::Unsupported) if it could not be switched.
    async fn endpoint(&self, cx: &CallContext, namespace: &str, connection: &Connection) -> Result<Option<Endpoint>>;

    /// Points a connection elsewhere.
    ///
    /// # Errors
    /// As in the contract, and as [`endpoint`](Self::endpoint) and [`Connection::point`].
    async fn switch(&self, cx: &CallContext, namespace: &str, connection: &Connection, to: &Endpoint) -> Result<()>;

    /// Points a connection back to where it pointed before this run switched it to `from`.
    ///
    /// # Errors
    /// As in the contract, and as [`endpoint`](Self::endpoint).
    async fn revert(&self, cx: &CallContext, namespace: &str, connection: &Connection, from: &Endpoint) -> Result<()>;

    /// Removes what this run kept of the old value.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    async fn forget(&self, cx: &CallContext, namespace: &str, connection: &Connection) -> Result<()>;

    /// Runs a command in a pod, to its end.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is no such workload, or no pod of it;
    /// [`Timeout`](ErrorKind::Timeout) if it does not end, and may go on.
    async fn exec(&self, cx: &CallContext, namespace: &str, request: &ExecRequest) -> Result<ExecResult>;

    /// Commands with which a person does it. Asks nobody.
    fn by_hand(&self, repair: &Repair) -> Vec<String>;
}

/// Told the instances of every workload on the way.
pub type SeeInstances<'a> = &'a (dyn for<'b> Fn(&'b [Instances]) + Send + Sync);

/// Comfort on top of any [`Operations`].
#[async_trait]
pub trait OperationsExt {
    /// Waits until no instance of any workload is left, not even one that is ending. `seen` is told how far it is.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with what is left.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting.
    async fn wait_stopped(&self, cx: &CallContext, counts: &Counts, seen: SeeInstances<'_>) -> Result<()>;

    /// Waits until every workload has as many ready instances as were counted. `seen` is told how far it is.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] at the context's deadline, with what is missing.
    ///
    /// # Cancellation
    /// Safe: nothing is changed by waiting.
    async fn wait_started(&self, cx: &CallContext, counts: &Counts, seen: SeeInstances<'_>) -> Result<()>;
}

#[async_trait]
impl<O: Operations + ?Sized> OperationsExt for O {
    async fn wait_stopped(&self, cx: &CallContext, counts: &Counts, seen: SeeInstances<'_>) -> Result<()> {
        let left = |now: &Instances, _: &Count| {
            (now.all > 0).then(|| format!("{} has {} instances left", now.workload, now.all))
        };
        wait(self, cx, counts, "wait until the application is stopped", seen, &left).await
    }

    async fn wait_started(&self, cx: &CallContext, counts: &Counts, seen: SeeInstances<'_>) -> Result<()> {
        let missing = |now: &Instances, of: &Count| {
            let wanted = of.at_start();
            (now.ready < wanted).then(|| format!("{} has {} of {wanted} instances ready", now.workload, now.ready))
        };
        wait(self, cx, counts, "wait until the application runs", seen, &missing).await
    }
}

/// The pause before a watch that broke off is begun again.
const AGAIN: Duration = Duration::from_secs(1);

async fn wait<O: Operations + ?Sized>(
    operations: &O,
    cx: &CallContext,
    counts: &Counts,
    operation: &'static str,
    seen: SeeInstances<'_>,
    open: &(dyn Fn(&Instances, &Count) -> Option<String> + Send + Sync),
) -> Result<()> {
    if counts.workloads.is_empty() {
        return Ok(());
    }
    let mut last = vec!["nothing is known of it yet".to_owned()];
    let watching = async {
        loop {
            let mut states = operations.watch(cx, counts).await?;
            while let Some(now) = states.next().await {
                let now = now?;
                seen(&now);
                last = now.iter().zip(&counts.workloads).filter_map(|(now, of)| open(now, of)).collect();
                if last.is_empty() {
                    return Ok(());
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    cx.run("moodify", operation, watching).await.map_err(|e| match e.kind() {
        ErrorKind::Timeout if cx.remaining().is_zero() => {
            let message = format!("not over at the deadline: {}", last.join("; "));
            Error::new(ErrorKind::Timeout, "moodify", operation, message).on(counts.namespace.as_str())
        }
        _ => e,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_all_or_what_is_named_and_not_what_is_excepted() {
        let [a, b] = ["a", "b"].map(WorkloadRef::deployment);
        let all = Application::all_of("shop");
        assert!(all.has(&a) && all.has(&b));
        let named = all.clone().workloads(std::slice::from_ref(&a));
        assert!(named.has(&a) && !named.has(&b));
        assert!(!all.except(std::slice::from_ref(&a)).has(&a));
    }

    #[test]
    fn what_starts_again_fits_its_autoscaler() {
        let count = |replicas| Count {
            workload: WorkloadRef::deployment("web"),
            uid: String::new(),
            replicas,
            autoscaler: Some(Autoscaler { name: "web".into(), min: 2, max: 4 }),
        };
        for (before, after) in [(0, 0), (1, 2), (3, 3), (9, 4)] {
            assert_eq!(count(before).at_start(), after);
        }
    }
}
