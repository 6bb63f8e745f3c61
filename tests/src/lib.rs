//! The rig that starts real components, and the end-to-end tests on them.
