//! Releases, and how they are to end.

use std::path::Path;

use moodify_core::journal::Outcome;
use serde_json::{Value, json};

/// How many instances serve each service.
pub(super) const CAPACITY: u32 = 3;

/// How many bad measurements in a row of the error rate are tolerated.
pub(super) const TOLERANCE: u32 = 2;

/// The runbook's release in small, and how it is to end.
#[derive(Debug)]
pub struct Story {
    /// What people call it.
    pub name: &'static str,
    /// `http-route`, `ingress-nginx` or `replica-ratio`.
    pub router: &'static str,
    /// The services, and how the new version of each behaves: the words after the version in its image's tag.
    pub services: &'static [(&'static str, &'static str)],
    /// How long each weight stands.
    pub bake: &'static str,
    /// How long instances may take to become ready.
    pub ready: &'static str,
    /// Whether two Deployments take turns, in place of a canary beside one.
    pub turns: bool,
    /// Whether it is rolled out in one step, without a canary.
    pub rolls: bool,
    /// Whether the story is how the release is taken back after it completed.
    pub undo: bool,
    /// Whether the error rate is watched too, which takes a Prometheus.
    pub errors: bool,
    /// The record after which a person takes it back.
    pub abort: Option<&'static str>,
    /// How it ends.
    pub outcome: Outcome,
    /// The record from which on it is killed; the way until there is another story's.
    pub from: &'static str,
    /// The weights that the canary gets, in this order and no other.
    pub weights: &'static [u8],
}

const TWO: &[(&str, &str)] = &[("backend", ""), ("frontend", "")];

/// The release that nothing goes wrong with; the others say what is otherwise.
const GOOD: Story = Story {
    name: "good",
    router: "http-route",
    services: TWO,
    bake: "1s",
    ready: "60s",
    turns: false,
    rolls: false,
    undo: false,
    errors: false,
    abort: None,
    outcome: Outcome::Completed,
    from: "created",
    weights: &[10, 50, 100],
};

/// All of them, the longest first.
pub fn stories() -> &'static [Story] {
    &[
        GOOD,
        Story { name: "good by ratio", router: "replica-ratio", services: &[("backend", "")], ..GOOD },
        Story {
            name: "errors",
            services: &[("backend", ""), ("frontend", "-err100")],
            bake: "60s",
            errors: true,
            outcome: Outcome::RolledBack,
            from: "step-started rollout-bake-10",
            weights: &[10],
            ..GOOD
        },
        Story {
            name: "aborted",
            abort: Some("step-started rollout-bake-50"),
            outcome: Outcome::RolledBack,
            from: "commanded",
            weights: &[10, 50],
            ..GOOD
        },
        Story {
            name: "aborted by ratio",
            router: "replica-ratio",
            services: &[("backend", "")],
            abort: Some("step-started rollout-bake-50"),
            outcome: Outcome::RolledBack,
            from: "commanded",
            weights: &[10, 50],
            ..GOOD
        },
        Story {
            name: "good by nginx",
            router: "ingress-nginx",
            services: &[("backend", "")],
            from: "step-started rollout-shift-10",
            ..GOOD
        },
        Story {
            name: "aborted by nginx",
            router: "ingress-nginx",
            services: &[("backend", "")],
            abort: Some("step-started rollout-bake-50"),
            outcome: Outcome::RolledBack,
            from: "commanded",
            weights: &[10, 50],
            ..GOOD
        },
        Story {
            name: "never ready",
            services: &[("backend", ""), ("frontend", "-missing")],
            ready: "4s",
            outcome: Outcome::RolledBack,
            from: "step-started rollout-deploy",
            weights: &[],
            ..GOOD
        },
        Story {
            name: "aborted in its turn",
            turns: true,
            abort: Some("step-started rollout-keep-old"),
            outcome: Outcome::RolledBack,
            from: "commanded",
            ..GOOD
        },
        Story { name: "rolled", rolls: true, weights: &[], ..GOOD },
        Story { name: "undone", rolls: true, undo: true, weights: &[], ..GOOD },
    ]
}

impl Story {
    /// Whether traffic is divided by weights in a routing object.
    pub(super) fn is_routed(&self) -> bool {
        self.router != "replica-ratio"
    }

    /// The image of a service.
    pub(super) fn image(name: &str, tag: &str) -> String {
        format!("registry.test/{name}:{tag}")
    }

    /// The tag of a service's new version.
    pub(super) fn tag(&self, name: &str, version: &str) -> String {
        let behaviour = self.services.iter().find(|(n, _)| *n == name).map_or("", |(_, behaviour)| behaviour);
        format!("{version}{behaviour}")
    }

    /// How long the weight stands at which it is aborted: until it is.
    fn bakes(&self) -> Value {
        match self.abort {
            Some(_) if !self.turns => json!([self.bake, "60s", self.bake]),
            _ => json!(self.bake),
        }
    }

    /// What stands beside the Deployment of a service.
    pub(super) fn canary(&self, name: &str) -> String {
        format!("{name}-{}", if self.turns { "green" } else { "canary" })
    }

    /// The plan that releases `version`.
    pub(super) fn plan(&self, namespace: &str, version: &str, kubeconfig: &Path, prometheus: Option<&str>) -> Value {
        let service = |name: &str| {
            let mut traffic = json!({"router": self.router, "service": name});
            if self.is_routed() {
                traffic["route"] = json!(name);
            }
            let image = Self::image(name, &self.tag(name, version));
            json!({"name": name, "workload": name, "image": image, "traffic": traffic})
        };
        let services: Vec<Value> = self.services.iter().map(|(name, _)| service(name)).collect();
        let mut metrics = vec![json!({"name": "crash-loop", "source": "pods", "fail": "> 0"})];
        let mut backends = json!({"kubernetes": {"kubeconfig": kubeconfig}});
        if let Some(url) = prometheus {
            let check = json!({"name": "error-rate", "source": "prometheus", "fail": "> 5%", "tolerance": TOLERANCE, "window": "5s"});
            metrics.push(check);
            backends["prometheus"] = json!({"url": url});
        }
        // No bake holds for want of data: that would be records at times of their own.
        let analysis = json!({"interval": "1s", "no-data": {"after": 40, "hold": "60s"}, "metrics": metrics});
        let mut canary = json!({
            "weights": [10, 50, 100], "bake": self.bakes(), "ready-deadline": self.ready, "analysis": analysis,
        });
        let rollout = match (self.rolls, self.turns) {
            (false, false) => json!({"name": "rollout", "strategy": {"canary": canary}}),
            (false, true) => {
                // It is aborted by then.
                canary["keep"] = "60s".into();
                json!({"name": "rollout", "strategy": {"blue-green": canary}})
            }
            (true, _) => json!({"name": "rollout", "steps": [
                {"name": "rollout-baseline", "action": "baseline"}, {"name": "rollout-roll", "action": "roll"},
            ]}),
        };
        json!({
            "name": "release",
            "environment": {"name": "production", "kind": "production", "namespace": namespace},
            "release": {"version": version, "services": services},
            "backends": backends,
            "phases": [rollout],
        })
    }
}
