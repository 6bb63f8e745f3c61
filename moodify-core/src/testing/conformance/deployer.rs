use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;

use super::{context, ends_with_its_context, fails, good, other};
use crate::backend::{CanarySpec, Deployer, DeployerExt, ImageChange, Scale, Workload};
use crate::error::ErrorKind;
use crate::model::{Color, ConfigRefs, Layout, Target, Track};

/// What the suite of a [`Deployer`] needs.
#[async_trait]
pub trait DeployerHarness: Send + Sync {
    /// The one under test.
    fn deployer(&self) -> Arc<dyn Deployer>;

    /// A service whose stable workload is complete, has an instance or more, another image than the service's, and no
    /// canary beside it. The suite leaves it as it was.
    fn target(&self) -> Target;

    /// A service that has no workload.
    fn missing(&self) -> Target;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;

    /// Somebody else edits the canary.
    async fn edit_canary(&self, editor: &str);
}

/// Puts a [`Deployer`] to its contract.
///
/// # Panics
/// If it is not kept.
pub async fn deployer(harness: &dyn DeployerHarness) {
    let suite = Suite { harness, deployer: harness.deployer(), target: harness.target() };
    suite.nothing_there().await;
    suite.deploys().await;
    suite.belongs_to_the_run().await;
    suite.scales().await;
    suite.changes_the_image().await;
    suite.removes().await;
    suite.notices_edits().await;
    if suite.deployer.capabilities().colors {
        suite.takes_turns().await;
    }
    let target = harness.target();
    ends_with_its_context(harness.patience(), async |cx| suite.deployer.observe(&cx, &target, Track::Stable).await)
        .await;
}

struct Suite<'a> {
    harness: &'a dyn DeployerHarness,
    deployer: Arc<dyn Deployer>,
    target: Target,
}

