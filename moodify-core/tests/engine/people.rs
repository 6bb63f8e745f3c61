//! Who only tells people: what is owed to them is told later, and a run never waits for it.

use std::time::Duration;

use moodify_core::ErrorKind;
use moodify_core::action::Registry;
use moodify_core::backend::{Audience, IncidentStatus};
use moodify_core::engine::Ending;
use moodify_core::journal::{Outcome, Record};
use moodify_core::model::{Phase, Plan, RunId, Step};
use moodify_core::testing::{BackendKind, Fault, Rule, Scenario, Simulator};
use serde_json::{Value, json};

use crate::common::{Stage, on_virtual_time, outcome, plan};

fn step(name: &str, action: &str, with: &Value) -> Step {
    serde_json::from_value(json!({"name": name, "action": action, "with": with})).unwrap()
}

fn page(name: &str, status: &str) -> Step {
    step(name, "status-page", &json!({"status": status, "message": format!("{name} of {{{{release}}}}")}))
}

fn wait(name: &str, time: &str) -> Step {
    step(name, "wait", &json!({"period": time}))
}

fn of(steps: Vec<Step>) -> Plan {
    let mut plan = plan();
    plan.environment.gates.clear();
    plan.environment.backups.clear();
    plan.phases = vec![Phase { name: "all".into(), parallel: false, steps }].into();
    plan
}

fn stage(steps: Vec<Step>) -> Stage {
    let plan = of(steps);
    let simulator = Simulator::for_plan(&plan, Scenario::default());
    Stage::new(plan, simulator)
}

fn summary(ending: &Ending) -> &str {
    match ending {
        Ending::Ended(_, summary) => summary,
        Ending::Interrupted => panic!("interrupted"),
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_page_that_was_down_is_told_the_newest_by_the_next_step() {
    on_virtual_time(async {
        let steps = vec![
            page("begin", "investigating"),
            wait("settle", "5m"),
            page("watch", "monitoring"),
            page("done", "resolved"),
        ];
        let stage = stage(steps);
        stage.simulator.faults().partition(BackendKind::StatusPage, secs(0), secs(120));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "nothing is owed any more: {ending:?}");
        assert!(!summary(&ending).contains("begin"), "{ending:?}");
        let incidents = stage.simulator.world().incidents();
        assert!(incidents.len() == 1 && !incidents[0].is_open(), "{incidents:?}");
        assert!(incidents[0].incident.message.starts_with("done of "), "{incidents:?}");
    });
}

/// When a step of a run began and when it finished, after the run was created.
async fn times(stage: &Stage, run: &RunId, step: &str) -> (Duration, Duration) {
    let entries = stage.journal.load(run).await.unwrap();
    let at = |wanted: &dyn Fn(&Record) -> bool| {
        let entry = entries.iter().find(|entry| wanted(&entry.record)).unwrap();
        entry.time.duration_since(entries[0].time).unsigned_abs()
    };
    let began = at(&|record| matches!(record, Record::StepStarted { step: of, .. } if of == step));
    (began, at(&|record| matches!(record, Record::StepFinished { step: of, .. } if of == step)))
}

#[test]
fn nothing_waits_for_a_page_or_a_message_and_both_are_told_in_order() {
    on_virtual_time(async {
        let tell = |name: &str| step(name, "notify", &json!({"title": name}));
        let steps = vec![
            page("begin", "investigating"),
            tell("hello"),
            wait("work", "20s"),
            page("watch", "monitoring"),
            tell("still"),
            wait("more", "20s"),
            page("done", "resolved"),
            tell("bye"),
        ];
        let stage = stage(steps);
        // Shorter than the patience of one step: all of it is told in the end.
        for backend in [BackendKind::StatusPage, BackendKind::Notifier] {
            stage.simulator.faults().partition(backend, secs(0), secs(50));
        }
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        for (name, begin, end) in [("work", 0, 20), ("more", 20, 40)] {
            let (began, finished) = times(&stage, &run, name).await;
            let late = (began - secs(begin), finished - secs(end));
            assert!(late.0 < secs(2) && late.1 < secs(2), "{name} waited: {began:?} to {finished:?}");
        }
        let order = stage.simulator.world().notifications();
        let titles: Vec<&str> = order.iter().map(|delivery| delivery.notification.title.as_str()).collect();
        let mut once = titles.clone();
        once.dedup();
        assert_eq!(once, ["hello", "still", "bye"], "{titles:?}");
        let incidents = stage.simulator.world().incidents();
        assert!(incidents.len() == 1 && !incidents[0].is_open(), "{incidents:?}");
        assert!(incidents[0].incident.message.starts_with("done of "), "{incidents:?}");
    });
}

#[test]
fn a_way_back_begins_while_a_page_hangs() {
    on_virtual_time(async {
        let stage = goes_back(vec![page("begin", "investigating")]);
        let hang = Rule::new(Fault::Hang { effect: false }).backend(BackendKind::StatusPage);
        stage.simulator.faults().add(hang.between(secs(0), secs(40)));
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        let entries = stage.journal.load(&run).await.unwrap();
        let back = entries.iter().find(|entry| matches!(entry.record, Record::RollbackStarted { .. })).unwrap();
        let took = back.time.duration_since(entries[0].time).unsigned_abs();
        assert!(took < secs(17), "it is needed after 10 s, and began after {took:?}");
    });
}

#[test]
fn a_message_that_is_owed_fails_nothing_and_is_said() {
    on_virtual_time(async {
        let stage = stage(vec![step("tell", "notify", &json!({"title": "hello"})), wait("work", "10s")]);
        stage.simulator.faults().partition(BackendKind::Notifier, secs(0), secs(100_000));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert!(summary(&ending).contains("; but tell: "), "{ending:?}");
    });
}

#[test]
fn what_is_owed_at_the_end_is_tried_once_more() {
    on_virtual_time(async {
        let steps =
            vec![page("begin", "investigating"), wait("work", "10s"), page("done", "resolved"), wait("settle", "5m")];
        let stage = stage(steps);
        stage.simulator.faults().partition(BackendKind::StatusPage, secs(5), secs(120));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert!(stage.simulator.world().open_incidents().is_empty());
        assert_eq!(stage.simulator.world().incidents().len(), 1);
    });
}

#[test]
fn what_is_still_owed_is_in_the_ending_and_only_the_newest() {
    on_virtual_time(async {
        let stage = stage(vec![page("begin", "investigating"), wait("settle", "5m"), page("done", "monitoring")]);
        stage.simulator.faults().partition(BackendKind::StatusPage, secs(0), secs(100_000));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::NeedsAttention);
        let summary = summary(&ending);
        assert!(
            summary.contains("is released") && summary.contains("done: ") && !summary.contains("begin: "),
            "{summary}"
        );
        let took = stage.simulator.world().now();
        assert!(took < secs(300 + 2 * 65), "one last try of one step, and no more: {took:?}");
    });
}

