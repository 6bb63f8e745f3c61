//! Whether the namespace's quotas have room for what a release adds at its peak. What is counted is pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodSpec, ResourceQuota, ResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::params::ListParams;
use moodify_core::model::{Layout, Target, WorkloadKind};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::Value;

use crate::client::{Kind, Kube, Object, POD};
use crate::diagnostics::selector_text;
use crate::error::Access;
use crate::single;
use crate::traffic::Router;
use crate::verbs::quantity::nanos;

const QUOTA: Kind = Kind { group: "", version: "v1", kind: "ResourceQuota", plural: "resourcequotas" };
/// One, in billionths, in which amounts are counted.
const ONE: u128 = 1_000_000_000;

/// What a release adds at its peak.
#[derive(Debug)]
pub(crate) struct Peak {
    /// How many pods.
    pub(crate) pods: u32,
    /// What each of them is like.
    pub(crate) spec: PodSpec,
    /// Whether there is another Deployment then.
    deployment: bool,
    /// Whether there is another Service then.
    service: bool,
}

/// How many pods of a workload are looked at to see what they are like.
const SOME: u32 = 50;

/// What a number of pods adds, by the names that quotas have for it, in billionths.
#[derive(Debug, Default, PartialEq, Eq)]
struct Added {
    pods: u128,
    deployments: u128,
    services: u128,
    /// `requests.cpu` and so on.
    amounts: BTreeMap<String, u128>,
}

/// What one pod asks for: its containers together, or its largest init container, and the overhead.
pub(crate) fn of_pod(spec: &PodSpec, which: &str, resource: &str) -> u128 {
    let value = |text: Option<&String>| text.and_then(|text| nanos(text)).unwrap_or(0);
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let resources = container.resources.as_ref();
        let map = resources.and_then(|r| if which == "requests" { r.requests.as_ref() } else { r.limits.as_ref() });
        value(map.and_then(|map| map.get(resource)).map(|quantity| &quantity.0))
    };
    let (inits, stays): (Vec<_>, Vec<_>) = spec
        .init_containers
        .iter()
        .flatten()
        .map(|init| (init, init.restart_policy.as_deref() == Some("Always")))
        .partition(|(_, stays)| !stays);
    let together: u128 = spec.containers.iter().map(of).sum::<u128>() + stays.iter().map(|(c, _)| of(c)).sum::<u128>();
    let first = inits.iter().map(|(init, _)| of(init)).max().unwrap_or(0);
    let overhead = value(spec.overhead.as_ref().and_then(|map| map.get(resource)).map(|quantity| &quantity.0));
    together.max(first) + overhead
}

impl Added {
    fn pods_of(&mut self, spec: &PodSpec, count: u32) {
        let count = u128::from(count);
        self.pods += count * ONE;
        for which in ["requests", "limits"] {
            for resource in ["cpu", "memory", "ephemeral-storage"] {
                let amount = of_pod(spec, which, resource) * count;
                *self.amounts.entry(format!("{which}.{resource}")).or_default() += amount;
            }
        }
    }

    /// How much of what a quota calls so; `None` for what a release adds nothing of.
    fn of(&self, name: &str) -> Option<u128> {
        match name {
            "pods" | "count/pods" => Some(self.pods),
            "count/deployments.apps" => Some(self.deployments),
            "services" | "count/services" => Some(self.services),
            "cpu" | "memory" | "ephemeral-storage" => self.amounts.get(&format!("requests.{name}")).copied(),
            other => self.amounts.get(other).copied(),
        }
        .filter(|amount| *amount > 0)
    }

