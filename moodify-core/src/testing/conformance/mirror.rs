use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, fails, good};
use crate::backend::TrafficMirror;
use crate::error::ErrorKind;
use crate::model::{Target, Weight};

/// What the suite of [`TrafficMirror`] needs.
#[async_trait]
pub trait MirrorHarness: Send + Sync {
    /// What is under test.
    fn mirror(&self) -> Arc<dyn TrafficMirror>;

    /// A service with a routing object and a canary that gets nothing. The suite leaves it as it was.
    fn target(&self) -> Target;

    /// Of how many requests the canary gets a copy.
    async fn mirrored(&self) -> Weight;

    /// The routing objects of the service, all of them, to be compared with themselves.
    async fn object(&self) -> String;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts [`TrafficMirror`] to its contract.
///
/// # Panics
/// If it is not kept.
pub async fn traffic_mirror(harness: &dyn MirrorHarness) {
    let (mirror, target) = (harness.mirror(), harness.target());
    let cx = || context("mirror", harness.patience());
    let (tenth, all) = (Weight::new(10).expect("a weight"), Weight::FULL);
    let before = harness.object().await;
    good("nothing to stop is fine", mirror.stop(&cx(), &target).await);
    for (percent, other) in [(tenth, all), (all, tenth)] {
        assert_eq!(harness.mirrored().await, Weight::ZERO);
        good("requests can be mirrored", mirror.start(&cx(), &target, percent).await);
        assert_eq!(harness.mirrored().await, percent);
        let started = harness.object().await;
        good("and again", mirror.start(&cx(), &target, percent).await);
        assert_eq!(harness.object().await, started, "what is so already is not written again");
        fails("another share is mirrored", ErrorKind::Drift, mirror.start(&cx(), &target, other).await);
        for _ in 0..2 {
            good("it can be stopped", mirror.stop(&cx(), &target).await);
            assert_eq!(harness.object().await, before, "it is as it was");
        }
    }
    assert_eq!(harness.mirrored().await, Weight::ZERO);
    let mut nowhere = target;
    nowhere.service.traffic.route = Some("nowhere".to_owned());
    nowhere.service.name = "nowhere".to_owned();
    fails("there is no such object", ErrorKind::NotFound, mirror.start(&cx(), &nowhere, all).await);
    good("nor anything to stop", mirror.stop(&cx(), &nowhere).await);
}
