//! Values only: what ships, where to, and the plan of it. Nothing in here waits.

mod environment;
mod ids;
mod period;
mod phases;
mod plan;
mod release;

pub use environment::{Environment, EnvironmentKind};
pub use ids::RunId;
pub use period::Period;
pub use phases::Phases;
pub(crate) use phases::{PlannedStep, Shared};
pub use plan::{Phase, Plan, RetryPolicy, Step};
pub use release::{ImageRef, Release, Routing, Service, Target, Track, Weight};
