//! Strategies make phases of steps. Pure: what they know is the release and their own settings.

mod ratio;

pub use ratio::{Split, split};
