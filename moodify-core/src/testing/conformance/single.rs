use std::sync::Arc;
use std::time::Duration;

use super::{context, fails, good, other};
use crate::CallContext;
use crate::backend::{CanarySpec, Deployer, DeployerExt, ImageChange, Scale, Workload};
use crate::error::ErrorKind;
use crate::model::{ConfigRefs, ImageRef, Layout, Target, Track};

/// Puts a [`Deployer`] to its contract for a workload in which the new version takes the place of the old one.
///
/// `target` is in the layout [`Single`](Layout::Single); its workload is complete, has three instances or more, and another
/// image than the service's. The suite leaves it as it was. Nothing takes longer than `patience`.
///
/// # Panics
/// If it is not kept.
pub async fn single(deployer: Arc<dyn Deployer>, target: &Target, patience: Duration) {
    assert_eq!(target.layout, Layout::Single);
    let known = deployer.capabilities().single;
    let kind = known.into_iter().find(|single| single.kind == target.service.kind);
    let kind =
        kind.unwrap_or_else(|| panic!("the deployer says that it cannot do this with a {}", target.service.kind));
    let suite = Suite { deployer, target, patience, exact: kind.exact };
    let before = suite.see(Track::Stable).await.expect("the workload is there");
    suite.holds_a_part(&before).await;
    suite.goes_back(&before).await;
    suite.goes_on_and_back(&before).await;
    if kind.stops {
        suite.stops(&before).await;
    }
}

struct Suite<'a> {
    deployer: Arc<dyn Deployer>,
    target: &'a Target,
    patience: Duration,
    /// The platform itself holds a part at its size.
    exact: bool,
}

impl Suite<'_> {
    fn cx(&self) -> CallContext {
        context("single", self.patience)
    }

    async fn see(&self, track: Track) -> Option<Workload> {
        good("it can be observed", self.deployer.observe(&self.cx(), self.target, track).await)
    }

    async fn hold(&self, instances: u32) {
        let image = self.target.service.image.clone();
        let spec = CanarySpec::new(image.clone(), "conformance", instances, true);
        good("a part can get the new version", self.deployer.deploy(&self.cx(), self.target, &spec).await);
        let there = move |w: &Workload| w.has_available(instances);
        let part = self.deployer.wait(&self.cx(), self.target, Track::Canary, &there, &|_| ()).await;
        let part = good("it becomes available", part);
        assert_eq!(part.image, image);
        if self.exact {
            assert_eq!(part.replicas.updated, instances, "no more than asked for");
        }
        let whole = self.see(Track::Stable).await.expect("it is there");
        good("the same again is fine", self.deployer.deploy(&self.cx(), self.target, &spec).await);
        let again = self.see(Track::Stable).await.expect("it is there");
        assert_eq!(again.generation, whole.generation, "and writes nothing");
    }

    /// Waits until everything runs this image.
    async fn everywhere(&self, image: &ImageRef) -> Workload {
        let wanted = image.clone();
        let done = move |w: &Workload| w.image == wanted && w.is_complete();
        good("it runs everywhere", self.deployer.wait(&self.cx(), self.target, Track::Stable, &done, &|_| ()).await)
    }

    async fn holds_a_part(&self, before: &Workload) {
        assert_eq!(self.see(Track::Canary).await, None, "nothing runs the new version yet");
        self.hold(1).await;
        let whole = self.see(Track::Stable).await.expect("it is there");
        assert_eq!(whole.replicas.desired, before.replicas.desired, "as many instances as before");
        let (stranger, kind) = (other(self.patience), ErrorKind::AlreadyExists);
        fails("another run's", kind, self.deployer.observe(&stranger, self.target, Track::Canary).await);
        let spec = CanarySpec::new(self.target.service.image.clone(), "conformance", 2, true);
        fails("another run's", kind, self.deployer.deploy(&stranger, self.target, &spec).await);
        good("another run takes nothing back", self.deployer.remove(&stranger, self.target).await);
        assert!(self.see(Track::Canary).await.is_some(), "it is still held");
        self.hold(2).await;
    }

    async fn goes_back(&self, before: &Workload) {
        for promise in ["it can be taken back", "taking it back again is fine"] {
            good(promise, self.deployer.remove(&self.cx(), self.target).await);
            self.everywhere(&before.image).await;
        }
        assert_eq!(self.see(Track::Canary).await, None, "nothing runs the new version any more");
    }

    async fn set(&self, from: &ImageRef, to: &ImageRef) {
        let change = ImageChange { from: from.clone(), to: to.clone(), config: ConfigRefs::new(), scale: None };
        good("the image can be changed", self.deployer.set_image(&self.cx(), self.target, &change).await);
        let done = self.everywhere(to).await;
        good("the same again is fine", self.deployer.set_image(&self.cx(), self.target, &change).await);
        let again = self.see(Track::Stable).await.expect("it is there");
        assert_eq!(again.generation, done.generation, "and writes nothing");
    }

    async fn goes_on_and_back(&self, before: &Workload) {
        let (old, new) = (&before.image, &self.target.service.image);
        self.hold(1).await;
        self.set(old, new).await;
        let third: ImageRef = "registry.example/conformance:third".parse().expect("an image");
        let foreign = ImageChange { from: third.clone(), to: third, config: ConfigRefs::new(), scale: None };
        let drift = self.deployer.set_image(&self.cx(), self.target, &foreign).await;
        fails("neither from nor to", ErrorKind::Drift, drift);
        let spec = CanarySpec::new(new.clone(), "conformance", 1, true);
        let drift = self.deployer.deploy(&self.cx(), self.target, &spec).await;
        fails("nothing holds it any more", ErrorKind::Drift, drift);
        self.set(new, old).await;
    }

    async fn stops(&self, before: &Workload) {
        let n = before.replicas.desired;
        let scale = async |from, to| {
            let scaled = self.deployer.scale(&self.cx(), self.target, Track::Stable, Scale { from, to }).await;
            good("it can be scaled", scaled);
        };
        scale(n, 0).await;
        let none = |w: &Workload| w.observed && w.replicas.total == 0;
        let stopped = self.deployer.wait(&self.cx(), self.target, Track::Stable, &none, &|_| ()).await;
        good("no instance is left", stopped);
        let drift = self.deployer.scale(&self.cx(), self.target, Track::Stable, Scale { from: n, to: n + 1 }).await;
        fails("neither from nor to", ErrorKind::Drift, drift);
        scale(0, n).await;
        self.everywhere(&before.image).await;
    }
}