/// A run that goes back after ten seconds.
fn goes_back(pages: Vec<Step>) -> Stage {
    let probe = step("probe", "probe", &json!({"url": "http://backend/health"}));
    let stage = stage(pages.into_iter().chain([wait("work", "10s"), probe]).collect());
    let broken = Rule::new(Fault::ErrorBefore(ErrorKind::Forbidden)).backend(BackendKind::Probe);
    stage.simulator.faults().add(broken);
    stage
}

#[test]
fn on_the_way_back_one_word_is_enough() {
    on_virtual_time(async {
        let stage = goes_back(vec![page("begin", "investigating"), page("watch", "monitoring")]);
        // Longer than one undo has patience for, shorter than two.
        stage.simulator.faults().partition(BackendKind::StatusPage, secs(5), secs(100));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::RolledBack, "{ending:?}");
        assert!(stage.simulator.world().open_incidents().is_empty());
    });
}

#[test]
fn on_the_way_back_the_last_word_is_tried_once_more() {
    on_virtual_time(async {
        // Each of eight attempts looks for the incident, and updates the one that it knows.
        for (faults, wanted) in [(16, Outcome::RolledBack), (18, Outcome::NeedsAttention)] {
            let stage = goes_back(vec![page("begin", "investigating")]);
            let down = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).backend(BackendKind::StatusPage);
            stage.simulator.faults().add(down.between(secs(5), secs(1000)).times(faults));
            let (_, ending) = stage.run().await;
            assert_eq!(outcome(&ending), wanted, "{ending:?}");
            let open = stage.simulator.world().open_incidents();
            assert_eq!(open.is_empty(), wanted == Outcome::RolledBack, "{open:?}");
            if wanted == Outcome::NeedsAttention {
                assert!(summary(&ending).contains("begin could not be taken back"), "{ending:?}");
            }
        }
    });
}

