//! `status`: what the journal says, of all runs or of one. Works while another process drives them.

use jiff::Timestamp;
use moodify_core::error::ErrorRecord;
use moodify_core::journal::{Answer, Kept, Next, Outcome, RunState, StepState, StepStatus, UndoStatus};
use moodify_core::model::Step;
use moodify_core::{Engine, Error, RunId};
use serde::Serialize;
use serde_json::Value;

use crate::args::{Global, Output, Status};
use crate::exit::{Exit, Stop};
use crate::runs::Journal;
use crate::show::{ending, length, phase_name, say, step_words};
use crate::{runs, runtime, simulate};

/// One run, as `--output json` and `export` show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    run: RunId,
    plan: String,
    version: String,
    environment: String,
    /// `running`, `paused`, `waiting`, `going back`, `interrupted`, or how it ended.
    state: String,
    since: Timestamp,
    /// The step that it is at.
    at: Option<String>,
    by: String,
    created: Timestamp,
    simulated: bool,
    /// The completed run that it takes back.
    undoes: Option<RunId>,
    /// Who drives it now.
    driven_by: Option<String>,
    paused: Option<String>,
    going_back: Option<String>,
    outcome: Option<Outcome>,
    summary: Option<String>,
    /// What a person can type, in this order, when it could not be taken back.
    by_hand: Vec<String>,
    phases: Vec<PhaseReport>,
}

