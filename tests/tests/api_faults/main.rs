//! Whole releases over a way to the API server on which requests meet faults: each ends as promised, the cluster is as
//! that end says, and no write is repeated blindly.

use std::time::Duration;

use moodify_tests::rig::{Fault, FaultProxy, Namespace, Passed, Rig, Rule};
use moodify_tests::scene::{Finished, Scene};
use serde_json::json;

mod in_turns;

const ROUTER: &str = "http-route";

/// A release in two weights with short bakes, by a way on which these faults are met. `None` without a rig.
async fn stage<'a>(
    namespace: &'a Namespace,
    router: &str,
    tag: &str,
    rules: Vec<Rule>,
) -> Option<(Scene<'a>, FaultProxy)> {
    let mut scene = Scene::new(namespace, &[("backend", tag)], router).await?;
    let proxy = namespace.fault_proxy().await;
    scene.plan["backends"]["kubernetes"]["kubeconfig"] = json!(proxy.kubeconfig(namespace, "dave"));
    scene.canary()["weights"] = json!([50, 100]);
    scene.canary()["bake"] = "2s".into();
    scene.canary()["analysis"]["metrics"] = json!([
        {"name": "crash-loop", "source": "pods", "fail": "> 0"},
        {"name": "unhealthy", "source": "pods", "fail": "> 50%"},
    ]);
    rules.into_iter().for_each(|rule| proxy.add(rule));
    Some((scene, proxy))
}