#[test]
fn a_lost_answer_opens_no_second_incident() {
    on_virtual_time(async {
        let stage = stage(vec![page("begin", "investigating"), page("done", "resolved")]);
        let lost = Rule::new(Fault::ErrorAfter(ErrorKind::Timeout)).backend(BackendKind::StatusPage).operation("open");
        stage.simulator.faults().add(lost.times(2));
        let (_, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let incidents = stage.simulator.world().incidents();
        assert!(incidents.len() == 1 && !incidents[0].is_open(), "{incidents:?}");
    });
}

#[test]
fn a_maintenance_is_scheduled_begun_and_completed_as_one() {
    on_virtual_time(async {
        let window = json!({"status": "scheduled", "message": "{{services}}", "maintenance": {"starts-in": "10m", "lasts": "45m"}});
        let plan = of(vec![
            step("plan", "status-page", &window),
            wait("until-then", "10m"),
            page("begin", "investigating"),
            page("done", "resolved"),
        ]);
        let simulator = Simulator::for_plan(&plan, Scenario::default());
        let stage = Stage::new(plan, simulator);
        let early = async {
            tokio::time::sleep(secs(60)).await;
            stage.simulator.world().open_incidents()
        };
        let ((_, ending), early) = tokio::join!(stage.run(), early);
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        assert!(early.len() == 1 && early[0].incident.status == IncidentStatus::Scheduled, "{early:?}");
        assert!(early[0].incident.message.contains("backend"), "{early:?}");
        let incidents = stage.simulator.world().incidents();
        assert!(incidents.len() == 1 && !incidents[0].is_open(), "{incidents:?}");
    });
}

/// A plan whose environment tells the team by chat and by mail.
fn told(with: &Value) -> Stage {
    let mut plan = of(vec![step("tell", "notify", with)]);
    plan.environment.audiences.insert(Audience::Team, vec!["chat".into(), "mail".into()]);
    let simulator = Simulator::for_plan(&plan, Scenario::default());
    Stage::new(plan, simulator)
}

#[test]
fn an_audience_is_told_by_its_notifiers_and_nobody_twice() {
    on_virtual_time(async {
        let stage = told(&json!({
            "audience": "team", "title": "{{release}} in {{environment}}", "body": "{{outcome}}, {{run}} {{step}}",
            "link": "https://grafana.example/d/release?var-run={{run}}",
        }));
        let down = Rule::new(Fault::ErrorBefore(ErrorKind::Unavailable)).backend(BackendKind::Notifier).service("mail");
        stage.simulator.faults().add(down.times(3));
        let (run, ending) = stage.run().await;
        assert_eq!(outcome(&ending), Outcome::Completed, "{ending:?}");
        let told = stage.simulator.world().notifications();
        let names: Vec<&str> = told.iter().map(|delivery| delivery.notifier.as_str()).collect();
        assert_eq!(names, ["chat", "mail"], "chat heard it at the first attempt");
        let message = &told[0].notification;
        let (release, environment) = (&stage.plan.release.version, &stage.plan.environment.name);
        assert_eq!(message.title, format!("{release} in {environment}"));
        assert_eq!(message.body, format!("as planned, {run} tell"));
        assert_eq!(message.link.as_ref().unwrap().as_str(), format!("https://grafana.example/d/release?var-run={run}"));
    });
}

#[test]
fn what_cannot_be_told_is_refused_when_the_plan_is_checked() {
    on_virtual_time(async {
        for (with, said) in [
            (json!({"title": "x", "audience": "support"}), "names no notifier for the audience support"),
            (json!({"title": "x", "audience": "team", "to": "chat"}), "name one of them"),
            (json!({"title": "x", "to": "pigeons", "audience": null}), "there is no notifier \"pigeons\""),
            (json!({"title": "x", "link": "https://host/?api_token=planted"}), "with.link: a link holds no secret"),
            (json!({"title": "x", "link": "{{run}}"}), "with.link: a link begins with"),
            (json!({"title": "x", "resolved": true}), "and not what"),
            (json!({"title": "{{relase}}"}), "did you mean {{release}}?"),
        ] {
            let stage = told(&with);
            let backends = Simulator::for_plan(&stage.plan, Scenario::default()).backends();
            let engine = moodify_core::Engine::new(stage.journal.clone(), backends);
            let findings = engine.check(&stage.plan).await;
            let all = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(all.contains(said) && !all.contains("planted"), "{with}: {all}");
        }
        for (with, said) in [
            (json!({"status": "scheduled", "message": "m"}), "needs `maintenance`"),
            (
                json!({"status": "resolved", "message": "m", "maintenance": {"lasts": "1m"}}),
                "with the status `scheduled`",
            ),
            (json!({"status": "scheduled", "message": "m", "maintenance": {"lasts": "0s"}}), "no time at all"),
        ] {
            let stage = stage(vec![step("page", "status-page", &with)]);
            let findings = stage.engine.check(&stage.plan).await;
            assert!(findings.len() == 1 && findings[0].to_string().contains(said), "{findings:?}");
        }
    });
}

#[test]
fn an_unknown_placeholder_is_refused_with_its_place() {
    let registry = Registry::with_builtins();
    for (kind, with, place) in [
        ("notify", json!({"title": "x", "body": "{{relase}}"}), "/body"),
        ("status-page", json!({"status": "resolved", "message": "{{who}}"}), "/message"),
    ] {
        let mistakes = registry.get(kind).unwrap().read_params(&with).unwrap_err();
        assert!(mistakes.len() == 1 && mistakes[0].pointer == place, "{mistakes:?}");
        assert!(mistakes[0].message.contains("nothing is filled in for"), "{mistakes:?}");
    }
}
