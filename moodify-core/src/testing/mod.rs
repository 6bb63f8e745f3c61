//! For tests: a mock of each trait and the Simulator, which is all backends in memory on a virtual clock.

pub mod mocks {
    //! A `mockall` mock of each backend trait.
    pub use crate::backend::mocks::*;
}