/// What a person reads when an assertion fails.
fn told(ledger: &[Passed]) -> String {
    let Some(first) = ledger.first() else { return String::new() };
    let line = |p: &Passed| {
        let fault = p.fault.map(|fault| format!(" met {fault:?}")).unwrap_or_default();
        let at = p.at.duration_since(first.at).as_secs_f64();
        format!("{at:7.2} {:6} {}?{} {:?}{fault}", p.verb, p.path, p.query, p.code)
    };
    ledger.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Every write whose outcome its sender could not know is followed by a look at that object before it is written again,
/// and compares at the moment of the write, so that of the two at most one takes place.
fn assert_no_write_is_repeated_blindly(ledger: &[Passed]) {
    for (number, write) in ledger.iter().enumerate().filter(|(_, p)| p.is_write()) {
        assert!(write.compares().is_some(), "{} {} does not compare: {}", write.verb, write.path, write.body);
        let is_unknown = write.fault.is_some_and(Fault::leaves_unknown);
        let after = &ledger[number + 1..];
        let again = after.iter().position(|p| p.is_write() && p.path == write.path);
        if let Some(again) = again.filter(|_| is_unknown) {
            let looked = after[..again].iter().any(|p| p.reads(&write.path));
            assert!(looked, "{} {} was repeated without a look:\n{}", write.verb, write.path, told(ledger));
        }
    }
}

/// The end is as promised: one of these outcomes, and the cluster as it says.
async fn assert_ends_well(scene: &Scene<'_>, proxy: &FaultProxy, finished: &Finished, outcomes: &[&str]) -> String {
    let ledger = proxy.ledger();
    let end = finished.events.last().unwrap_or_else(|| panic!("no end: {}\n{}", finished.stderr, told(&ledger)));
    let outcome = end["outcome"].as_str().unwrap_or_default();
    assert!(outcomes.contains(&outcome), "{end:#}\n{}\n{}", finished.stderr, told(&ledger));
    let summary = finished.ended(outcome);
    assert_no_write_is_repeated_blindly(&ledger);
    match outcome {
        "completed" if takes_turns(scene) => in_turns::assert_green_serves(scene).await,
        "completed" => scene.assert_serves("v2").await,
        "rolled-back" => scene.assert_serves("v1").await,
        _ => {
            let weight = scene.route("backend").await[1]["backendRefs"][1]["weight"].as_u64().unwrap_or(0);
            assert!([0, 50, 100].contains(&weight), "no weight that nobody asked for: {weight}");
            assert!(summary.contains("in force: "), "a person is told what is in force: {summary}");
        }
    }
    summary
}

/// Runs a release in which these faults are met, and looks at its end.
async fn release(name: &str, tag: &str, rules: Vec<Rule>, outcomes: &[&str]) -> Option<Vec<Passed>> {
    release_by(ROUTER, name, tag, rules, outcomes).await
}

async fn release_by(router: &str, name: &str, tag: &str, rules: Vec<Rule>, outcomes: &[&str]) -> Option<Vec<Passed>> {
    let rig = Rig::own().await?;
    let namespace = rig.namespace(name).await;
    let (mut scene, proxy) = stage(&namespace, router, tag, rules).await?;
    until_seen(&mut scene, tag);
    carried_out(&scene, &proxy, outcomes).await
}

/// A version that is bad is watched until that must be seen.
fn until_seen(scene: &mut Scene<'_>, tag: &str) {
    if tag != "v2" {
        scene.canary()["bake"] = "30s".into();
    }
}

async fn carried_out(scene: &Scene<'_>, proxy: &FaultProxy, outcomes: &[&str]) -> Option<Vec<Passed>> {
    let finished = scene.release().await;
    assert_ends_well(scene, proxy, &finished, outcomes).await;
    let ledger = proxy.ledger();
    assert!(ledger.iter().any(|p| p.fault.is_some()), "nothing met a fault:\n{}", told(&ledger));
    Some(ledger)
}

fn takes_turns(scene: &Scene<'_>) -> bool {
    scene.plan["phases"][0]["strategy"]["blue-green"].is_object()
}

/// Fails unless each kind of write of a release met a fault.
fn assert_all_writes_met(ledger: &[Passed]) {
    assert_met(
        ledger,
        &[
            ("PATCH", "/deployments/backend-canary"),
            ("PATCH", "/services/backend-canary"),
            ("PATCH", "/httproutes/backend"),
            ("PATCH", "/deployments/backend"),
            ("DELETE", "/deployments/backend-canary"),
        ],
    );
}

fn assert_met(ledger: &[Passed], requests: &[(&str, &str)]) {
    for (verb, object) in requests {
        let met = ledger.iter().any(|p| p.verb == *verb && p.path.ends_with(object) && p.fault.is_some());
        assert!(met, "{verb} {object} met nothing:\n{}", told(ledger));
    }
}

#[tokio::test]
async fn the_answer_to_each_write_is_lost() {
    let rules = vec![Rule::new(Fault::LoseAnswer).writes().each_once()];
    let Some(ledger) = release("lost", "v2", rules, &["completed"]).await else { return };
    assert_all_writes_met(&ledger);
}

#[tokio::test]
async fn the_answer_to_each_write_is_lost_by_replica_ratio() {
    let rules = vec![Rule::new(Fault::LoseAnswer).writes().each_once()];
    release_by("replica-ratio", "lost-ratio", "v2", rules, &["completed"]).await;
}

#[tokio::test]
async fn the_answer_to_each_write_is_lost_also_on_the_way_back() {
    let rules = vec![Rule::new(Fault::LoseAnswer).writes().each_once()];
    let Some(ledger) = release("lost-back", "v2-crash3s", rules, &["rolled-back"]).await else { return };
    assert!(ledger.iter().any(|p| p.verb == "DELETE" && p.fault.is_some()), "{}", told(&ledger));
}

#[tokio::test]
async fn each_write_is_refused_with_500_and_then_with_503() {
    let each = |code| Rule::new(Fault::Refuse(code)).writes().each_once();
    let Some(ledger) = release("failing", "v2", vec![each(500), each(503)], &["completed"]).await else { return };
    assert_all_writes_met(&ledger);
}

#[tokio::test]
async fn asked_to_slow_down_it_does() {
    let rules = vec![Rule::new(Fault::Throttle(3)).writes().each_once()];
    let Some(ledger) = release("throttled", "v2", rules, &["completed"]).await else { return };
    assert_all_writes_met(&ledger);
    for (number, refused) in ledger.iter().enumerate().filter(|(_, p)| p.fault.is_some()) {
        let same = |p: &&Passed| (&p.verb, &p.path) == (&refused.verb, &refused.path);
        let again = ledger[number + 1..].iter().find(same).unwrap();
        let waited = again.at.duration_since(refused.at);
        assert!(waited >= Duration::from_secs(3), "{waited:?}: {} {}", refused.verb, refused.path);
    }
}

#[tokio::test]
async fn each_connection_is_reset_before_its_write() {
    let rules = vec![Rule::new(Fault::ResetBefore).writes().each_once()];
    let Some(ledger) = release("reset", "v2", rules, &["completed"]).await else { return };
    assert_all_writes_met(&ledger);
}

/// Without the writes: all that one step asks for, each broken once, would be more often than it is repeated.
#[tokio::test]
async fn each_connection_is_reset_before_its_read() {
    let rules = vec![Rule::new(Fault::ResetBefore).reads().each_once()];
    let Some(ledger) = release("reset-reads", "v2", rules, &["completed"]).await else { return };
    assert_met(&ledger, &[("GET", "/httproutes/backend"), ("GET", "/deployments/backend"), ("WATCH", "/pods")]);
}

#[tokio::test]
async fn each_connection_is_reset_in_the_middle_of_its_answer() {
    let rules = vec![Rule::new(Fault::ResetInAnswer).writes().each_once()];
    let Some(ledger) = release("halved", "v2", rules, &["completed"]).await else { return };
    assert_all_writes_met(&ledger);
}

#[tokio::test]
async fn each_connection_is_reset_in_the_middle_of_what_it_tells() {
    let rules = vec![Rule::new(Fault::ResetInAnswer).reads().each_once()];
    let Some(ledger) = release("halved-reads", "v2", rules, &["completed"]).await else { return };
    assert_met(&ledger, &[("GET", "/httproutes/backend"), ("GET", "/deployments/backend"), ("WATCH", "/pods")]);
}

#[tokio::test]
async fn each_write_is_carried_out_5_s_later_when_nobody_waits_for_it_any_more() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("stalled").await;
    let rules = vec![Rule::new(Fault::Stall(Duration::from_secs(5))).writes().each_once()];
    let Some((mut scene, proxy)) = stage(&namespace, ROUTER, "v2", rules).await else { return };
    scene.plan["backends"]["kubernetes"]["request-timeout"] = "2s".into();
    let finished = scene.release().await;
    assert_ends_well(&scene, &proxy, &finished, &["completed"]).await;
    let late = proxy.ledger().into_iter().filter(|p| p.fault.is_some() && p.code.is_some_and(|code| code >= 400));
    assert!(late.count() > 0, "a write that came too late was turned down:\n{}", told(&proxy.ledger()));
}