impl Suite<'_> {
    fn cx(&self, key: &str) -> crate::CallContext {
        context(key, self.harness.patience())
    }

    fn spec(&self, replicas: u32) -> CanarySpec {
        CanarySpec::new(self.target.service.image.clone(), "conformance", replicas, true)
    }

    async fn state(&self, track: Track) -> Workload {
        let state =
            good("a workload can be observed", self.deployer.observe(&self.cx("see"), &self.target, track).await);
        state.unwrap_or_else(|| panic!("the {track} workload is there, but is not seen"))
    }

    async fn until(&self, track: Track, promise: &str, done: impl Fn(&Workload) -> bool + Send + Sync) -> Workload {
        good(promise, self.deployer.wait(&self.cx("wait"), &self.target, track, &done, &|_| ()).await)
    }

    async fn nothing_there(&self) {
        let (cx, missing, spec) = (self.cx("missing"), self.harness.missing(), self.spec(1));
        let state = self.deployer.observe(&cx, &missing, Track::Stable).await;
        assert_eq!(good("a missing workload is no error", state), None);
        fails("nothing to copy", ErrorKind::NotFound, self.deployer.deploy(&cx, &missing, &spec).await);
        fails("nothing to copy", ErrorKind::NotFound, self.deployer.preview(&cx, &missing, &spec).await);
        let scale = Scale { from: 1, to: 2 };
        fails("nothing to scale", ErrorKind::NotFound, self.deployer.scale(&cx, &missing, Track::Stable, scale).await);
        good("removing what never existed is fine", self.deployer.remove(&cx, &missing).await);
        good("removing what never existed is fine", self.deployer.remove(&cx, &self.target).await);
        assert!(self.state(Track::Stable).await.is_complete(), "the harness gives a complete stable workload");
    }

    async fn deploys(&self) {
        let (cx, spec) = (self.cx("deploy"), self.spec(1));
        let changes = good("a canary can be previewed", self.deployer.preview(&cx, &self.target, &spec).await);
        assert!(!changes.is_empty(), "a preview says what would change");
        let canary = self.deployer.observe(&cx, &self.target, Track::Canary).await;
        assert_eq!(good("a preview changes nothing", canary), None);
        let stable = self.state(Track::Stable).await;
        good("a canary can be deployed", self.deployer.deploy(&cx, &self.target, &spec).await);
        let canary = self.until(Track::Canary, "it becomes available", |w| w.has_available(1)).await;
        assert_eq!((&canary.image, canary.replicas.desired), (&spec.image, 1), "as specified");
        good("deploying again is fine", self.deployer.deploy(&cx, &self.target, &spec).await);
        assert_eq!(self.state(Track::Canary).await.generation, canary.generation, "the same again writes nothing");
        let changes = good("a preview of what is there", self.deployer.preview(&cx, &self.target, &spec).await);
        assert!(changes.is_empty(), "there is nothing to change: {changes:?}");
        let after = self.state(Track::Stable).await;
        assert_eq!((after.generation, after.image), (stable.generation, stable.image), "stable is not touched");
    }

    async fn belongs_to_the_run(&self) {
        let (cx, target, kind) = (other(self.harness.patience()), &self.target, ErrorKind::AlreadyExists);
        let scale = Scale { from: 1, to: 2 };
        fails("another run's canary", kind, self.deployer.observe(&cx, target, Track::Canary).await);
        fails("another run's canary", kind, self.deployer.deploy(&cx, target, &self.spec(2)).await);
        fails("another run's canary", kind, self.deployer.preview(&cx, target, &self.spec(2)).await);
        fails("another run's canary", kind, self.deployer.scale(&cx, target, Track::Canary, scale).await);
        let removed = self.deployer.remove(&cx, target).await;
        assert!(removed.map_or_else(|e| e.kind() == kind, |()| true), "removing is fine or says whose it is");
        assert_eq!(self.state(Track::Canary).await.replicas.desired, 1, "and it is still there, as it was");
    }

    async fn scales(&self) {
        let (cx, target) = (self.cx("scale"), &self.target);
        let n = self.state(Track::Stable).await.replicas.desired;
        for (track, n) in [(Track::Canary, 1), (Track::Stable, n)] {
            let up = Scale { from: n, to: n + 1 };
            good("it can be scaled", self.deployer.scale(&cx, target, track, up).await);
            let grown = self.until(track, "it grows", |w| w.replicas.desired == n + 1 && w.has_available(n + 1)).await;
            good("scaling again is fine", self.deployer.scale(&cx, target, track, up).await);
            assert_eq!(self.state(track).await.generation, grown.generation, "the same again writes nothing");
            let wrong = Scale { from: n + 5, to: n + 6 };
            fails("neither from nor to", ErrorKind::Drift, self.deployer.scale(&cx, target, track, wrong).await);
            assert_eq!(self.state(track).await.replicas.desired, n + 1, "drift is not overwritten");
            let down = Scale { from: n + 1, to: n };
            good("it can be scaled back", self.deployer.scale(&cx, target, track, down).await);
            self.until(track, "it shrinks", |w| w.replicas.desired == n && w.is_complete()).await;
        }
    }

    async fn changes_the_image(&self) {
        let (cx, target) = (self.cx("image"), &self.target);
        let stable = self.state(Track::Stable).await;
        let n = stable.replicas.desired;
        let (old, new) = (stable.image, target.service.image.clone());
        let wrong = ImageChange { from: new.clone(), to: new.clone(), config: ConfigRefs::new(), scale: None };
        fails("another image is there", ErrorKind::Drift, self.deployer.set_image(&cx, target, &wrong).await);
        let scale = Some(Scale { from: n + 5, to: n + 6 });
        let wrong = ImageChange { from: old.clone(), to: new.clone(), config: ConfigRefs::new(), scale };
        fails("another count is there", ErrorKind::Drift, self.deployer.set_image(&cx, target, &wrong).await);
        assert_eq!(self.state(Track::Stable).await.image, old, "drift is not overwritten");

        let there = ImageChange {
            from: old.clone(),
            to: new.clone(),
            config: ConfigRefs::new(),
            scale: Some(Scale { from: n, to: n + 1 }),
        };
        let back =
            ImageChange { from: new, to: old, config: ConfigRefs::new(), scale: Some(Scale { from: n + 1, to: n }) };
        for change in [there, back] {
            good("the image can be changed", self.deployer.set_image(&cx, target, &change).await);
            let count = change.scale.map(|scale| scale.to);
            let rolled = |w: &Workload| w.image == change.to && Some(w.replicas.desired) == count && w.is_complete();
            let state = self.until(Track::Stable, "it is rolled out", rolled).await;
            good("changing it again is fine", self.deployer.set_image(&cx, target, &change).await);
            assert_eq!(self.state(Track::Stable).await.generation, state.generation, "the same again writes nothing");
        }
    }

    async fn removes(&self) {
        let (cx, target) = (self.cx("remove"), &self.target);
        let mut states = good("it can be watched", self.deployer.watch(&cx, target, Track::Canary).await);
        let first = states.next().await.expect("a watch begins with the state now");
        assert!(good("the state now", first).is_some(), "a watch begins with the state now");
        good("it can be removed", self.deployer.remove(&cx, target).await);
        loop {
            let state = states.next().await.expect("a watch goes on until the context ends");
            if good("a state", state).is_none() {
                break;
            }
        }
        good("removing again is fine", self.deployer.remove(&cx, target).await);
        let state = self.deployer.observe(&cx, target, Track::Canary).await;
        assert_eq!(good("it is gone", state), None);
    }

    /// There and back: green is made and handed over to, then blue again by another run.
    async fn takes_turns(&self) {
        let (cx, patience) = (self.cx("turns"), self.harness.patience());
        let before = self.state(Track::Stable).await;
        let (n, old) = (before.replicas.desired, before.image);
        let blue_serves = self.target.clone().with_layout(Layout::Colors(Color::Blue));
        let turn = Turn { suite: self, cx: &cx, target: blue_serves.clone() };
        turn.serves(Color::Blue).await;
        assert_eq!(turn.see(Track::Canary).await, None, "there is no other workload yet");
        turn.deploy(&self.spec(1)).await;
        assert_eq!(self.state(Track::Stable).await.generation, before.generation, "what serves is not touched");
        let kind = ErrorKind::AlreadyExists;
        let stranger = other(patience);
        fails("another run's", kind, self.deployer.observe(&stranger, &turn.target, Track::Canary).await);
        fails("another run's", kind, self.deployer.deploy(&stranger, &turn.target, &self.spec(2)).await);
        turn.hand_over(Color::Green).await;
        fails("it serves", ErrorKind::Conflict, self.deployer.remove(&cx, &turn.target).await);
        turn.retire(n).await;

        // The next release, by another run, finds it the other way round.
        let target = blue_serves.clone().with_layout(Layout::Colors(Color::Green));
        let back = Turn { suite: self, cx: &stranger, target };
        back.serves(Color::Green).await;
        let serving = back.see(Track::Stable).await.expect("what serves is there");
        assert_eq!((&serving.image, serving.replicas.desired), (&self.target.service.image, 1), "what was tested");
        assert_eq!(back.see(Track::Canary).await, None, "scaled to nothing it is nobody's");
        back.deploy(&CanarySpec::new(old.clone(), "before", n, false).restoring()).await;
        back.hand_over(Color::Blue).await;
        back.retire(1).await;
        good("what does not serve can be removed", self.deployer.remove(&cx, &blue_serves).await);
        let after = self.until(Track::Stable, "all is as it was", Workload::is_complete).await;
        assert_eq!((&after.image, after.replicas.desired), (&old, n), "all is as it was");

        // Green serves once more; then blue shall be all that there is.
        turn.deploy(&self.spec(n)).await;
        fails(
            "it has instances of a run",
            ErrorKind::AlreadyExists,
            self.deployer.leave(&stranger, &back.target).await,
        );
        turn.hand_over(Color::Green).await;
        fails("it serves", ErrorKind::Conflict, self.deployer.leave(&stranger, &back.target).await);
        turn.retire(n).await;
        back.deploy(&CanarySpec::new(old.clone(), "before", n, false).plainly()).await;
        back.hand_over(Color::Blue).await;
        back.retire(n).await;
        for _ in 0..2 {
            good("moodify can leave, also again", self.deployer.leave(&stranger, &back.target).await);
        }
        turn.serves(Color::Blue).await;
        let gone = turn.see(Track::Canary).await;
        assert_eq!(gone, None, "the one beside it is gone");
        let after = self.until(Track::Stable, "it is alone and whole", Workload::is_complete).await;
        assert_eq!((after.image, after.replicas.desired), (old, n), "all is as it was");
    }

    async fn notices_edits(&self) {
        let (cx, target, spec, editor) = (self.cx("drift"), &self.target, self.spec(1), "conformance-editor");
        good("a canary can be deployed", self.deployer.deploy(&cx, target, &spec).await);
        self.until(Track::Canary, "it becomes available", |w| w.has_available(1)).await;
        let mut states = good("it can be watched", self.deployer.watch(&cx, target, Track::Canary).await);
        self.harness.edit_canary(editor).await;
        let drift = loop {
            match states.next().await.expect("an edit is an item of a watch") {
                Ok(_) => {}
                Err(e) => break e,
            }
        };
        assert_eq!(drift.kind(), ErrorKind::Drift, "{drift}");
        assert!(drift.to_string().contains(editor), "it says whose edit it was: {drift}");
        assert!(states.next().await.is_none(), "and the watch ends");
        fails("an edit", ErrorKind::Drift, self.deployer.observe(&cx, target, Track::Canary).await);
        fails("an edit", ErrorKind::Drift, self.deployer.deploy(&cx, target, &spec).await);
        // Whatever the edit was, also if the numbers happen to fit.
        for n in 0..5 {
            let drift = self.deployer.scale(&cx, target, Track::Canary, Scale { from: n, to: n }).await;
            let drift = fails("an edit", ErrorKind::Drift, drift);
            assert!(drift.to_string().contains(editor), "it says whose edit it was: {drift}");
        }
        good("what was edited can be removed", self.deployer.remove(&cx, target).await);
    }
}