    fn of_peaks<'a>(peaks: impl Iterator<Item = &'a Peak>) -> Self {
        let mut added = Self::default();
        for peak in peaks {
            added.pods_of(&peak.spec, peak.pods);
            added.deployments += u128::from(peak.deployment) * ONE;
            added.services += u128::from(peak.service) * ONE;
        }
        added
    }

    /// What does not fit, a sentence each.
    fn beyond(&self, quota: &ResourceQuota) -> Vec<String> {
        let status = quota.status.clone().unwrap_or_default();
        let used = status.used.unwrap_or_default();
        let hard = quota.spec.clone().unwrap_or_default().hard.unwrap_or_default();
        let short = hard.iter().filter_map(|(name, most)| {
            let (added, most) = (self.of(name)?, nanos(&most.0)?);
            let used = used.get(name).and_then(|used| nanos(&used.0)).unwrap_or(0);
            (used + added > most).then(|| {
                let (most, used, added) = (told(name, most), told(name, used), told(name, added));
                format!("{name}: {used} of {most} are used, and the release adds {added} at its peak")
            })
        });
        short.collect()
    }
}

/// What of a release a quota counts: all of it, or with scopes the pods that each of them is about
/// (<https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes>).
fn counted(peaks: &[Peak], quota: &ResourceQuota) -> Added {
    let spec = quota.spec.clone().unwrap_or_default();
    let plain = spec.scopes.unwrap_or_default().into_iter().map(|name| (name, "Exists".to_owned(), Vec::new()));
    let selected = spec.scope_selector.and_then(|selector| selector.match_expressions).unwrap_or_default();
    let selected = selected.into_iter().map(|one| (one.scope_name, one.operator, one.values.unwrap_or_default()));
    let scopes: Vec<(String, String, Vec<String>)> = plain.chain(selected).collect();
    if scopes.is_empty() {
        return Added::of_peaks(peaks.iter());
    }
    let is_in = |spec: &PodSpec| scopes.iter().all(|(name, operator, values)| in_scope(spec, name, operator, values));
    // Such a quota counts nothing but pods.
    let pods = Added::of_peaks(peaks.iter().filter(|peak| is_in(&peak.spec)));
    Added { deployments: 0, services: 0, ..pods }
}

fn in_scope(spec: &PodSpec, scope: &str, operator: &str, values: &[String]) -> bool {
    let ends = spec.active_deadline_seconds.is_some();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "CrossNamespacePodAffinity" => looks_elsewhere(spec),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|class| !class.is_empty());
            let named = class.is_some_and(|class| values.iter().any(|value| value == class));
            match operator {
                "In" => named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        // Not about pods, or of a newer Kubernetes: it is left to the server.
        _ => false,
    }
}

/// No container asks for a processor or memory, nor is bounded in them.
fn is_best_effort(spec: &PodSpec) -> bool {
    let amounts = |amounts: Option<&BTreeMap<String, Quantity>>| {
        let counts = |(name, amount): (&String, &Quantity)| {
            matches!(name.as_str(), "cpu" | "memory") && nanos(&amount.0).is_some_and(|amount| amount > 0)
        };
        amounts.is_some_and(|amounts| amounts.iter().any(counts))
    };
    let has = |resources: Option<&ResourceRequirements>| {
        resources.is_some_and(|r| amounts(r.requests.as_ref()) || amounts(r.limits.as_ref()))
    };
    let inits = spec.init_containers.iter().flatten();
    !has(spec.resources.as_ref()) && !spec.containers.iter().chain(inits).any(|c| has(c.resources.as_ref()))
}

/// Whether it wants to be near pods of other namespaces, or far from them.
fn looks_elsewhere(spec: &PodSpec) -> bool {
    let elsewhere = |term: &PodAffinityTerm| {
        term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|names| !names.is_empty())
    };
    let any = |preferred: &Option<Vec<WeightedPodAffinityTerm>>, required: &Option<Vec<PodAffinityTerm>>| {
        preferred.iter().flatten().any(|weighted| elsewhere(&weighted.pod_affinity_term))
            || required.iter().flatten().any(elsewhere)
    };
    let Some(Affinity { pod_affinity: near, pod_anti_affinity: far, .. }) = &spec.affinity else { return false };
    near.as_ref().is_some_and(|near| {
        any(
            &near.preferred_during_scheduling_ignored_during_execution,
            &near.required_during_scheduling_ignored_during_execution,
        )
    }) || far.as_ref().is_some_and(|far| {
        any(
            &far.preferred_during_scheduling_ignored_during_execution,
            &far.required_during_scheduling_ignored_during_execution,
        )
    })
}

