//! The same faults where two Deployments take turns.

use super::*;

/// What the release writes while it goes on.
const WRITES: [(&str, &str); 5] = [
    ("PATCH", "/deployments/backend-green"),
    ("PATCH", "/services/backend-green"),
    ("PATCH", "/httproutes/backend"),
    ("PATCH", "/services/backend"),
    ("PATCH", "/deployments/backend"),
];

/// The two have swapped their parts: what was tested serves, by the route as it was.
pub(super) async fn assert_green_serves(scene: &Scene<'_>) {
    let image = |tag: &str| format!("registry.test/backend:{tag}");
    assert_eq!(scene.workload("backend-green").await, Some((image("v2"), 5)));
    assert_eq!(scene.workload("backend").await, Some((image("v1"), 0)), "what served before stands by");
    let before = moodify_tests::routes::route(ROUTER, "backend", "backend");
    assert_eq!(scene.routing(ROUTER, "backend").await.1, before["spec"], "the route is as it was");
}

async fn release(name: &str, tag: &str, rules: Vec<Rule>, outcomes: &[&str]) -> Option<Vec<Passed>> {
    let rig = Rig::own().await?;
    let namespace = rig.namespace(name).await;
    let (mut scene, proxy) = stage(&namespace, ROUTER, tag, Vec::new()).await?;
    until_seen(&mut scene, tag);
    scene.take_turns("1s").await;
    rules.into_iter().for_each(|rule| proxy.add(rule));
    carried_out(&scene, &proxy, outcomes).await
}

#[tokio::test]
async fn the_answer_to_each_write_is_lost() {
    let rules = vec![Rule::new(Fault::LoseAnswer).writes().each_once()];
    let Some(ledger) = release("turns-lost", "v2", rules, &["completed"]).await else { return };
    assert_met(&ledger, &WRITES);
}

#[tokio::test]
async fn the_answer_to_each_write_is_lost_also_on_the_way_back() {
    let rules = vec![Rule::new(Fault::LoseAnswer).writes().each_once()];
    let Some(ledger) = release("turns-lost-back", "v2-crash9s", rules, &["rolled-back"]).await else { return };
    assert_met(&ledger, &WRITES[..3]);
}

#[tokio::test]
async fn each_write_is_refused_with_500_and_then_with_503() {
    let each = |code| Rule::new(Fault::Refuse(code)).writes().each_once();
    let Some(ledger) = release("turns-failing", "v2", vec![each(500), each(503)], &["completed"]).await else { return };
    assert_met(&ledger, &WRITES);
}

#[tokio::test]
async fn each_connection_is_reset_in_the_middle_of_its_answer() {
    let rules = vec![Rule::new(Fault::ResetInAnswer).each_once()];
    let Some(ledger) = release("turns-halved", "v2", rules, &["completed"]).await else { return };
    assert_met(&ledger, &WRITES);
}

#[tokio::test]
async fn watches_end_and_are_told_that_their_version_is_too_old() {
    let rules = vec![
        Rule::new(Fault::Expire).verb("WATCH").path("/pods").always(),
        Rule::new(Fault::CloseWatch).verb("WATCH").always(),
    ];
    release("turns-watches", "v2-crash3s", rules, &["rolled-back"]).await;
}

#[tokio::test]
async fn conflicts_are_read_again_and_written_again() {
    let storm = |object: &str| Rule::new(Fault::Refuse(409)).writes().path(object).times(3);
    let objects = ["/deployments/backend-green", "/services/backend-green", "/httproutes/backend"];
    let rules = objects.map(storm).into_iter().collect();
    let Some(ledger) = release("turns-conflicts", "v2", rules, &["completed"]).await else { return };
    assert_eq!(ledger.iter().filter(|p| p.fault.is_some()).count(), 9, "{}", told(&ledger));
}

#[tokio::test]
async fn a_read_from_the_past_is_never_written_over_the_present() {
    let stale = vec![Rule::new(Fault::Stale).verb("GET").chance(0.5)];
    release("turns-stale", "v2", stale, &["completed", "rolled-back", "needs-attention"]).await;
}