/// A release in which two workloads take turns.
struct Turn<'a> {
    suite: &'a Suite<'a>,
    cx: &'a crate::CallContext,
    target: Target,
}

impl Turn<'_> {
    async fn see(&self, track: Track) -> Option<Workload> {
        good("it can be observed", self.suite.deployer.observe(self.cx, &self.target, track).await)
    }

    async fn serves(&self, color: Color) {
        let serving = self.suite.deployer.serving(self.cx, &self.target).await;
        assert_eq!(good("who serves can be seen", serving), color);
    }

    async fn deploy(&self, spec: &CanarySpec) {
        let deployer = &self.suite.deployer;
        good("the other workload can be deployed", deployer.deploy(self.cx, &self.target, spec).await);
        let replicas = spec.replicas;
        let there = |w: &Workload| w.replicas.desired == replicas && w.has_available(replicas);
        let made = deployer.wait(self.cx, &self.target, Track::Canary, &there, &|_| ()).await;
        let made = good("it becomes available", made);
        assert_eq!(made.image, spec.image, "as specified");
        good("deploying again is fine", deployer.deploy(self.cx, &self.target, spec).await);
        let now = self.see(Track::Canary).await.expect("it is there");
        assert_eq!(now.generation, made.generation, "the same again writes nothing");
    }

    async fn hand_over(&self, color: Color) {
        for _ in 0..2 {
            let handed = self.suite.deployer.hand_over(self.cx, &self.target, Track::Canary).await;
            good("the name can be handed over, also again", handed);
            self.serves(color).await;
        }
    }

    async fn retire(&self, replicas: u32) {
        let scale = Scale { from: replicas, to: 0 };
        good("what served retires", self.suite.deployer.scale(self.cx, &self.target, Track::Stable, scale).await);
        let gone = |w: &Workload| w.replicas.desired == 0 && w.is_complete();
        let waited = self.suite.deployer.wait(self.cx, &self.target, Track::Stable, &gone, &|_| ()).await;
        good("its instances go", waited);
    }
}
