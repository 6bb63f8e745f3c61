use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Action, CheckContext, Observed, StepContext, cache};
use crate::backend::{CacheEntry, WarmRequest, Warmed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Period;

/// Writes the entries of a file that a cache does not have. Undone, they stay: they are as good for the old version,
/// and go when their time is over.
#[derive(Debug)]
pub(super) struct WarmCache;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// The cache, by its name among the backends.
    cache: String,
    /// A file with one entry a line: `{"key": "mood:7", "value": "happy", "ttl": "1h"}`; an entry without `ttl` stays for
    /// the time that the step says.
    entries: PathBuf,
    /// How long entries stay that do not say it themselves; for ever if it is left out.
    ttl: Option<Period>,
    /// The most entries a second; as fast as the cache can if it is left out.
    keys_per_second: Option<NonZeroU32>,
    /// For how long the hit rate is measured when all is written; not at all if it is left out.
    measure_for: Option<Period>,
}

/// What a `cache-warm` step gives to later ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WarmedCache {
    /// What became of the entries.
    pub entries: Warmed,
    /// Hits of all look-ups before, as a fraction; `None` if nothing had been looked up.
    pub hit_rate_before: Option<f64>,
    /// Hits of the look-ups while entries were written; `None` if there were none.
    pub hit_rate_since: Option<f64>,
    /// Hits of the look-ups in the time that was measured afterwards; `None` if there were none, or nothing was measured.
    #[serde(default)]
    pub hit_rate_after: Option<f64>,
}

/// A hit rate, for people.
fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "unknown (nothing was looked up)".to_owned(), |rate| format!("{rate:.3}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: String,
    ttl: Option<Period>,
}

/// The entries of a file, one after the other. An error tells the line, and nothing that stands in it.
fn entries(file: &Path, ttl: Option<Period>) -> Result<impl Iterator<Item = Result<CacheEntry>> + Send + use<>> {
    let name = file.display().to_string();
    let invalid =
        move |message: String| Error::new(ErrorKind::Invalid, "engine", "read entries", message).on(name.clone());
    let open = File::open(file).map_err(|e| invalid(e.to_string()))?;
    let lines = BufReader::new(open).lines().enumerate();
    let blank = |line: &(usize, std::io::Result<String>)| line.1.as_ref().is_ok_and(|text| text.trim().is_empty());
    Ok(lines.filter(move |line| !blank(line)).map(move |(at, text)| {
        let text = text.map_err(|e| invalid(format!("line {}: {e}", at + 1)))?;
        let line: Line = serde_json::from_str(&text).map_err(|e| {
            let what =
                format!("line {}, column {}: not {{\"key\": .., \"value\": .., \"ttl\": ..}}", at + 1, e.column());
            invalid(what)
        })?;
        let entry = CacheEntry::new(line.key, line.value);
        Ok(match line.ttl.or(ttl) {
            Some(ttl) if ttl == Period::ZERO => return Err(invalid(format!("line {}: ttl is zero", at + 1))),
            Some(ttl) => entry.ttl(ttl),
            None => entry,
        })
    }))
}

#[async_trait]
impl Action for WarmCache {
    type Params = Params;
    type Output = WarmedCache;

    fn deadline(&self, params: &Params) -> Option<Duration> {
        Some(cache::ALL_KEYS + params.measure_for.unwrap_or_default().get())
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let mut wrong = Vec::new();
        wrong.extend(cache::check(cx, &params.cache, "be warmed", |can| can.warm).err());
        match entries(&params.entries, params.ttl) {
            // Enough to see what is wrong with the file.
            Ok(entries) => wrong.extend(entries.filter_map(Result::err).take(10)),
            Err(e) => wrong.push(e),
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<WarmedCache> {
        let admin = cache::admin(cx, &params.cache)?;
        let entries = futures::stream::iter(entries(&params.entries, params.ttl)?).boxed();
        let mut request = WarmRequest::new();
        request.keys_per_second = params.keys_per_second;
        let before = admin.info(&cx.call()?).await?;
        let (call, done) = (cx.call()?, watch::Sender::new(0));
        let entries = cache::telling(cx, &done, "handled", admin.warm(&call, entries, &request, &done)).await?;
        let after = admin.info(&cx.call()?).await?;
        cx.note(format!("{} entries written, {} were there", entries.written, entries.present));
        if entries.unsure > 0 {
            cx.note(format!("a failover may have undone up to {} of them; warm again to be sure", entries.unsure));
        }
        let mut warmed = WarmedCache {
            entries,
            hit_rate_before: before.hit_rate(),
            hit_rate_since: after.hit_rate_since(&before),
            hit_rate_after: None,
        };
        if let Some(period) = params.measure_for {
            tokio::time::sleep(period.get()).await;
            warmed.hit_rate_after = admin.info(&cx.call()?).await?.hit_rate_since(&after);
            let (before, since) = (rate(warmed.hit_rate_before), rate(warmed.hit_rate_after));
            cx.note(format!("hit rate {before} before, {since} in the {period} after"));
        }
        Ok(warmed)
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<WarmedCache>> {
        // What is there is not written twice.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &Params, _: Option<&WarmedCache>) -> Result<()> {
        Ok(())
    }
}