/// An amount for people: memory in MiB, the rest in ones.
fn told(name: &str, nanos: u128) -> String {
    let is_bytes = name.contains("memory") || name.contains("storage");
    if is_bytes {
        return format!("{} Mi", nanos.div_ceil(ONE << 20));
    }
    let thousandths = nanos.div_ceil(ONE / 1000);
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}

/// How many pods a workload adds at the peak of its release, and whether there is a second workload.
fn peak(target: &Target, workload: &Value) -> (u32, bool) {
    let status = |at: &str| workload.pointer(at).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let capacity = status("/spec/replicas").unwrap_or(1);
    let surge = surge(workload, capacity);
    match target.layout {
        Layout::Colors(_) => (capacity, true),
        // What is promoted is rolled while the canaries carry the traffic.
        Layout::InPlace if Router::of(target).is_some() => (capacity + surge, true),
        // In the end stable's own come back beside the canaries.
        Layout::InPlace => (capacity, true),
        Layout::Single if target.service.kind == WorkloadKind::Deployment => (surge, false),
        Layout::Single => (0, false),
    }
}

/// How many pods more than asked for a Deployment may have while it rolls.
fn surge(workload: &Value, capacity: u32) -> u32 {
    if workload["spec"]["strategy"]["type"] == "Recreate" {
        return 0;
    }
    match &workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] {
        Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        Value::String(text) => {
            let percent: u32 = text.trim_end_matches('%').parse().unwrap_or(25);
            (capacity * percent).div_ceil(100)
        }
        _ => capacity.div_ceil(4),
    }
}

impl Kube {
    /// Whether the quotas of a namespace have room for a release of these targets, all in lockstep.
    pub(crate) async fn check_quotas(
        &self,
        cx: &CallContext,
        namespace: &str,
        targets: &[&Target],
    ) -> Result<Vec<Error>> {
        let quotas: Vec<ResourceQuota> = self.list(cx, QUOTA, namespace, &ListParams::default()).await?;
        if quotas.is_empty() {
            return Ok(Vec::new());
        }
        let mut peaks = Vec::new();
        for target in targets {
            peaks.extend(self.peak(cx, target).await?);
        }
        let refused = quotas.iter().flat_map(|quota| {
            let name = quota.metadata.name.clone().unwrap_or_default();
            let ask = Object::new(QUOTA, namespace, &name).ask(Access::Read, "check");
            counted(&peaks, quota).beyond(quota).into_iter().map(move |why| {
                ask.error(ErrorKind::Invalid, format!("it has no room for the release: {why}"))
                    .hint("free what is not needed in the namespace, or raise the ResourceQuota; nothing was changed")
            })
        });
        Ok(refused.collect())
    }

    /// What a release of this target adds at its peak; nothing if there is no workload.
    pub(crate) async fn peak(&self, cx: &CallContext, target: &Target) -> Result<Option<Peak>> {
        let Some(workload) = self.find::<Value>(cx, &single::object_of(target)).await? else { return Ok(None) };
        let (pods, second) = peak(target, &workload);
        let service = second && (Router::of(target).is_some() || target.layout != Layout::InPlace);
        Ok(Some(Peak { pods, spec: self.pod_spec(cx, target, &workload).await?, deployment: second, service }))
    }

