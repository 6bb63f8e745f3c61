//! Kubernetes backend of moodify: a [`Deployer`](moodify_core::backend::Deployer) for Deployments, traffic routers,
//! diagnostics, and a journal that keeps runs in the cluster.
//!
//! [`Kube::connect`] makes the client; [`Kube::backends`] gives everything at once. The canary of a workload `web` is
//! the Deployment `web-canary`, written by server-side apply under our own field manager and labelled with the run
//! that owns it. Nothing is retried in here but by the journal (the rest is the engine's), every request has a deadline,
//! and waiting is watching.
//!
//! ```no_run
//! # async fn connect() -> moodify_core::Result<()> {
//! use moodify_k8s::{Kube, KubeConfig};
//! let kube = Kube::connect(&KubeConfig::new().context("production")).await?;
//! let backends = kube.backends();
//! # Ok(())
//! # }
//! ```
//!
//! Traffic is divided by the number of pods or by weights in a routing object: see [`Router`] for the kinds.
//!
//! # What the server sees
//! A release of one Deployment through an `HTTPRoute` with the weights 10, 50 and 100 takes at most ten writes: the
//! canary and its Service, three weights, two changes of the number of instances, one image, the way back of the
//! route, one removal. There are none while it waits.

mod access;
mod autoscaling;
mod budgets;
mod canary;
mod client;
mod config;
mod configuration;
mod configuration_backup;
mod connection;
mod deployer;
mod diagnostics;
mod error;
mod head_room;
mod jobs;
mod journal;
mod names;
mod operations;
mod ownership;
mod patch;
mod pod;
mod preflight;
mod quota;
mod rival_scalers;
#[cfg(feature = "age")]
mod sealed;
#[cfg(not(feature = "age"))]
#[path = "unsealed.rs"]
mod sealed;
mod single;
mod traffic;
mod turns;
pub mod verbs;
mod workload;

#[cfg(test)]
mod testing;

pub use access::{roles, roles_for};
pub use client::Kube;
pub use config::KubeConfig;
pub use configuration_backup::NamespaceConfiguration;
pub use deployer::DeploymentDeployer;
pub use diagnostics::PodDiagnostics;
pub use head_room::HeadRoom;
pub use journal::KubeJournal;
pub use operations::NamespaceOperations;
pub use traffic::{NginxRouter, RouteRouter, Router, SelectorRouter};
