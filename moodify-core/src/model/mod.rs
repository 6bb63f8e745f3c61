//! Values only: what ships, where to, and the plan of it. Nothing in here waits.

mod environment;
mod ids;
mod period;
mod plan;
mod release;

pub use environment::{Environment, EnvironmentKind};
pub use ids::RunId;
pub use period::Period;
pub(crate) use plan::PlannedStep;
pub use plan::{Phase, Plan, RetryPolicy, Step};
pub use release::{ImageRef, Release, Routing, Service, Target, Track, Weight};
