//! The engine on the Simulator: every scenario ends as it should, a crash at any record changes nothing about that,
//! commands are obeyed, one engine owns a run, time is what was watched.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod archive;
mod backups;
mod blue_green;
mod cache_restart;
mod caches;
mod commands;
mod common;
mod configuration;
mod configuration_backup;
mod crash;
mod data_plane;
mod database_rollback;
mod jobs;
mod leave;
mod live_restore;
mod mirror;
mod ownership;
mod peers;
mod people;
mod saga;
mod scenarios;
mod single;
mod testers;
mod time;
mod traps;