#[tokio::test]
async fn each_request_stalls_for_5_s() {
    let rules = vec![Rule::new(Fault::Stall(Duration::from_secs(5))).writes().each_once()];
    release("slow", "v2", rules, &["completed"]).await;
}

#[tokio::test]
async fn no_watch_lasts_longer_than_a_second() {
    let rules = vec![Rule::new(Fault::CloseWatch).verb("WATCH").always()];
    release("closed", "v2", rules, &["completed"]).await;
}

#[tokio::test]
async fn every_watch_is_told_that_its_version_is_too_old() {
    let rules =
        vec![Rule::new(Fault::Refuse(410)).verb("WATCH").each_once(), Rule::new(Fault::Expire).verb("WATCH").always()];
    release("expired", "v2", rules, &["completed"]).await;
}

#[tokio::test]
async fn a_bad_version_is_seen_and_taken_back_also_when_watches_break() {
    let rules = vec![
        Rule::new(Fault::Expire).verb("WATCH").path("/pods").always(),
        Rule::new(Fault::ResetInAnswer).verb("WATCH").always(),
    ];
    release("broken", "v2-crash3s", rules, &["rolled-back"]).await;
}

#[tokio::test]
async fn conflicts_are_read_again_and_written_again() {
    let storm = |object: &str| Rule::new(Fault::Refuse(409)).writes().path(object).times(3);
    let objects = ["/deployments/backend-canary", "/services/backend-canary", "/httproutes/backend"];
    let rules = objects.map(storm).into_iter().collect();
    let Some(ledger) = release("conflicts", "v2", rules, &["completed"]).await else { return };
    assert_eq!(ledger.iter().filter(|p| p.fault.is_some()).count(), 9, "{}", told(&ledger));
}

#[tokio::test]
async fn conflicts_that_outlast_the_deadline_send_it_back() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("storm").await;
    let rules = vec![Rule::new(Fault::Refuse(409)).writes().path("/httproutes/").times(6)];
    let Some((mut scene, proxy)) = stage(&namespace, ROUTER, "v2", rules).await else { return };
    // Tries at 0, 1, 3 and 7 s, and two on the way back.
    scene.canary()["ready-deadline"] = "10s".into();
    let finished = scene.release().await;
    let summary = assert_ends_well(&scene, &proxy, &finished, &["rolled-back"]).await;
    assert!(summary.contains("the proxy refuses it"), "{summary}");
}

