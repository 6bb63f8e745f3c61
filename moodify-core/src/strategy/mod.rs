//! Strategies make phases of steps. Pure: what they know is the release and their own settings.

mod blue_green;
mod canary;
mod database_rollback;
mod mirrored;
mod ratio;
mod rolling;
mod steps;
mod testers;

pub use blue_green::BlueGreen;
pub use canary::{Bake, Canary};
pub use database_rollback::{Check, DatabaseRollback};
pub use mirrored::Mirrored;
pub use ratio::{Split, batch, split};
pub use rolling::{Recreate, Rolling};
pub use testers::TestingFirst;
