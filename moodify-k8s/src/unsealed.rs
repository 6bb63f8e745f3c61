//! Without the feature `age` nothing is encrypted, and so no Secret is backed up.

use std::path::Path;

use moodify_core::backend::ConfigurationFile;
use moodify_core::{Error, ErrorKind, Result};

use crate::error::BACKEND;

fn unsupported() -> Error {
    let why = "moodify-k8s was built without its feature `age`, so that it can neither encrypt nor decrypt Secrets";
    let hint = "nothing was done; build it with the feature, or leave Secrets out";
    Error::new(ErrorKind::Unsupported, BACKEND, "encrypt the Secrets", why).hint(hint)
}

pub(crate) fn check(keys: &[String]) -> Result<()> {
    if keys.is_empty() { Ok(()) } else { Err(unsupported()) }
}

pub(crate) fn seal(_: &[String], _: &ConfigurationFile) -> Result<ConfigurationFile> {
    Err(unsupported())
}

#[expect(clippy::unused_async, reason = "with the feature it waits for a file")]
pub(crate) async fn open(_: Option<&Path>, _: &ConfigurationFile) -> Result<String> {
    Err(unsupported())
}
