//! What must hold before the first effect. Pure decisions over a time.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Something that must hold before a run changes anything (runbook, "Deployment Windows").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Gate {
    /// Open only at these times. Of several windows one must be open.
    Window(Window),
    /// Closed on these days.
    Freeze(Freeze),
}

/// Days of the week and hours of the day in a time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The days.
    pub days: Vec<Day>,
    /// From this time, inclusive: `10:00`.
    #[schemars(with = "String")]
    pub from: Time,
    /// To this time, exclusive: `14:00`.
    #[schemars(with = "String")]
    pub to: Time,
    /// The IANA time zone: `America/New_York`.
    pub zone: Zone,
}

/// Days on which nothing ships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Why, for people: `Black Friday`.
    pub reason: String,
    /// The first day.
    #[schemars(with = "String")]
    pub from: Date,
    /// The last day, inclusive.
    #[schemars(with = "String")]
    pub to: Date,
    /// The IANA time zone in which days begin.
    pub zone: Zone,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl From<Weekday> for Day {
    fn from(day: Weekday) -> Self {
        match day {
            Weekday::Monday => Self::Monday,
            Weekday::Tuesday => Self::Tuesday,
            Weekday::Wednesday => Self::Wednesday,
            Weekday::Thursday => Self::Thursday,
            Weekday::Friday => Self::Friday,
            Weekday::Saturday => Self::Saturday,
            Weekday::Sunday => Self::Sunday,
        }
    }
}

/// A time zone by its IANA name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

impl Zone {
    fn local(&self, now: Timestamp) -> Zoned {
        now.to_zoned(self.0.clone())
    }
}

impl TryFrom<String> for Zone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        TimeZone::get(&name).map(Self).map_err(|_| format!("{name:?} is not a known time zone, like America/New_York"))
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0.iana_name().unwrap_or("UTC").to_owned()
    }
}

impl JsonSchema for Zone {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Zone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "An IANA time zone.", "examples": ["America/New_York", "UTC"]})
    }
}

/// Why the gates are closed at `now`; empty if they are open. No freeze may be active, and if there are windows, one
/// of them must be open.
///
/// ```
/// use moodify_core::gate::{Gate, refusals};
/// let window: Gate = serde_json::from_str(
///     r#"{"window": {"days": ["tuesday", "wednesday", "thursday"], "from": "10:00", "to": "14:00",
///                    "zone": "America/New_York"}}"#,
/// ).unwrap();
/// let tuesday = "2026-11-24T15:30:00Z".parse().unwrap();
/// let friday = "2026-11-27T15:30:00Z".parse().unwrap();
/// assert!(refusals(&[window.clone()], tuesday).is_empty());
/// assert_eq!(refusals(&[window], friday).len(), 1);
/// ```
#[must_use]
pub fn refusals(gates: &[Gate], now: Timestamp) -> Vec<String> {
    let mut refusals = Vec::new();
    let mut windows = Vec::new();
    for gate in gates {
        match gate {
            Gate::Window(window) => windows.push(window),
            Gate::Freeze(freeze) => {
                let today = freeze.zone.local(now).date();
                if freeze.from <= today && today <= freeze.to {
                    refusals.push(format!("frozen until the end of {}: {}", freeze.to, freeze.reason));
                }
            }
        }
    }
    if !windows.is_empty() && !windows.iter().any(|window| window.is_open(now)) {
        let shown: Vec<String> = windows.iter().map(|window| window.to_string()).collect();
        refusals.push(format!("outside of the deployment window ({})", shown.join("; or ")));
    }
    refusals
}

impl Window {
    fn is_open(&self, now: Timestamp) -> bool {
        let local = self.zone.local(now);
        self.days.contains(&local.weekday().into()) && self.from <= local.time() && local.time() < self.to
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days: Vec<String> = self.days.iter().map(|day| format!("{day:?}")).collect();
        let (from, to) = (self.from.strftime("%H:%M"), self.to.strftime("%H:%M"));
        write!(f, "{}, {from} to {to} {}", days.join(", "), String::from(self.zone.clone()))
    }
}
