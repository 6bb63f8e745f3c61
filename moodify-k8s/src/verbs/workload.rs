use std::fmt;
use std::str::FromStr;

use moodify_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::client::{DAEMON_SET, DEPLOYMENT, Kind, Object, STATEFUL_SET};
use crate::error::BACKEND;

/// What kind of object runs pods by a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkloadKind {
    /// Pods that are all alike.
    Deployment,
    /// Pods with names and volumes of their own.
    StatefulSet,
    /// A pod on every node.
    DaemonSet,
}

impl WorkloadKind {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Deployment => DEPLOYMENT,
            Self::StatefulSet => STATEFUL_SET,
            Self::DaemonSet => DAEMON_SET,
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
        })
    }
}

/// A workload by kind and name, written `deployment/backend`.
///
/// ```
/// use moodify_k8s::verbs::Workload;
/// assert_eq!("deploy/backend".parse::<Workload>().unwrap(), Workload::deployment("backend"));
/// assert_eq!(Workload::stateful_set("db").to_string(), "statefulset/db");
/// assert!("service/backend".parse::<Workload>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// A Deployment.
    #[must_use]
    pub fn deployment(name: impl Into<String>) -> Self {
        Self { kind: WorkloadKind::Deployment, name: name.into() }
    }

    /// A StatefulSet.
    #[must_use]
    pub fn stateful_set(name: impl Into<String>) -> Self {
        Self { kind: WorkloadKind::StatefulSet, name: name.into() }
    }

    /// A `DaemonSet`.
    #[must_use]
    pub fn daemon_set(name: impl Into<String>) -> Self {
        Self { kind: WorkloadKind::DaemonSet, name: name.into() }
    }

    pub(super) fn object(&self, namespace: &str) -> Object {
        Object::new(self.kind.kind(), namespace, &self.name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl FromStr for Workload {
    type Err = Error;

    /// `KIND/NAME`, with kubectl's short names, plurals and `.apps`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || {
            let message = format!("{text:?} is no workload");
            Error::new(ErrorKind::Invalid, BACKEND, "name a workload", message)
                .hint("write deployment/NAME, statefulset/NAME or daemonset/NAME")
        };
        let (kind, name) = text.split_once('/').ok_or_else(invalid)?;
        let kind = match kind.strip_suffix(".apps").unwrap_or(kind) {
            "deployment" | "deployments" | "deploy" => WorkloadKind::Deployment,
            "statefulset" | "statefulsets" | "sts" => WorkloadKind::StatefulSet,
            "daemonset" | "daemonsets" | "ds" => WorkloadKind::DaemonSet,
            _ => return Err(invalid()),
        };
        if name.is_empty() || name.contains('/') {
            return Err(invalid());
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

impl TryFrom<String> for Workload {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Workload> for String {
    fn from(workload: Workload) -> Self {
        workload.to_string()
    }
}
