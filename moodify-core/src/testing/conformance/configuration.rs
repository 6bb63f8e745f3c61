use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, good};
use crate::CallContext;
use crate::backend::{CanarySpec, Deployer, DeployerExt, ImageChange, Workload};
use crate::model::{ConfigRefs, Target, Track};

/// What the suite of configuration that ships with a version needs.
#[async_trait]
pub trait ConfigurationHarness: Send + Sync {
    /// The one under test.
    fn deployer(&self) -> Arc<dyn Deployer>;

    /// A service in place ([`Layout::InPlace`](crate::model::Layout)) that ships one configuration with contents, that its
    /// stable workload, complete and of another image, reads under its own name. The suite leaves it as it was.
    fn target(&self) -> Target;

    /// The contents of an object of that name; `None` if there is none.
    async fn contents(&self, name: &str) -> Option<BTreeMap<String, String>>;

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts a [`Deployer`] to its contract for configuration that ships with a version.
///
/// # Panics
/// If it is not kept.
pub async fn configuration(harness: &dyn ConfigurationHarness) {
    let suite = Suite { harness, deployer: harness.deployer(), target: harness.target() };
    let before = suite.see(Track::Stable).await.expect("the workload is there");
    suite.a_canary_reads_its_own(&before).await;
    suite.the_stable_one_reads_it_too_and_goes_back(&before).await;
}

struct Suite<'a> {
    harness: &'a dyn ConfigurationHarness,
    deployer: Arc<dyn Deployer>,
    target: Target,
}

impl Suite<'_> {
    fn cx(&self) -> CallContext {
        context("configuration", self.harness.patience())
    }

    async fn see(&self, track: Track) -> Option<Workload> {
        good("it can be observed", self.deployer.observe(&self.cx(), &self.target, track).await)
    }

    fn wanted(&self) -> ConfigRefs {
        self.target.service.config_refs()
    }

    /// The object of the new version, and its contents as the plan has them.
    fn shipped(&self) -> (String, BTreeMap<String, String>) {
        let config = &self.target.service.config[0];
        (config.object(), config.data.clone().expect("it has contents"))
    }

    async fn wait(&self, track: Track, done: impl Fn(&Workload) -> bool + Send + Sync) -> Workload {
        let seen = self.deployer.wait(&self.cx(), &self.target, track, &done, &|_| ()).await;
        good("it becomes as asked for", seen)
    }

    async fn a_canary_reads_its_own(&self, before: &Workload) {
        let name = self.target.service.config[0].name.clone();
        let old: ConfigRefs = self.wanted().into_keys().map(|key| (key, name.clone())).collect();
        assert_eq!(before.config, old, "at first it reads what its manifest says");
        let (object, contents) = self.shipped();
        assert_eq!(self.harness.contents(&object).await, None, "nobody made it yet");
        let spec = CanarySpec::new(self.target.service.image.clone(), "conformance", 1, true).reading(self.wanted());
        for _ in 0..2 {
            let made = good("it can be deployed", self.deployer.deploy(&self.cx(), &self.target, &spec).await);
            assert_eq!(made.config, self.wanted(), "the canary reads what ships with it");
        }
        assert_eq!(self.harness.contents(&object).await, Some(contents), "made before it is referred to");
        self.wait(Track::Canary, |w| w.has_available(1)).await;
        let stable = self.see(Track::Stable).await;
        assert_eq!(stable.map(|w| (w.config, w.generation)), Some((old, before.generation)), "nobody else reads it");
        good("it can be removed", self.deployer.remove(&self.cx(), &self.target).await);
        assert_eq!(self.harness.contents(&object).await, None, "no version can need it any more");
    }

    async fn the_stable_one_reads_it_too_and_goes_back(&self, before: &Workload) {
        let (object, contents) = self.shipped();
        let to = self.target.service.image.clone();
        let there = ImageChange { from: before.image.clone(), to: to.clone(), config: self.wanted(), scale: None };
        for _ in 0..2 {
            let set = self.deployer.set_image(&self.cx(), &self.target, &there).await;
            assert_eq!(good("the image can be set", set).config, self.wanted(), "it reads what ships with it");
        }
        assert_eq!(self.harness.contents(&object).await, Some(contents));
        self.wait(Track::Stable, Workload::is_complete).await;
        good("nothing to remove is fine", self.deployer.remove(&self.cx(), &self.target).await);
        assert!(self.harness.contents(&object).await.is_some(), "what serves reads it");
        let back = ImageChange { from: to, to: before.image.clone(), config: before.config.clone(), scale: None };
        let set = good("it can go back", self.deployer.set_image(&self.cx(), &self.target, &back).await);
        assert_eq!((set.image, set.config), (before.image.clone(), before.config.clone()));
        self.wait(Track::Stable, Workload::is_complete).await;
    }
}