#[tokio::test]
async fn a_read_from_the_past_is_never_written_over_the_present() {
    let stale = || vec![Rule::new(Fault::Stale).verb("GET").chance(0.5)];
    // What is from the past may look like somebody else's edit; that is asking a person too much, and not too little.
    let ends = &["completed", "rolled-back", "needs-attention"];
    tokio::join!(release("stale", "v2", stale(), ends), release("stale-back", "v2-crash3s", stale(), &ends[1..]));
}

#[tokio::test]
async fn a_token_that_expires_in_mid_run_calls_a_person() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("token").await;
    let Some((mut scene, proxy)) = stage(&namespace, ROUTER, "v2", Vec::new()).await else { return };
    scene.canary()["bake"] = "30s".into();
    let mut running = scene.start_release();
    running.until_step("rollout-bake-50").await;
    proxy.add(Rule::new(Fault::Refuse(401)).always());
    // What is open stays open on a real server too; the next watch is refused.
    proxy.add(Rule::new(Fault::CloseWatch).verb("WATCH").always());
    let finished = running.finish().await;
    let summary = assert_ends_well(&scene, &proxy, &finished, &["needs-attention"]).await;
    assert!(summary.contains("does not accept our credentials"), "{summary}");
    assert!(summary.contains("kubectl -n"), "it says what to do by hand: {summary}");
    assert_eq!(scene.route("backend").await[1]["backendRefs"][1]["weight"], 50, "no further without credentials");
}

#[tokio::test]
async fn what_goes_wrong_before_the_first_write_refuses_the_release() {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace("early").await;
    for fault in [Fault::Refuse(500), Fault::Throttle(1), Fault::ResetBefore, Fault::Refuse(401)] {
        let rules = vec![Rule::new(fault).early().verb("GET").path("/deployments/").always()];
        let Some((scene, proxy)) = stage(&namespace, ROUTER, "v2", rules).await else { return };
        let finished = scene.release().await;
        assert!(matches!(finished.code, 2 | 3), "{fault:?}: {} {}", finished.code, finished.stderr);
        assert!(!proxy.ledger().iter().any(Passed::is_write), "{}", told(&proxy.ledger()));
        scene.assert_serves("v1").await;
    }
}

/// Requests of any kind meet any fault that passes, by chance.
async fn by_chance(name: &str, router: &str, tag: &str, seed: u64) {
    let Some(rig) = Rig::own().await else { return };
    let namespace = rig.namespace(name).await;
    let rule = |fault| Rule::new(fault).chance(0.03);
    let rules = [
        Fault::Throttle(1),
        Fault::Refuse(409),
        Fault::Refuse(500),
        Fault::Refuse(503),
        Fault::ResetBefore,
        Fault::ResetInAnswer,
        Fault::LoseAnswer,
        Fault::Stall(Duration::from_secs(5)),
        Fault::CloseWatch,
        Fault::Expire,
    ];
    let rules = rules.map(rule).into_iter().collect();
    let Some((mut scene, proxy)) = stage(&namespace, router, tag, rules).await else { return };
    proxy.seed(seed);
    scene.plan["backends"]["kubernetes"]["request-timeout"] = "4s".into();
    let outcomes: &[&str] = if tag == "v2" { &["completed", "rolled-back"] } else { &["rolled-back"] };
    if tag != "v2" {
        scene.canary()["bake"] = "30s".into();
    }
    let finished = scene.release().await;
    println!("seed {seed}");
    assert_ends_well(&scene, &proxy, &finished, outcomes).await;
}

#[tokio::test]
async fn faults_by_chance_end_well() {
    by_chance("chance-1", ROUTER, "v2", 1).await;
}

#[tokio::test]
async fn faults_by_chance_end_well_by_replica_ratio() {
    by_chance("chance-2", "replica-ratio", "v2", 2).await;
}

#[tokio::test]
async fn faults_by_chance_do_not_keep_a_bad_version() {
    by_chance("chance-3", ROUTER, "v2-crash3s", 3).await;
}

#[test]
#[should_panic(expected = "was repeated without a look")]
fn a_write_that_is_repeated_blindly_would_be_noticed() {
    let lost = Passed {
        verb: "DELETE".to_owned(),
        path: "/apis/apps/v1/namespaces/a/deployments/backend-canary".to_owned(),
        query: String::new(),
        body: json!({"preconditions": {"uid": "u"}}),
        at: tokio::time::Instant::now(),
        fault: Some(Fault::LoseAnswer),
        code: Some(200),
    };
    assert_no_write_is_repeated_blindly(&[lost.clone(), lost]);
}
