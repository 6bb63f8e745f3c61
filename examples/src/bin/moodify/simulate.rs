//! A world in memory, and how fast time passes in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use moodify_core::action::kinds;
use moodify_core::backend::Backends;
use moodify_core::clock::Clock;
use moodify_core::event::EventKind;
use moodify_core::journal::{Command, CommandKind, RunState};
use moodify_core::model::Plan;
use moodify_core::testing::{Scenario, Simulator};
use moodify_core::{Engine, RunId, gate};
use serde_json::{Value, json};

use crate::args::{Output, Simulation, Speed};
use crate::exit::Stop;

/// The key among a plan's backends that marks a run as simulated. Not one that a plan file may have.
const MARK: &str = "simulated";

/// Marks a plan: its run belongs to a world that ends with this process.
pub(crate) fn mark(plan: &mut Plan, args: &Simulation) {
    let scenario = args.scenario.as_deref().unwrap_or("healthy");
    plan.backends.insert(MARK.to_owned(), json!({ "scenario": scenario }));
}

/// Whether a run of this plan is simulated.
pub(crate) fn is_simulated(plan: &Plan) -> bool {
    plan.backends.contains_key(MARK)
}

/// The simulated world of a plan. Must be called inside the runtime.
pub(crate) fn world(plan: &Plan, args: &Simulation) -> Result<(Backends, Arc<dyn Clock>), Stop> {
    let mut scenario = scenario(args.scenario.as_deref().unwrap_or("healthy"))?;
    if let Some(seed) = args.seed {
        scenario = scenario.seed(seed);
    }
    let start = args.at.unwrap_or_else(|| open_time(plan));
    scenario.backups.names.extend(stores_of_names(plan));
    let simulator = Simulator::builder(&plan.targets()).scenario(scenario).starting_at(start).build();
    Ok((simulator.backends_for(plan), simulator.clock()))
}

/// The backup stores of a plan whose databases have names and no hosts.
fn stores_of_names(plan: &Plan) -> impl Iterator<Item = String> {
    let stores = plan.backends.get("backup-stores").and_then(Value::as_object).into_iter().flatten();
    stores.filter(|(_, settings)| settings["firestore"].is_object()).map(|(name, _)| name.clone())
}

/// The world after a run that completed: its release serves.
pub(crate) fn world_after(state: &RunState, args: &Simulation) -> Result<(Backends, Arc<dyn Clock>), Stop> {
    let scenario = scenario(args.scenario.as_deref().unwrap_or("healthy"))?;
    let scenario = args.seed.map_or_else(|| scenario.clone(), |seed| scenario.clone().seed(seed));
    let start = args.at.unwrap_or(state.updated);
    let builder = Simulator::builder(&state.plan.targets()).scenario(scenario).starting_at(start);
    let services = state.plan.release.services.iter();
    let builder = services.fold(builder, |builder, service| builder.running(&service.name, service.image.clone()));
    let simulator = builder.build();
    Ok((simulator.backends_for(&state.plan), simulator.clock()))
}

/// How fast time passes: at a pace that can be followed when somebody watches or is to answer.
pub(crate) fn speed(args: &Simulation, output: Output, answered: bool) -> Speed {
    let unhurried = output == Output::Progress || answered;
    args.speed.unwrap_or(if unhurried { Speed::Times(120.0) } else { Speed::Max })
}

/// Whether a plan has a step that waits for people.
pub(crate) fn asks(plan: &Plan) -> bool {
    plan.steps().any(|(_, step)| step.action == kinds::APPROVAL)
}

/// Says yes to every step that waits for approval, a minute later, as so many people as it wants: nobody else can
/// reach a run that is kept in memory. Ends never.
pub(crate) async fn people(engine: &Engine, run: &RunId) {
    const MINUTE: Duration = Duration::from_secs(60);
    let Ok(mut events) = engine.follow(run, 1).await else { return std::future::pending().await };
    while let Some(event) = events.next().await {
        let EventKind::Held { step, .. } = event.kind else { continue };
        let Ok(state) = engine.state(run).await else { continue };
        let Some(asked) = state.plan.step(&step).filter(|step| step.action == kinds::APPROVAL) else { continue };
        tokio::time::sleep(MINUTE).await;
        for person in 1..=asked.with["approvals"].as_u64().unwrap_or(1) {
            let yes = Command::new(CommandKind::Approve, &format!("simulated person {person}"), "");
            // It may be over by now.
            let _ = engine.command(run, &yes.for_step(&step)).await;
        }
    }
    std::future::pending::<()>().await;
}

/// A scenario by its name, or from a file.
fn scenario(name: &str) -> Result<Scenario, Stop> {
    if Scenario::NAMES.contains(&name) {
        return Ok(Scenario::named(name)?);
    }
    let path = Path::new(name);
    if !path.exists() {
        let known = Scenario::NAMES.join(", ");
        return Err(Stop::invalid(format!("there is no scenario {name:?}, and no such file; there are: {known}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Stop::invalid(format!("{name}: {e}")))?;
    Scenario::from_yaml(&text).map_err(|e| Stop::invalid(format!("{name}: {e}")))
}

/// A time at which the plan's gates are open: a Tuesday morning in New York, or else the next within a year.
fn open_time(plan: &Plan) -> Timestamp {
    const USUAL: Timestamp = Timestamp::constant(1_795_534_200, 0);
    let half_hours = (0..365 * 48).map(|n| USUAL + SignedDuration::from_mins(30 * n));
    let mut open = half_hours.filter(|time| gate::refusals(&plan.environment.gates, *time).is_empty());
    open.next().unwrap_or(USUAL)
}

/// A runtime whose clock stands still whenever there is something to do, and jumps when there is not.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()
}

/// Slows simulated time down to `speed`, until dropped.
///
/// It lets a frame of simulated time pass, every timer in its order, then holds the clock for a frame of real time:
/// while a blocking task runs, the clock does not jump.
pub(crate) async fn pace(speed: Speed) {
    const FRAME: Duration = Duration::from_millis(33);
    let Speed::Times(times) = speed else { return std::future::pending().await };
    let (begun, really_begun) = (tokio::time::Instant::now(), std::time::Instant::now());
    loop {
        tokio::time::sleep(FRAME.mul_f64(times)).await;
        let ahead = begun.elapsed().div_f64(times).saturating_sub(really_begun.elapsed());
        #[expect(clippy::disallowed_methods, reason = "real time is to pass here")]
        let hold = tokio::task::spawn_blocking(move || std::thread::sleep(ahead));
        // It cannot fail; without it, time would only pass faster.
        let _ = hold.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_time_keeps_the_pace_and_no_timer_is_late() {
        let really = std::time::Instant::now();
        runtime().unwrap().block_on(async {
            let begun = tokio::time::Instant::now();
            let work = async {
                for _ in 0..100 {
                    let before = tokio::time::Instant::now();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    assert!(before.elapsed() < Duration::from_millis(1010), "{:?}", before.elapsed());
                }
            };
            tokio::select! { () = work => {}, () = pace(Speed::Times(200.0)) => {} }
            assert!(begun.elapsed() >= Duration::from_secs(100));
        });
        assert!(really.elapsed() >= Duration::from_millis(430), "{:?}", really.elapsed());
    }

    #[test]
    fn the_usual_time_is_the_one_that_the_words_say() {
        let text = include_str!("../../../plans/moodify-release.yaml");
        let plan = moodify_core::planfile::read(text, "plan").unwrap().0.expand();
        assert_eq!(open_time(&plan).to_string(), "2026-11-24T15:30:00Z");
    }
}
