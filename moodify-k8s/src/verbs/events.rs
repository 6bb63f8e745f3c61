use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::runtime::watcher;
use moodify_core::{CallContext, Result};
use serde::{Deserialize, Serialize};

use super::age::ago;
use super::rows::count;
use super::table::Row;
use super::{Select, Verbs};
use crate::client::{EVENT, typed, until_error};
use crate::error::{Access, Ask};

/// Something that happened to an object, as `kubectl events` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventRow {
    /// The namespace.
    pub namespace: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// Why, in one word: `BackOff`, `FailedScheduling`.
    pub reason: String,
    /// To what kind of object.
    pub object_kind: String,
    /// To which object.
    pub object: String,
    /// What, in a sentence.
    pub message: String,
    /// How often.
    pub count: u32,
    /// When first.
    pub first: Option<Timestamp>,
    /// When last.
    pub last: Option<Timestamp>,
    /// Who says so.
    pub source: String,
}

impl EventRow {
    pub(super) fn of(event: &Event) -> Self {
        let at = event.event_time.as_ref().map(|t| t.0);
        let first = at.or(event.first_timestamp.as_ref().map(|t| t.0));
        let series = event.series.as_ref();
        let seen = series.and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
        let source = event.source.as_ref().and_then(|s| s.component.clone());
        Self {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            kind: event.type_.clone().unwrap_or_default(),
            reason: event.reason.clone().unwrap_or_default(),
            object_kind: event.involved_object.kind.clone().unwrap_or_default(),
            object: event.involved_object.name.clone().unwrap_or_default(),
            message: event.message.as_deref().unwrap_or_default().trim().to_owned(),
            count: count(series.map_or(event.count, |s| s.count)).max(1),
            first,
            last: seen.or(event.last_timestamp.as_ref().map(|t| t.0)).or(first),
            source: source.or_else(|| event.reporting_component.clone()).unwrap_or_default(),
        }
    }

    /// Whether it happened last no longer ago than that.
    pub(super) fn is_within(&self, age: Duration, now: Timestamp) -> bool {
        self.last.is_some_and(|last| moodify_core::clock::since(last, now) < age)
    }
}

impl Row for EventRow {
    fn columns(_wide: bool) -> &'static [&'static str] {
        &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    }

    fn cells(&self, _wide: bool, now: Timestamp) -> Vec<String> {
        let first = ago(self.first, now);
        let seen = match self.count {
            1 => first,
            count => format!("{} (x{count} over {first})", ago(self.last, now)),
        };
        let object = format!("{}/{}", self.object_kind, self.object);
        vec![seen, self.kind.clone(), self.reason.clone(), object, self.message.clone()]
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl Verbs {
    /// What happened lately, the newest last: `kubectl events`. Of one object with
    /// `Select::all().fields("involvedObject.kind=Pod,involvedObject.name=NAME")`, of warnings with
    /// `fields("type=Warning")`.
    ///
    /// # Errors
    /// When the server cannot be asked, or refuses.
    pub async fn events(&self, cx: &CallContext, select: &Select) -> Result<Vec<EventRow>> {
        let all: Vec<Event> = self.list(cx, EVENT, select).await?;
        let mut rows: Vec<EventRow> = all.iter().map(EventRow::of).collect();
        rows.sort_by_key(|row| row.last);
        Ok(rows)
    }

    /// What happened lately, the newest last, and then what happens, until the context ends: `kubectl events --watch`.
    /// One that happens again comes again, with its new count. The stream ends with an error if going on is hopeless.
    pub fn watch_events(&self, cx: &CallContext, select: &Select) -> BoxStream<'static, Result<EventRow>> {
        let ask = Ask::new(Access::Read, "watch events", self.namespace.to_string());
        let mut listed: Option<Vec<EventRow>> = None;
        let mut told: Option<Timestamp> = None;
        let rows = self.watch(cx, EVENT, select).flat_map(move |event| {
            let row = |object: kube::api::DynamicObject| {
                typed::<Event>(&ask, serde_json::to_value(object).unwrap_or_default()).map(|e| EventRow::of(&e))
            };
            let news: Vec<Result<EventRow>> = match event {
                Ok(watcher::Event::Init) => {
                    listed = Some(Vec::new());
                    Vec::new()
                }
                Ok(watcher::Event::InitApply(object)) => match row(object) {
                    Ok(row) => {
                        listed.get_or_insert_default().push(row);
                        Vec::new()
                    }
                    Err(e) => vec![Err(e)],
                },
                Ok(watcher::Event::InitDone) => {
                    let mut rows = listed.take().unwrap_or_default();
                    rows.sort_by_key(|row| row.last);
                    // A list after an interruption has what was told already.
                    let before = told.take();
                    told = rows.last().and_then(|row| row.last).max(before);
                    rows.into_iter().filter(|row| before.is_none() || row.last > before).map(Ok).collect()
                }
                Ok(watcher::Event::Apply(object)) => {
                    let row = row(object);
                    told = told.max(row.as_ref().ok().and_then(|row| row.last));
                    vec![row]
                }
                Ok(watcher::Event::Delete(_)) => Vec::new(),
                Err(e) => vec![Err(e)],
            };
            futures::stream::iter(news)
        });
        until_error(rows)
    }
}
