//! Releases that are killed at every point, and carried on by another process.
//!
//! A [`Story`] is a release and how it is to end. It is told once without a crash; every record of its journal and
//! every request that changed something is then a [`Point`] at which a process is killed, with nothing left to it:
//! `SIGKILL`, from inside, just before or just after. Another process carries the run on. [`sweep`] does so for all
//! points, side by side, and compares the world with what it was, what it should be, and what it was on the way.

mod case;
mod driver;
mod point;
mod stage;
mod story;
mod sweep;
mod world;

pub use driver::{Order, drive, kill_self};
pub use point::{Point, Side, Spot, label};
pub use story::{Story, stories};
pub use sweep::sweep;
