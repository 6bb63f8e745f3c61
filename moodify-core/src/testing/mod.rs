//! For tests: a mock of each trait, the Simulator, which is all backends in memory on a virtual clock with faults on
//! demand, and the contracts of the traits as suites that every implementation can be put to.

pub mod conformance;
pub mod journal;
mod simulator;

pub use simulator::{
    Answer, BackendKind, BackupScript, Behaviour, Call, CommandScript, Delivery, Edit, Edited, Fault, Faults, Flow,
    JobScript, Outage, People, Percent, Rule, Scenario, ServiceView, Settings, SimArtifact, SimBackup, SimConnection,
    SimIncident, SimLiveRestore, SimNode, SimRestored, Simulator, SimulatorBuilder, World, Write,
};

pub mod mutation {
    //! Ways to break moodify on purpose, to show that tests would notice.
    pub use crate::mutation::{Mutation, on, set};
}

pub mod mocks {
    //! A `mockall` mock of each backend trait.
    pub use crate::backend::mocks::*;
}
