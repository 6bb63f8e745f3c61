use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, fails, good};
use crate::backend::{TesterRoutes, Testers};
use crate::error::ErrorKind;
use crate::model::Target;

/// What the suite of [`TesterRoutes`] needs.
#[async_trait]
pub trait TestersHarness: Send + Sync {
    /// What is under test.
    fn routes(&self) -> Arc<dyn TesterRoutes>;

    /// A service with a routing object and a canary that gets nothing. The suite leaves it as it was.
    fn target(&self) -> Target;

    /// Where the routing objects send these requests: whether to the canary.
    async fn reaches_canary(&self, testers: &Testers) -> bool;

    /// The routing objects of the service, all of them, to be compared with themselves.
    async fn object(&self) -> String;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts [`TesterRoutes`] to their contract, with testers by header and, where these can be told, by cookie.
///
/// # Panics
/// If it is not kept.
pub async fn tester_routes(harness: &dyn TestersHarness) {
    let (routes, target) = (harness.routes(), harness.target());
    let cx = || context("testers", harness.patience());
    let by_header = Testers::by_header("X-Tester", "yes");
    good("a header can be told", routes.check(&by_header));
    let cookies = [Testers::by_cookie("tester", "y.s"), Testers::by_cookie("tester", "always")];
    let by_cookie = cookies.into_iter().find(|testers| match routes.check(testers) {
        Ok(()) => true,
        refused => {
            fails("it cannot be told", ErrorKind::Unsupported, refused);
            false
        }
    });
    let before = harness.object().await;
    good("nothing to dismiss is fine", routes.dismiss(&cx(), &target).await);
    for testers in [Some(by_header.clone()), by_cookie].into_iter().flatten() {
        assert!(!harness.reaches_canary(&testers).await, "{testers}");
        good("testers can be admitted", routes.admit(&cx(), &target, &testers).await);
        assert!(harness.reaches_canary(&testers).await, "{testers} reach the canary");
        let admitted = harness.object().await;
        good("and again", routes.admit(&cx(), &target, &testers).await);
        assert_eq!(harness.object().await, admitted, "what is so already is not written again");
        let others = Testers::by_header("X-Tester", "no");
        assert!(!harness.reaches_canary(&others).await, "{others} are none");
        fails("others are there", ErrorKind::Drift, routes.admit(&cx(), &target, &others).await);
        for _ in 0..2 {
            good("testers can be dismissed", routes.dismiss(&cx(), &target).await);
            assert_eq!(harness.object().await, before, "it is as it was");
        }
        assert!(!harness.reaches_canary(&testers).await, "{testers}");
    }
    let mut nowhere = target;
    nowhere.service.traffic.route = Some("nowhere".to_owned());
    nowhere.service.name = "nowhere".to_owned();
    fails("there is no such object", ErrorKind::NotFound, routes.admit(&cx(), &nowhere, &by_header).await);
    good("nor anybody to dismiss", routes.dismiss(&cx(), &nowhere).await);
}
