//! The spans of a run, and that a step that panics is a failure like any other.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use moodify_core::action::{Action, Observed, Registry, StepContext};
use moodify_core::engine::Ending;
use moodify_core::journal::{MemoryJournal, Outcome};
use moodify_core::model::RetryPolicy;
use moodify_core::testing::{Fault, Rule, Scenario, Simulator};
use moodify_core::{Engine, ErrorKind, Plan, Result, planfile};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// A span that was closed.
#[derive(Debug, Clone, Default)]
struct Closed {
    name: String,
    parent: Option<u64>,
    fields: BTreeMap<String, String>,
    closed: bool,
}

impl Visit for Closed {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// Keeps every span, in the order in which they began.
#[derive(Debug, Clone, Default)]
struct Keep(Arc<Mutex<Vec<(u64, Closed)>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keep {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        // Ids are used again: the position is the identity.
        let mut kept = self.0.lock().unwrap();
        let parent = span.parent().and_then(|p| kept.iter().rposition(|(known, _)| *known == p.id().into_u64()));
        let mut new = Closed { name: span.name().to_owned(), parent: parent.map(|p| p as u64), ..Closed::default() };
        attributes.record(&mut new);
        kept.push((id.into_u64(), new));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut kept = self.0.lock().unwrap();
        let (_, span) = kept.iter_mut().rfind(|(known, _)| *known == id.into_u64()).unwrap();
        values.record(span);
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut kept = self.0.lock().unwrap();
        let (_, span) = kept.iter_mut().rfind(|(known, _)| *known == id.into_u64()).unwrap();
        span.closed = true;
    }
}

fn plan() -> Plan {
    let text = include_str!("../../examples/plans/minimal.yaml");
    planfile::read(text, "minimal.yaml").unwrap().0.expand()
}

/// The spans of a run, by what they are called in: `run > phase rollout: 10 % > step s > attempt 1`.
fn paths(spans: &[Closed]) -> Vec<String> {
    let told = |span: &Closed| match span.name.as_str() {
        "phase" => format!("phase {}", span.fields["phase"]),
        "step" => format!("step {}", span.fields["step"]),
        "attempt" | "undo" => format!("{} {}", span.name, span.fields["attempt"]),
        other => other.to_owned(),
    };
    let path = |span: &Closed| {
        let mut path = told(span);
        let mut parent = span.parent;
        while let Some(at) = parent {
            let above = &spans[usize::try_from(at).unwrap()];
            path = format!("{} > {path}", told(above));
            parent = above.parent;
        }
        path
    };
    spans.iter().map(path).collect()
}

async fn spans_of(scenario: Scenario, faults: &[Rule]) -> (Vec<Closed>, Ending) {
    // Without a subscriber for all threads, one that has none may be the first at a span, which is then off for good.
    static EVERYWHERE: std::sync::Once = std::sync::Once::new();
    EVERYWHERE.call_once(|| tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap());
    let keep = Keep::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(keep.clone()));
    let plan = plan();
    let world = Simulator::for_plan(&plan, scenario);
    faults.iter().for_each(|rule| world.faults().add(rule.clone()));
    let engine = Engine::new(Arc::new(MemoryJournal::new()), world.backends_for(&plan)).with_clock(world.clock());
    let (run, ending) = engine.run(&plan, "ana").await.unwrap();
    let kept = keep.0.lock().unwrap().clone();
    let spans: Vec<Closed> = kept.into_iter().map(|(_, span)| span).collect();
    assert_eq!(spans[0].name, "run");
    assert_eq!((spans[0].fields["run"].as_str(), spans[0].fields["plan"].as_str()), (run.as_str(), "minimal"));
    assert_eq!(spans[0].fields["version"], "v1.2.3");
    assert!(spans.iter().all(|span| span.closed), "every span ends: {spans:#?}");
    assert!(spans.iter().all(|span| span.fields.contains_key("outcome")), "and says how: {spans:#?}");
    (spans, ending)
}