#[derive(Debug, Serialize)]
struct PhaseReport {
    name: String,
    /// Whether its steps run at once.
    parallel: bool,
    steps: Vec<StepReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct StepReport {
    name: String,
    action: String,
    what: String,
    state: &'static str,
    attempts: u32,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Value>,
}

/// A run that can be read, or why it cannot.
type Read = Result<Report, (RunId, Error)>;

pub(crate) fn status(args: &Status, global: &Global) -> Result<Exit, Stop> {
    runtime()?.block_on(async {
        let json = global.output == Some(Output::Json);
        if args.run.is_none() && !runs::any(global) {
            say(if json { "[]" } else { "no runs yet" });
            return Ok(Exit::Completed);
        }
        let journal = runs::open(global).await?;
        match &args.run {
            Some(run) => {
                let report = report(&journal, run).await?;
                say(&if json { format!("{:#}", to_json(&report)) } else { detail(&report) });
            }
            None => {
                let mut all: Vec<Read> = Vec::new();
                for run in journal.list().await?.into_iter().rev() {
                    // One damaged run must not hide the others.
                    all.push(report(&journal, &run).await.map_err(|e| (run, e)));
                }
                if args.unfinished {
                    all.retain(|read| read.as_ref().map_or(true, |report| report.outcome.is_none()));
                }
                say(&if json { format!("{:#}", list_json(&all)) } else { table(&all) });
            }
        }
        Ok(Exit::Completed)
    })
}

fn to_json(report: &Report) -> Value {
    serde_json::to_value(report).unwrap_or_default()
}

fn list_json(all: &[Read]) -> Value {
    let one = |read: &Read| match read {
        Ok(report) => to_json(report),
        Err((run, e)) => serde_json::json!({"run": run, "state": "unreadable", "error": e.to_record()}),
    };
    all.iter().map(one).collect()
}

/// What the journal says of a run.
pub(crate) async fn report(journal: &Journal, run: &RunId) -> moodify_core::Result<Report> {
    let state = Engine::new(journal.clone(), moodify_core::Backends::default()).state(run).await?;
    let driven_by = journal.holder(run).await?;
    let phase = |phase: &moodify_core::model::Phase| PhaseReport {
        name: phase.name.clone(),
        parallel: phase.parallel,
        steps: phase
            .steps
            .iter()
            .map(|step| step_report(step, state.steps.get(&step.name).map(AsRef::as_ref)))
            .collect(),
    };
    let (outcome, summary) = state.ended.clone().unzip();
    let by_hand = state.steps.values().find(|step| !step.by_hand.is_empty());
    Ok(Report {
        run: run.clone(),
        plan: state.plan.name.clone(),
        version: state.plan.release.version.clone(),
        environment: state.plan.environment.name.clone(),
        state: state_words(&state, driven_by.is_some()),
        since: state.updated,
        at: at(&state),
        by: state.by.clone(),
        created: state.created,
        simulated: simulate::is_simulated(&state.plan),
        driven_by: driven_by.filter(|_| state.ended.is_none()),
        paused: state.paused.as_ref().map(pause_words),
        going_back: state.rollback.as_ref().map(ToString::to_string),
        undoes: state.undoes.clone(),
        outcome,
        summary,
        by_hand: by_hand.map(|step| step.by_hand.clone()).unwrap_or_default(),
        phases: state.plan.phases.iter().map(phase).collect(),
    })
}

fn pause_words(pause: &Answer) -> String {
    let reason = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
    format!("by {}{reason}", pause.by)
}

fn state_words(state: &RunState, driven: bool) -> String {
    let held = state.steps.values().any(|step| step.held.is_some());
    let words = match &state.ended {
        Some((outcome, _)) => return outcome.to_string(),
        None if state.rollback.is_some() => "going back",
        None if state.paused.is_some() => "paused",
        None if held => "waiting",
        None => "running",
    };
    match (driven, words) {
        (true, words) => words.to_owned(),
        (false, "running" | "waiting") => "interrupted".to_owned(),
        (false, words) => format!("{words}, interrupted"),
    }
}

/// The step that a run is at.
fn at(state: &RunState) -> Option<String> {
    match state.next() {
        Next::Run(steps) => Some(steps.join(", ")),
        Next::Undo(step) => Some(step),
        _ => None,
    }
}

fn step_report(step: &Step, state: Option<&StepState>) -> StepReport {
    let state = state.cloned().unwrap_or_default();
    let (words, error) = match (&state.undo, &state.status) {
        (UndoStatus::Finished, _) => ("taken back", None),
        (UndoStatus::Running(_), _) => ("being taken back", None),
        (UndoStatus::Failed(error), _) => ("cannot be taken back", Some(error)),
        (UndoStatus::None, StepStatus::Pending) => ("to come", None),
        (UndoStatus::None, StepStatus::Running) => ("running", None),
        (UndoStatus::None, StepStatus::Retrying(error)) => ("being tried again", Some(error)),
        (UndoStatus::None, StepStatus::Finished(_)) => ("done", None),
        (UndoStatus::None, StepStatus::Failed(error)) => ("failed", Some(error)),
    };
    StepReport {
        name: step.name.clone(),
        action: step.action.clone(),
        what: step_words(step),
        state: words,
        attempts: state.attempts,
        seconds: state.spent.as_secs_f64(),
        error: error.map(|error| (**error).clone()),
        waits_for: state.held,
        checkpoint: state.checkpoint.as_ref().map(Kept::value),
    }
}

fn minute(time: Timestamp) -> String {
    time.strftime("%F %H:%MZ").to_string()
}

fn table(all: &[Read]) -> String {
    if all.is_empty() {
        return "no runs yet".to_owned();
    }
    let head = ["RUN", "PLAN", "VERSION", "ENVIRONMENT", "STATE", "SINCE", "AT"].map(str::to_owned);
    let row = |read: &Read| match read {
        Ok(r) => {
            let simulated = if r.simulated { " (simulated)" } else { "" };
            [
                r.run.to_string(),
                r.plan.clone(),
                r.version.clone(),
                r.environment.clone(),
                format!("{}{simulated}", r.state),
                minute(r.since),
                r.at.clone().unwrap_or_default(),
            ]
        }
        Err((run, e)) => {
            let [plan, version, environment, since] = [(); 4].map(|()| String::new());
            [run.to_string(), plan, version, environment, "unreadable".to_owned(), since, e.to_string()]
        }
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(all.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn detail(report: &Report) -> String {
    let simulated = if report.simulated { ", simulated" } else { "" };
    let mut lines = vec![
        format!("{} {} to {}", report.plan, report.version, report.environment),
        format!("run {}, begun by {} at {}{simulated}", report.run, report.by, minute(report.created)),
        format!("{} since {}", report.state, minute(report.since)),
    ];
    let mut add = |what: &str, value: &Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{what} {value}"));
        }
    };
    add("driven by", &report.driven_by);
    add("paused", &report.paused);
    add("going back because of", &report.going_back);
    add("takes back", &report.undoes.as_ref().map(ToString::to_string));
    if let (Some(outcome), Some(summary)) = (report.outcome, &report.summary) {
        let (text, commands) = ending(outcome, summary, &report.by_hand);
        lines.push(text);
        lines.extend(commands);
    }
    let steps = || report.phases.iter().flat_map(|phase| &phase.steps);
    let name_width = steps().map(|step| step.name.chars().count()).max().unwrap_or_default();
    for phase in &report.phases {
        lines.push(String::new());
        lines.push(phase_name(&phase.name, phase.parallel));
        lines.extend(phase.steps.iter().flat_map(|step| step_lines(step, name_width)));
    }
    lines.join("\n")
}

fn step_lines(step: &StepReport, width: usize) -> Vec<String> {
    let spent = std::time::Duration::from_secs_f64(step.seconds);
    let spent = if step.attempts > 0 { length(spent) } else { String::new() };
    let attempts = if step.attempts > 1 { format!(", {} attempts", step.attempts) } else { String::new() };
    let baked = step.checkpoint.as_ref().and_then(|data| data["elapsed"].as_str());
    let baked = baked.filter(|_| step.state != "done").map(|time| format!(", {time} counted")).unwrap_or_default();
    let mut lines =
        vec![format!("  {:width$}  {:17} {spent:>7}  {}{attempts}{baked}", step.name, step.state, step.what)];
    let more = step.error.as_ref().map(ToString::to_string).into_iter();
    let more = more.chain(step.waits_for.as_ref().map(|why| format!("waits: {why}")));
    lines.extend(more.map(|text| format!("  {:width$}  {text}", "")));
    lines
}
