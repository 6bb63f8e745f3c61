//! What a release costs the API server, to the request.

use moodify_tests::ledger::{Ledger, WAYS, measure};
use moodify_tests::rig::Rig;

async fn ledger(router: &str, turns: bool) -> Option<Ledger> {
    let rig = Rig::own().await?;
    let way = WAYS.into_iter().find(|way| way.router == router && way.turns == turns)?;
    let ledger = measure(rig, way).await?;
    assert!(ledger.is_within(), "{ledger:#?}");
    Some(ledger)
}

#[tokio::test]
async fn a_canary_in_place_by_a_route_takes_ten_writes() {
    let Some(ledger) = ledger("http-route", false).await else { return };
    let writes = [
        "patch deployments/backend-canary",
        "patch services/backend-canary",
        "patch httproutes/backend",
        "patch deployments/backend-canary",
        "patch httproutes/backend",
        "patch deployments/backend-canary",
        "patch httproutes/backend",
        "patch deployments/backend",
        "patch httproutes/backend",
        "delete deployments/backend-canary",
    ];
    assert_eq!(ledger.writes, writes, "{ledger:#?}");
}

#[tokio::test]
async fn a_canary_in_place_by_ratio_takes_seven_writes() {
    let Some(ledger) = ledger("replica-ratio", false).await else { return };
    assert_eq!(ledger.writes.len(), 7, "{ledger:#?}");
}

#[tokio::test]
async fn two_deployments_that_take_turns_take_ten_writes() {
    let Some(ledger) = ledger("http-route", true).await else { return };
    let writes = [
        "patch deployments/backend-green",
        "patch services/backend-green",
        "patch httproutes/backend",
        "patch deployments/backend-green",
        "patch httproutes/backend",
        "patch deployments/backend-green",
        "patch httproutes/backend",
        "patch services/backend",
        "patch httproutes/backend",
        "patch deployments/backend",
    ];
    assert_eq!(ledger.writes, writes, "{ledger:#?}");
}
