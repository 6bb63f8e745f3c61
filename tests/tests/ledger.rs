//! What a release costs the API server, to the request, by every way.

use futures::stream::{self, StreamExt as _};
use moodify_tests::ledger::{Strategy, WAYS, measure};
use moodify_tests::rig::Rig;

/// How many ways are measured at once.
const AT_ONCE: usize = 3;

async fn costs_what_it_may(strategies: &[Strategy]) {
    let Some(rig) = Rig::own().await else { return };
    let ways = WAYS.into_iter().filter(|way| strategies.contains(&way.strategy));
    let problems = stream::iter(ways).map(async |way| {
        let ledger = measure(rig, way).await?;
        Some(ledger.problems().into_iter().map(|problem| format!("{}: {problem}", way.title)).collect::<Vec<_>>())
    });
    let problems: Vec<String> =
        problems.buffered(AT_ONCE).filter_map(async |told| told).collect::<Vec<_>>().await.concat();
    assert!(problems.is_empty(), "{problems:#?}");
}

#[tokio::test]
async fn two_deployments_that_take_turns_cost_at_most_ten_writes() {
    costs_what_it_may(&[Strategy::Turns, Strategy::Switch]).await;
}

#[tokio::test]
async fn a_canary_in_place_costs_at_most_thirteen_writes() {
    costs_what_it_may(&[Strategy::InPlace]).await;
}

#[tokio::test]
async fn a_workload_by_itself_costs_at_most_thirteen_writes() {
    costs_what_it_may(&[Strategy::Rolling, Strategy::Recreate]).await;
}
