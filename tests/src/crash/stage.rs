//! A namespace in which cases of one story are played, one after the other.

use std::process::Stdio;
use std::time::Duration;

use kube::Client;
use moodify_core::journal::Outcome;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::story::{CAPACITY, Story};
use super::world::{History, LOAD, Watch, World};
use crate::BoxError;
use crate::rig::{Namespace, Prometheus, Rig, deployment};
use crate::routes::route;

/// How long the cluster may take to remove what was deleted.
const SETTLE: Duration = Duration::from_secs(40);

/// A namespace with the services of a story.
pub(super) struct Stage {
    pub(super) namespace: Namespace,
    pub(super) story: &'static Story,
    pub(super) client: Client,
    pub(super) watch: Watch,
    prometheus: Option<Prometheus>,
    /// The number of the version that serves, of the last one that was released, and of the one that is to serve.
    serves: u32,
    released: u32,
    target: u32,
}

impl Stage {
    /// Deploys version `v1` of the story's services; nothing, said aloud, where it takes a Prometheus and there is none.
    pub(super) async fn new(rig: &'static Rig, story: &'static Story) -> Option<Self> {
        let namespace = rig.namespace(&format!("sweep-{}", story.name.replace(' ', "-"))).await;
        let prometheus = match story.errors {
            true => Some(namespace.prometheus().await?),
            false => None,
        };
        for (name, _) in story.services {
            let mut object = deployment(name, &Story::image(name, "v1"), CAPACITY);
            // Quicker than one by one, and no less of a rollout.
            object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}});
            // Requests to pods that nobody measures would only cost time.
            let load = if story.errors { "5" } else { "0" };
            object["spec"]["template"]["metadata"]["annotations"] = json!({LOAD: load});
            namespace.place(&mut object["spec"]["template"]);
            namespace.apply(&object.to_string()).await;
            let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"app": name}, "ports": ports},
            });
            namespace.apply(&service.to_string()).await;
            if story.is_routed() {
                namespace.apply(&route(story.router, name, name).to_string()).await;
            }
        }
        for (name, _) in story.services {
            namespace.wait_ready(name).await;
        }
        let client = namespace.client().await;
        let watch = Watch::start(&client, namespace.name());
        Some(Self { namespace, story, client, watch, prometheus, serves: 1, released: 1, target: 1 })
    }

    /// A version that was never released here, and the plan that releases it.
    pub(super) fn next_version(&mut self) -> Value {
        self.released += 1;
        self.target = self.released;
        let kubeconfig = self.namespace.kubeconfig("admin");
        let url = self.prometheus.as_ref().map(Prometheus::url);
        self.story.plan(self.namespace.name(), &format!("v{}", self.released), &kubeconfig, url)
    }

    /// From here on the version is taken back that was released last; it serves, and `before` did.
    pub(super) fn take_back(&mut self, before: u32) {
        (self.serves, self.target) = (self.released, before);
    }

    fn image(&self, name: &str, number: u32) -> String {
        let version = format!("v{number}");
        // What serves is always good: nothing else is ever promoted.
        let tag = if number == self.released { self.story.tag(name, &version) } else { version };
        Story::image(name, &tag)
    }

    pub(super) async fn look(&self) -> Result<World, BoxError> {
        World::look(&self.client, self.namespace.name()).await
    }

    /// Waits until the world is as it should be after `outcome`; it was `before` then.
    pub(super) async fn settles(&mut self, before: &World, outcome: Option<Outcome>) -> Result<(), BoxError> {
        let mut wanted = before.clone();
        if outcome == Some(Outcome::Completed) {
            for (name, _) in self.story.services {
                wanted.release(name, &self.image(name, self.target));
            }
            self.serves = self.target;
        }
        // What a rollback did not have to touch, it has not touched.
        let untouched = outcome.is_none() || outcome == Some(Outcome::RolledBack) && self.story.is_routed();
        let deployments = |world: &World| -> Vec<Value> {
            let all = world.objects.iter().filter(|(name, _)| name.starts_with("Deployment/"));
            all.map(|(_, object)| object["metadata"].clone()).collect()
        };
        let wanted = self.comparable(wanted, outcome);
        let deadline = Instant::now() + SETTLE;
        loop {
            let now = self.look().await?;
            let mut differences = self.comparable(now.clone(), outcome).differs(&wanted);
            if untouched && deployments(&now) != deployments(before) {
                differences.push("a stable Deployment was written to".to_owned());
            }
            if differences.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the world is not as it should be: {}", differences.join("; ")).into());
            }
            // Each look is ten lists, and many cases look.
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    /// A world without what had to change: who wrote a field last manages it.
    fn comparable(&self, world: World, outcome: Option<Outcome>) -> World {
        let mut world = world.without_counts();
        if !self.story.weights.is_empty() {
            world = world.without_managed("HTTPRoute/", &["f:spec", "f:rules"]);
        }
        if self.story.turns {
            world = world.without_managed("Service/", &["f:spec", "f:selector"]);
        }
        if self.story.router == "replica-ratio" {
            world = world.without_managed("Deployment/", &["f:spec", "f:replicas"]);
        }
        if outcome == Some(Outcome::Completed) {
            for (name, _) in self.story.services {
                let container = format!("k:{{\"name\":\"{name}\"}}");
                let path = ["f:spec", "f:template", "f:spec", "f:containers", &container, "f:image"];
                world = world.without_managed(&format!("Deployment/{name}"), &path);
            }
        }
        world
    }

    /// A history in which the versions are `old` and `new`.
    pub(super) fn told(&self, mut history: History, served: u32) -> History {
        for states in history.values_mut() {
            for state in states {
                for (name, _) in self.story.services {
                    for (number, word) in [(served, "old"), (self.target, "new")] {
                        if let Some(rest) = state.strip_suffix(&self.image(name, number)) {
                            *state = format!("{rest}{word}");
                        }
                    }
                }
            }
        }
        history
    }

    /// The number of the version that serves.
    pub(super) fn serves(&self) -> u32 {
        self.serves
    }

    /// A command whose output is read, and that ends with us.
    pub(super) fn command(program: &std::path::Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}
