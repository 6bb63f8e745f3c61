//! Guides for those who extend moodify.

#[doc = include_str!("../docs/provider.md")]
///
/// ```ignore
#[doc = include_str!("../examples/provider.rs")]
/// ```
pub mod provider {}
