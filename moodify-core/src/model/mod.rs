//! Values only: what ships, where to, and the plan of it. Nothing in here waits.

mod config;
mod data_plane;
mod environment;
mod ids;
mod layout;
mod period;
mod phases;
mod plan;
mod release;

pub use config::{ConfigKind, ConfigRefs, ConfigVersion};
pub use data_plane::DataPlane;
pub use environment::{Environment, EnvironmentKind};
pub use ids::RunId;
pub use layout::{Color, Layout};
pub use period::Period;
pub use phases::Phases;
pub(crate) use phases::{PlannedStep, Shared};
pub(crate) use plan::{HAND_OVER, LEAVE, ROLL_BATCH, STOP};
pub use plan::{Phase, Plan, RetryPolicy, Step};
pub use release::{ImageRef, Release, Routing, Service, Target, Track, Weight, WorkloadKind};
