//! Many random releases in simulated worlds, each checked against what moodify promises.
//!
//! A case comes from a seed: a plan, a world, and all that goes wrong in it ([`generate`]). It is driven to its end on a
//! virtual clock, from crash to crash and from engine to engine ([`drive`]). What then happened in the world, and not
//! what the engine says about it, is put to the promises ([`invariants`]). A case that breaks one is made smaller as long
//! as it still does ([`shrink`]), and shown ([`report`]). What was tried at all is counted ([`coverage`]).
//!
//! That a sweep would notice is shown by [`Mutation`](moodify_core::testing::mutation::Mutation)s: moodify is broken on
//! purpose, in one way after the other, and each time a case must break a promise.

pub mod case;
pub mod coverage;
pub mod drive;
pub mod generate;
pub mod invariants;
pub mod journal;
pub mod metrics;
pub mod report;
pub mod runner;
pub mod shrink;
