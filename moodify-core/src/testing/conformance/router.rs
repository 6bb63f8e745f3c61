use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{Granularity, Traffic, TrafficRouter, Verification, WeightChange};
use crate::error::ErrorKind;
use crate::model::{Target, Weight};
use crate::strategy::split;

/// What the suite of a [`TrafficRouter`] needs.
#[async_trait]
pub trait RouterHarness: Send + Sync {
    /// The one under test.
    fn router(&self) -> Arc<dyn TrafficRouter>;

    /// A service with a canary of the run [`run`](super::run), both available for any weight, that gets no traffic.
    fn target(&self) -> Target;

    /// A service without a routing object (for instances: without workloads).
    fn missing(&self) -> Target;

    /// The number of stable instances before the release.
    fn capacity(&self) -> u32;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;

    /// Somebody else sets the canary's weight (for instances: scales stable). The harness makes it another one than
    /// 10, 50 and 100 %. (Where all is switched, they switch it back.)
    async fn edit(&self, editor: &str);

    /// The canary vanishes.
    async fn lose_canary(&self);
}

/// Puts a [`TrafficRouter`] to its contract.
///
/// # Panics
/// If it is not kept.
pub async fn traffic_router(harness: &dyn RouterHarness) {
    let suite = Suite { harness, router: harness.router(), target: harness.target() };
    suite.nothing_there().await;
    suite.goes_up().await;
    suite.notices_edits().await;
    suite.comes_back().await;
    let target = harness.target();
    ends_with_its_context(harness.patience(), async |cx| suite.router.read(&cx, &target).await).await;
}

fn percent(weight: u8) -> Weight {
    Weight::new(weight).expect("weights in source code are at most 100")
}

struct Suite<'a> {
    harness: &'a dyn RouterHarness,
    router: Arc<dyn TrafficRouter>,
    target: Target,
}

impl Suite<'_> {
    fn cx(&self, key: &str) -> crate::CallContext {
        context(key, self.harness.patience())
    }

    fn by_instances(&self) -> bool {
        self.router.capabilities().granularity == Granularity::Instances
    }

    fn whole(&self) -> bool {
        self.router.capabilities().granularity == Granularity::Whole
    }

    /// What a weight is as this router can do it.
    fn nearest(&self, weight: Weight) -> Weight {
        if self.by_instances() { split(self.harness.capacity(), weight).weight() } else { weight }
    }

    fn change(&self, from: u8, to: u8) -> WeightChange {
        WeightChange { from: percent(from), to: percent(to), capacity: self.harness.capacity() }
    }

    async fn read(&self) -> Traffic {
        good("the weight can be read", self.router.read(&self.cx("read"), &self.target).await)
    }

    async fn in_force(&self, weight: Weight) {
        let mut states = good("it can be watched", self.router.watch_in_force(&self.cx("watch"), &self.target).await);
        let enough =
            if self.router.capabilities().verifies { Verification::Verified } else { Verification::CannotTell };
        loop {
            let state = states.next().await.unwrap_or_else(|| panic!("{weight} comes into force in time"));
            let state = good("a state", state);
            if state.weight == weight && state.verification == enough {
                return;
            }
        }
    }

    async fn nothing_there(&self) {
        let (cx, missing) = (self.cx("missing"), self.harness.missing());
        fails("no routing object", ErrorKind::NotFound, self.router.read(&cx, &missing).await);
        fails("no routing object", ErrorKind::NotFound, self.router.set(&cx, &missing, self.change(0, 10)).await);
    }

    async fn goes_up(&self) {
        assert_eq!(self.read().await.weight, Weight::ZERO, "the harness gives a canary without traffic");
        let weights: &[(u8, u8)] =
            if self.whole() { &[(0, 100)] } else { &[(0, 10), (10, 50), (50, 100), (100, 50), (50, 10)] };
        for &(from, to) in weights {
            let (cx, change) = (self.cx(&format!("set-{to}")), self.change(from, to));
            let promise = format!("the weight can go from {from} to {to} %");
            let answer = good(&promise, self.router.set(&cx, &self.target, change).await);
            let wanted = self.nearest(change.to);
            assert_eq!(answer.weight, wanted, "the answer was read back");
            self.in_force(wanted).await;
            let state = self.read().await;
            assert!((state.share - wanted.fraction()).abs() < 0.01, "the share follows: {state:?}");
            assert_eq!(state.edited_by, None, "nobody else edited it");
            good("setting it again is fine", self.router.set(&cx, &self.target, change).await);
            assert_eq!(self.read().await.weight, wanted);
        }
        if self.whole() {
            let part = self.router.set(&self.cx("part"), &self.target, self.change(100, 50)).await;
            fails("a part of the traffic cannot be switched", ErrorKind::Unsupported, part);
            assert_eq!(self.read().await.weight, Weight::FULL);
        }
    }

    async fn notices_edits(&self) {
        let (cx, editor) = (self.cx("drift"), "conformance-editor");
        self.harness.edit(editor).await;
        let edited = self.read().await;
        let wanted = if self.whole() { self.change(100, 100) } else { self.change(10, 50) };
        let drift = self.router.set(&cx, &self.target, wanted).await;
        let drift = fails("neither from nor to", ErrorKind::Drift, drift);
        if !self.by_instances() {
            assert_eq!(edited.edited_by.as_deref(), Some(editor));
            assert!(drift.to_string().contains(editor), "it says whose edit it was: {drift}");
            assert_eq!(self.read().await.weight, edited.weight, "drift is not overwritten");
        }
    }

    async fn comes_back(&self) {
        let (cx, capacity) = (self.cx("reset"), self.harness.capacity());
        self.harness.lose_canary().await;
        for promise in ["everything can be sent to stable, without a canary", "resetting again is fine"] {
            let answer = good(promise, self.router.reset(&cx, &self.target, capacity).await);
            assert_eq!(answer.weight, Weight::ZERO);
        }
        self.in_force(Weight::ZERO).await;
        if !self.by_instances() {
            let nothing = WeightChange { from: Weight::ZERO, to: Weight::ZERO, capacity };
            let compared =
                good("nothing can be compared with nothing", self.router.set(&cx, &self.target, nothing).await);
            assert_eq!((compared.weight, self.read().await.weight), (Weight::ZERO, Weight::ZERO));
        }
    }
}