#[tokio::test(start_paused = true)]
async fn spans_are_nested_run_phase_step_attempt() {
    let flaky = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).operation("deploy").times(2);
    let (spans, ending) = spans_of(Scenario::default(), &[flaky]).await;
    assert!(matches!(ending, Ending::Ended(Outcome::Completed, _)), "{ending:?}");
    let paths = paths(&spans);
    let prepare = "run > phase rollout: prepare";
    let expected = [
        "run".to_owned(),
        prepare.to_owned(),
        format!("{prepare} > step rollout-baseline"),
        format!("{prepare} > step rollout-baseline > attempt 1"),
        format!("{prepare} > step rollout-deploy"),
        format!("{prepare} > step rollout-deploy > attempt 1"),
        format!("{prepare} > step rollout-deploy > attempt 2"),
        format!("{prepare} > step rollout-deploy > attempt 3"),
        "run > phase rollout: 10 %".to_owned(),
    ];
    assert_eq!(paths[..expected.len()], expected, "{paths:#?}");
    let outcomes: Vec<&str> = spans[4..8].iter().map(|span| span.fields["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["finished", "failed", "failed", "finished"]);
    let steps: Vec<&Closed> = spans.iter().filter(|span| span.name == "step").collect();
    assert_eq!(steps.len(), plan().steps().count(), "each step has one span, however often it is tried");
    assert_eq!(steps[1].fields["action"], "deploy-canary");
    assert_eq!(spans[0].fields["outcome"], "completed");
    let phases = spans.iter().filter(|span| span.name == "phase").map(|span| span.fields["outcome"].as_str());
    assert!(phases.clone().count() == plan().phases.len() && phases.clone().all(|outcome| outcome == "finished"));
}

#[tokio::test(start_paused = true)]
async fn the_way_back_has_spans_too() {
    let (spans, ending) = spans_of(Scenario::named("errors-at-50").unwrap(), &[]).await;
    assert!(matches!(ending, Ending::Ended(Outcome::RolledBack, _)), "{ending:?}");
    assert_eq!(spans[0].fields["outcome"], "rolled-back");
    let paths = paths(&spans);
    for path in [
        "run > phase rollout: 50 % > step rollout-bake-50 > attempt 1",
        "run > phase rollout: 50 % > step rollout-shift-50 > undo 1",
        "run > phase rollout: prepare > step rollout-deploy > undo 1",
    ] {
        assert!(paths.iter().any(|p| p == path), "{path} is missing in {paths:#?}");
    }
    let failed: Vec<&String> =
        spans.iter().zip(&paths).filter(|(s, _)| s.fields["outcome"] == "failed").map(|(_, p)| p).collect();
    let bake = "run > phase rollout: 50 %";
    let expected = [
        bake.to_owned(),
        format!("{bake} > step rollout-bake-50"),
        format!("{bake} > step rollout-bake-50 > attempt 1"),
    ];
    assert_eq!(failed, expected.iter().collect::<Vec<_>>());
}

/// Panics where it is told to.
#[derive(Debug)]
struct Careless;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct Where {
    #[serde(default)]
    execute: bool,
    #[serde(default)]
    undo: bool,
    #[serde(default)]
    fail: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Done;

#[async_trait]
impl Action for Careless {
    type Params = Where;
    type Output = Done;

    async fn execute(&self, _: &StepContext, at: &Where) -> Result<Done> {
        assert!(!at.execute, "the index is out of bounds");
        if at.fail {
            return Err(moodify_core::Error::new(ErrorKind::Unhealthy, "test", "do it", "it is not well"));
        }
        Ok(Done)
    }

    async fn observe(&self, _: &StepContext, _: &Where) -> Result<Observed<Done>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, at: &Where, _: Option<&Done>) -> Result<()> {
        assert!(!at.undo, "there was nothing to take back");
        Ok(())
    }
}

async fn careless(steps: &[(&str, serde_json::Value)]) -> (Ending, Vec<moodify_core::event::Event>) {
    let mut plan = plan();
    let step = |(name, with): &(&str, serde_json::Value)| moodify_core::model::Step {
        name: (*name).to_owned(),
        action: "careless".to_owned(),
        with: with.clone(),
        deadline: None,
        retry: RetryPolicy::default(),
    };
    plan.phases.truncate(1);
    plan.phases[0].steps = steps.iter().map(step).collect();
    let world = Simulator::for_plan(&plan, Scenario::default());
    let engine = Engine::new(Arc::new(MemoryJournal::new()), world.backends_for(&plan))
        .with_clock(world.clock())
        .with_registry(Registry::with_builtins().register("careless", Careless));
    let (run, ending) = engine.run(&plan, "ana").await.unwrap();
    let events = engine.events(&run, 1).await.unwrap();
    (ending, events)
}

#[tokio::test(start_paused = true)]
async fn a_step_that_panics_fails_once_and_is_taken_back() {
    let (ending, events) = careless(&[("panics", serde_json::json!({"execute": true}))]).await;
    let Ending::Ended(outcome, summary) = ending else { panic!("interrupted") };
    assert_eq!(outcome, Outcome::RolledBack, "{summary}");
    assert!(summary.contains("it panicked, which is a defect in it: the index is out of bounds"), "{summary}");
    assert!(summary.contains("whether it took effect is unknown"), "{summary}");
    let kinds: Vec<String> = events.iter().map(|e| serde_json::to_value(e).unwrap()["event"].to_string()).collect();
    let count = |kind: &str| kinds.iter().filter(|k| k.contains(kind)).count();
    assert_eq!((count("step-started"), count("undo-finished")), (1, 1), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_panics_calls_a_person() {
    let steps = [("first", serde_json::json!({"undo": true})), ("second", serde_json::json!({"fail": true}))];
    let (ending, _) = careless(&steps).await;
    let Ending::Ended(outcome, summary) = ending else { panic!("interrupted") };
    assert_eq!(outcome, Outcome::NeedsAttention, "{summary}");
    assert!(summary.contains("the way back stopped at first") && summary.contains("nothing to take back"), "{summary}");
}