    /// What one of its pods is like: as it runs, with what a `LimitRange` has put in; else as the template says.
    async fn pod_spec(&self, cx: &CallContext, target: &Target, workload: &Value) -> Result<PodSpec> {
        let ask = single::object_of(target).ask(Access::Read, "check");
        let selector = crate::client::typed(&ask, workload["spec"]["selector"].clone())?;
        let params = ListParams::default().labels(&selector_text(&selector)).limit(SOME);
        let pods: Vec<k8s_openapi::api::core::v1::Pod> = self.list(cx, POD, &target.namespace, &params).await?;
        // Those on their way out may be of another template.
        let stays = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let newest = stays.max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        match newest.and_then(|pod| pod.spec) {
            Some(spec) => Ok(spec),
            None => crate::client::typed(&ask, workload["spec"]["template"]["spec"].clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::target;
    use moodify_core::model::Color;
    use serde_json::json;

    fn added(pods: u32) -> Added {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [
                {"name": "web", "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "1"}}},
                {"name": "proxy", "resources": {"requests": {"cpu": "50m"}}}],
            "initContainers": [
                {"name": "migrate", "resources": {"requests": {"cpu": "400m"}}},
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"memory": "64Mi"}}}],
        }))
        .unwrap();
        let mut added = Added::default();
        added.pods_of(&spec, pods);
        added
    }

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
        let two = added(2);
        assert_eq!(two.of("requests.cpu"), Some(800 * 1_000_000), "400m twice: the init container is the largest");
        assert_eq!(two.of("memory"), Some(2 * (1024 + 64) * (ONE << 20)));
        assert_eq!(
            (two.of("limits.cpu"), two.of("pods"), two.of("limits.memory")),
            (Some(2 * ONE), Some(2 * ONE), None)
        );
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_figures() {
        let quota = |hard: Value, used: Value| {
            serde_json::from_value::<ResourceQuota>(json!({"spec": {"hard": hard}, "status": {"used": used}})).unwrap()
        };
        let tight = quota(json!({"pods": "10", "requests.cpu": "4"}), json!({"pods": "7", "requests.cpu": "2500m"}));
        assert!(added(3).beyond(&tight).is_empty(), "it just fits");
        assert_eq!(
            added(4).beyond(&tight),
            [
                "pods: 7 of 10 are used, and the release adds 4 at its peak",
                "requests.cpu: 2500m of 4 are used, and the release adds 1600m at its peak",
            ]
        );
    }

    #[test]
    fn a_quota_with_scopes_counts_the_pods_that_all_of_them_are_about() {
        let of = |spec: Value| Peak {
            pods: 2,
            spec: serde_json::from_value(spec).unwrap(),
            deployment: true,
            service: true,
        };
        let resources = json!({"requests": {"cpu": "1"}});
        let peaks = [
            of(json!({"containers": [{"name": "a", "resources": resources}], "priorityClassName": "high"})),
            of(json!({"containers": [{"name": "a"}], "affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "namespaces": ["other"]}]}}})),
        ];
        let pods = |spec: Value| {
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
            let added = counted(&peaks, &quota);
            (added.pods / ONE, added.deployments / ONE, added.services / ONE)
        };
        assert_eq!(pods(json!({})), (4, 2, 2));
        for (scope, count) in [
            ("Terminating", 0),
            ("NotTerminating", 4),
            ("BestEffort", 2),
            ("NotBestEffort", 2),
            ("CrossNamespacePodAffinity", 2),
            ("PriorityClass", 2),
            ("VolumeAttributesClass", 0),
        ] {
            assert_eq!(pods(json!({"scopes": [scope]})), (count, 0, 0), "{scope}");
        }
        assert_eq!(pods(json!({"scopes": ["BestEffort", "PriorityClass"]})), (0, 0, 0), "no pod is both");
        for (operator, values, count) in [
            ("In", json!(["high", "low"]), 2),
            ("In", json!(["low"]), 0),
            ("NotIn", json!(["high"]), 2),
            ("NotIn", json!(["low"]), 4),
            ("Exists", json!([]), 2),
            ("DoesNotExist", json!([]), 2),
        ] {
            let one = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            assert_eq!(pods(json!({"scopeSelector": {"matchExpressions": [one]}})), (count, 0, 0), "{operator}");
        }
    }

    #[test]
    fn the_peak_depends_on_how_the_versions_stand_side_by_side() {
        let web = json!({"spec": {"replicas": 8, "strategy": {"rollingUpdate": {"maxSurge": "25%"}}}});
        assert_eq!(peak(&target(), &web), (10, true));
        assert_eq!(peak(&target().with_layout(Layout::Colors(Color::Blue)), &web), (8, true));
        assert_eq!(peak(&target().with_layout(Layout::Single), &web), (2, false));
        let mut set = target().with_layout(Layout::Single);
        set.service.kind = WorkloadKind::StatefulSet;
        assert_eq!(peak(&set, &web), (0, false));
    }
}
