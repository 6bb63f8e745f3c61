//! What a release may have to do in the cluster: the one list that is checked before a release and that a Role is made of.

use std::collections::BTreeMap;

use moodify_core::action::{
    ApplicationParams, BackUpConfigurationParams, ExecParams, RestoreConfigurationParams, RunJobParams,
    SetCronJobsParams, SuspendCronJobsParams, kinds,
};
use moodify_core::backend::{Connection, WorkloadRef};
use moodify_core::model::{ConfigKind, Layout, Plan, Step, Target, Track, WorkloadKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{
    AUTOSCALER, CONFIG_MAP, CRON_JOB, DEPLOYMENT, GATEWAY, GATEWAY_CLASS, INGRESS_ROUTE, JOB, Kind, POD, SECRET,
    STATEFUL_SET, TRAEFIK_SERVICE,
};
use crate::configuration_backup::KINDS;
use crate::names::{self, MANAGED_BY, canary_of, canary_service, with_suffix};
use crate::operations::kind_of;
use crate::rival_scalers::is_by_ratio;
use crate::single;
use crate::traffic::{Router, mirror_service, testers_route};

/// A permission: group, resource (with subresource), verb, and the name of the object if only one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) name: Option<String>,
}

/// Which objects are meant.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// All of the namespace: what is made has no name before, and pods and events are found by labels.
    All,
    Workload,
    CanaryWorkload,
    Service,
    CanaryService,
    BlueService,
    Route,
    CanaryRoute,
}

type Needed = (&'static str, &'static str, &'static [Of], &'static [&'static str]);

const BOTH: &[Of] = &[Of::Workload, Of::CanaryWorkload];

/// What every release needs, by group and resource.
const ALWAYS: [Needed; 8] = [
    ("apps", "deployments", BOTH, &["get", "list", "watch"]),
    ("apps", "deployments", &[Of::All], &["create"]),
    ("apps", "deployments", BOTH, &["patch"]),
    ("apps", "deployments", &[Of::CanaryWorkload], &["delete"]),
    ("", "services", &[Of::Service, Of::CanaryService], &["get"]),
    ("", "pods", &[Of::All], &["list", "watch"]),
    ("", "events", &[Of::All], &["list"]),
    ("", "resourcequotas", &[Of::All], &["list"]),
];

/// What a canary with a Service of its own needs beside that.
const OWN_SERVICE: [Needed; 5] = [
    ("", "services", &[Of::All], &["create"]),
    ("", "services", &[Of::CanaryService], &["patch"]),
    ("policy", "poddisruptionbudgets", &[Of::All], &["list", "create", "patch"]),
    // What serves keeps the instances that a way back needs.
    ("autoscaling", "horizontalpodautoscalers", &[Of::All], &["list", "patch"]),
    ("keda.sh", "scaledobjects", &[Of::All], &["get", "patch"]),
];

/// What two workloads that take turns need: either of them may be the one that serves.
const TURNS: [Needed; 2] =
    [("", "services", &[Of::Service], &["patch"]), ("", "services", &[Of::BlueService], &["get", "patch", "delete"])];

/// What ingress-nginx needs of `Ingress`es: other canaries are looked for by their rules.
const OWN_INGRESS: [Needed; 3] = [
    ("networking.k8s.io", "ingresses", &[Of::Route], &["get"]),
    ("networking.k8s.io", "ingresses", &[Of::All], &["list", "create"]),
    ("networking.k8s.io", "ingresses", &[Of::CanaryRoute], &["get", "watch", "patch", "delete"]),
];

/// What configuration that ships with a version needs: an object of each version has a name of its own.
const CONFIG: [Needed; 1] = [("", "configmaps", &[Of::All], &["get", "list", "create", "delete"])];

/// What the journal in the cluster needs in its namespace.
const JOURNAL: [Needed; 2] = [
    ("", "configmaps", &[Of::All], &["get", "list", "watch", "create", "patch", "delete"]),
    ("coordination.k8s.io", "leases", &[Of::All], &["get", "create", "patch", "delete"]),
];

/// What a release in one workload needs.
fn single(target: &Target) -> Vec<Needed> {
    let workload = single::object_of(target).kind;
    let mut needed: Vec<Needed> = vec![
        (workload.group, workload.plural, &[Of::Workload], &["get", "list", "watch", "patch"]),
        ("", "services", &[Of::Service], &["get"]),
        ("", "pods", &[Of::All], &["list", "watch"]),
        ("", "events", &[Of::All], &["list"]),
        ("", "resourcequotas", &[Of::All], &["list"]),
    ];
    if target.service.kind != WorkloadKind::Deployment {
        needed.push(("", "pods", &[Of::All], &["delete"]));
    }
    if let Some(router) = Router::of(target) {
        needed.push((router.kind().group, router.kind().plural, &[Of::Route], &["get"]));
    }
    needed
}

/// What a router needs of its routing objects.
fn routes(router: Router) -> Vec<Needed> {
    match router {
        Router::IngressNginx => OWN_INGRESS.to_vec(),
        _ => vec![(router.kind().group, router.kind().plural, &[Of::Route], &["get", "list", "watch", "patch"])],
    }
}

/// What a release can do without: the Gateways of a route in this namespace say whether a weight is in force. In another
/// one no Role reaches them, and then nobody can tell.
const GATEWAYS: [Needed; 1] = [(GATEWAY.group, GATEWAY.plural, &[Of::All], &["get", "list", "watch"])];

fn name(target: &Target, of: Of) -> Option<String> {
    let traffic = &target.service.traffic;
    match of {
        Of::All => None,
        Of::Workload => Some(target.service.workload.clone()),
        Of::CanaryWorkload => Some(names::workload(target, Track::Canary)),
        Of::Service => Some(traffic.service.clone()),
        Of::CanaryService => Some(canary_service(target)),
        Of::BlueService => Some(with_suffix(&traffic.service, "blue")),
        Of::Route => traffic.route.clone(),
        Of::CanaryRoute => traffic.route.as_deref().map(canary_of),
    }
}

fn each<'a>(needed: &'a [Needed], target: Option<&'a Target>) -> impl Iterator<Item = Permission> + 'a {
    needed.iter().flat_map(move |(group, resource, objects, verbs)| {
        verbs.iter().flat_map(move |verb| {
            objects.iter().map(move |of| {
                let name = target.and_then(|target| name(target, *of));
                Permission { group, resource, verb, name }
            })
        })
    })
}

/// What a release of these targets of one namespace needs, each once.
pub(crate) fn permissions(targets: &[&Target]) -> Vec<Permission> {
    let mut all: Vec<Permission> = Vec::new();
    for target in targets {
        let mut needed = if target.layout == Layout::Single { single(target) } else { ALWAYS.to_vec() };
        if let Some(router) = Router::of(target).filter(|_| target.layout != Layout::Single) {
            needed.extend(OWN_SERVICE);
            needed.extend(routes(router));
        }
        if is_by_ratio(target) {
            needed.push((AUTOSCALER.group, AUTOSCALER.plural, &[Of::All], &["list"]));
        }
        if let Layout::Colors(_) = target.layout {
            needed.extend(TURNS);
            if Router::of(target).is_none() {
                needed.extend(OWN_SERVICE);
                needed.push(("", "services", &[Of::Service], &["list", "watch"]));
            }
        }
        if !target.service.config.is_empty() {
            needed.extend(CONFIG);
            let past =
                if target.service.kind == WorkloadKind::Deployment { "replicasets" } else { "controllerrevisions" };
            needed.push(("apps", past, &[Of::All], &["list"]));
        }
        let there = target.service.config.iter().filter(|config| config.data.is_none());
        let looked_for = there.map(|config| {
            let resource = if config.kind == ConfigKind::Secret { "secrets" } else { "configmaps" };
            Permission { group: "", resource, verb: "get", name: Some(config.object()) }
        });
        for permission in each(&needed, Some(target)).chain(looked_for) {
            if !all.contains(&permission) {
                all.push(permission);
            }
        }
    }
    all
}

/// The targets that a plan releases: none, if all that it does is to stop the application and start it again.
pub(crate) fn released(plan: &Plan) -> Vec<Target> {
    let has = |action: &str| plan.steps().any(|(_, step)| step.action == action);
    if has(kinds::STOP_APPLICATION) && !has(kinds::BASELINE) { Vec::new() } else { plan.targets() }
}

/// The connections that a plan switches.
pub(crate) fn connections(plan: &Plan) -> Vec<Connection> {
    let steps = plan.steps().map(|(_, step)| step).filter(|step| step.action == kinds::SWITCH_CONNECTION);
    steps.filter_map(|step| Connection::deserialize(&step.with["connection"]).ok()).collect()
}

/// Commands in pods.
const EXEC: Kind = Kind { plural: "pods/exec", ..POD };
/// What pods wrote.
const LOG: Kind = Kind { plural: "pods/log", ..POD };

/// The routing objects of this router that a step is about.
fn routes_of(plan: &Plan, step: &Step, router: Router) -> impl Iterator<Item = String> {
    let targets = targets_of(plan, step).filter(move |target| Router::of(target) == Some(router));
    targets.filter_map(|target| target.service.traffic.route)
}

/// Whom a step is about.
pub(crate) fn targets_of(plan: &Plan, step: &Step) -> impl Iterator<Item = Target> {
    let services = Vec::<String>::deserialize(&step.with["services"]).unwrap_or_default();
    let wanted = move |target: &Target| services.is_empty() || services.contains(&target.service.name);
    plan.targets().into_iter().filter(wanted)
}

/// What restoring configuration needs of each kind.
const RESTORING: &[&str] = &["get", "create", "patch"];

/// The namespace into which a step restores configuration, if it says one.
fn restored_into(step: &Step) -> Option<String> {
    RestoreConfigurationParams::deserialize(&step.with).ok()?.namespace
}

/// The kinds that a step restores.
fn restored(step: &Step) -> impl Iterator<Item = Kind> {
    let params = RestoreConfigurationParams::deserialize(&step.with).ok();
    params.is_some_and(|params| params.secrets).then_some(SECRET).into_iter().chain(KINDS)
}

/// What steps need of the whole cluster: a gateway may be in any namespace, and what it can its class reports.
pub(crate) fn cluster_wide(plan: &Plan) -> Vec<Permission> {
    let mut mirrors = plan.steps().map(|(_, step)| step).filter(|step| step.action == kinds::MIRROR);
    if !mirrors.any(|step| routes_of(plan, step, Router::HttpRoute).next().is_some()) {
        return Vec::new();
    }
    let get = |kind: Kind| Permission { group: kind.group, resource: kind.plural, verb: "get", name: None };
    [GATEWAY, GATEWAY_CLASS].map(get).into()
}

/// What steps need in other namespaces than that of the plan: to restore configuration.
fn elsewhere(plan: &Plan) -> BTreeMap<String, Vec<Permission>> {
    let mut all = BTreeMap::<String, Vec<Permission>>::new();
    for (_, step) in plan.steps().filter(|(_, step)| step.action == kinds::RESTORE_CONFIGURATION) {
        let Some(into) = restored_into(step).filter(|into| *into != plan.environment.namespace) else { continue };
        let needed = all.entry(into).or_default();
        for (kind, verb) in restored(step).flat_map(|kind| RESTORING.iter().map(move |verb| (kind, verb))) {
            let permission = Permission { group: kind.group, resource: kind.plural, verb, name: None };
            if !needed.contains(&permission) {
                needed.push(permission);
            }
        }
    }
    all
}

/// What the steps of a plan need that act on the application as a whole, or run jobs.
pub(crate) fn operations(plan: &Plan) -> Vec<Permission> {
    let mut all = Vec::new();
    let mut need = |kind: Kind, name: Option<&str>, verbs: &[&'static str]| {
        for verb in verbs {
            let name = name.map(str::to_owned);
            let needed = Permission { group: kind.group, resource: kind.plural, verb, name };
            if !all.contains(&needed) {
                all.push(needed);
            }
        }
    };
    let workload = |of: &WorkloadRef| (kind_of(of), of.name.clone());
    for (_, step) in plan.steps() {
        match step.action.as_str() {
            kinds::STOP_APPLICATION => {
                let params = ApplicationParams::deserialize(&step.with).unwrap_or_default();
                need(AUTOSCALER, None, &["list"]);
                need(POD, None, &["list", "watch"]);
                if params.workloads.is_empty() {
                    need(DEPLOYMENT, None, &["get", "list", "patch"]);
                    need(STATEFUL_SET, None, &["get", "list", "patch"]);
                }
                for (kind, name) in params.workloads.iter().map(workload) {
                    need(kind, Some(&name), &["get", "patch"]);
                }
            }
            kinds::STOP => need(AUTOSCALER, None, &["list"]),
            kinds::EXEC => {
                let Ok(params) = ExecParams::deserialize(&step.with) else { continue };
                let (kind, name) = workload(&params.workload);
                need(kind, Some(&name), &["get"]);
                need(POD, None, &["list"]);
                need(EXEC, None, &["get", "create"]);
            }
            kinds::RUN_JOB => {
                let params = RunJobParams::deserialize(&step.with).unwrap_or_default();
                need(JOB, None, &["get", "list", "watch", "create", "delete"]);
                need(POD, None, &["list"]);
                need(LOG, None, &["get"]);
                if let Some(cron_job) = &params.cron_job {
                    need(CRON_JOB, Some(cron_job), &["get"]);
                }
            }
            kinds::SET_CRON_JOBS => {
                let Ok(params) = SetCronJobsParams::deserialize(&step.with) else { continue };
                for one in &params.cron_jobs {
                    need(CRON_JOB, Some(&one.name), &["get", "patch"]);
                }
            }
            // Elsewhere testers are let in by an object that is written anyway.
            kinds::ADMIT_TESTERS => {
                for route in routes_of(plan, step, Router::Traefik) {
                    need(INGRESS_ROUTE, None, &["list", "create"]);
                    need(INGRESS_ROUTE, Some(&testers_route(&route)), &["get", "delete"]);
                }
            }
            kinds::MIRROR | kinds::STOP_MIRROR => {
                for target in targets_of(plan, step).filter(|target| Router::of(target) == Some(Router::Traefik)) {
                    if step.action == kinds::MIRROR {
                        need(TRAEFIK_SERVICE, None, &["create"]);
                    }
                    need(TRAEFIK_SERVICE, Some(&mirror_service(&target)), &["get", "delete"]);
                }
            }
            kinds::SUSPEND_CRON_JOBS => {
                let Ok(params) = SuspendCronJobsParams::deserialize(&step.with) else { continue };
                params.cron_jobs.iter().for_each(|name| need(CRON_JOB, Some(name), &["get", "patch"]));
            }
            kinds::BACKUP_CONFIGURATION => {
                KINDS.into_iter().for_each(|kind| need(kind, None, &["list"]));
                let params = BackUpConfigurationParams::deserialize(&step.with).ok();
                if params.is_some_and(|params| !params.encrypt_secrets_to.is_empty()) {
                    need(SECRET, None, &["list"]);
                }
            }
            kinds::RESTORE_CONFIGURATION
                if restored_into(step).is_none_or(|into| into == plan.environment.namespace) =>
            {
                restored(step).for_each(|kind| need(kind, None, RESTORING));
            }
            _ => {}
        }
    }
    for connection in connections(plan) {
        match &connection {
            Connection::Secret { name, .. } => need(SECRET, Some(name), &["get", "patch"]),
            Connection::ConfigMap { name, .. } => need(CONFIG_MAP, Some(name), &["get", "patch"]),
            Connection::Env { workload: of, .. } => {
                let (kind, name) = workload(of);
                need(kind, Some(&name), &["get", "patch"]);
            }
            _ => {}
        }
    }
    all
}

/// The Roles named `moodify` that are enough for a plan: for the release of its targets, and for the steps that stop the
/// application, point it to another database, start it and run commands beside it, and that back configuration up and
/// restore it; with `journal`, as for [`roles`]. Last comes a `ClusterRole` `moodify-NAMESPACE`, where a step has to look at
/// what belongs to no namespace: whether the gateways of `HTTPRoute`s can mirror requests.
///
/// ```
/// # let plan: moodify_core::model::Plan = serde_json::from_value(serde_json::json!({"name": "back", "environment":
/// #     {"name": "production", "kind": "production", "namespace": "shop"}, "release": {"version": "v1", "services": []},
/// #     "phases": [{"name": "all", "steps": [{"name": "stop", "action": "stop-application",
/// #     "with": {"workloads": ["web"]}}]}]})).unwrap();
/// let rules = &moodify_k8s::roles_for(&plan, None)[0]["rules"];
/// let web = rules.as_array().unwrap().iter().find(|rule| rule["resources"][0] == "deployments").unwrap();
/// assert_eq!(web["resourceNames"], serde_json::json!(["web"]));
/// assert_eq!(web["verbs"], serde_json::json!(["get", "patch"]));
/// ```
#[must_use]
pub fn roles_for(plan: &Plan, journal: Option<&str>) -> Vec<Value> {
    let mut namespaces = by_namespace(&released(plan));
    let of_plan = namespaces.entry(plan.environment.namespace.clone()).or_default();
    of_plan.extend(operations(plan));
    if of_plan.is_empty() {
        namespaces.remove(&plan.environment.namespace);
    }
    for (namespace, permissions) in elsewhere(plan) {
        namespaces.entry(namespace).or_default().extend(permissions);
    }
    let mut roles = with_journal(namespaces, journal);
    let everywhere = cluster_wide(plan);
    if !everywhere.is_empty() {
        let mut role = role(&plan.environment.namespace, &everywhere);
        role["kind"] = "ClusterRole".into();
        // Those of other namespaces are bound to other people.
        role["metadata"]["name"] = format!("moodify-{}", plan.environment.namespace).into();
        role["metadata"].as_object_mut().map(|fields| fields.remove("namespace"));
        roles.push(role);
    }
    roles
}

/// The Roles named `moodify` that are enough for a release of these targets, one a namespace; with `journal`, also for
/// runs that are kept in that namespace ([`KubeJournal`](crate::KubeJournal)). What has a name before it is used is
/// allowed by that name only.
///
/// ```
/// # let target = serde_json::from_value(serde_json::json!({"environment": "production", "namespace": "shop",
/// #     "service": {"name": "web", "workload": "web", "image": "registry.example/web:v2",
/// #     "traffic": {"router": "replica-ratio", "service": "web"}}})).unwrap();
/// let roles = moodify_k8s::roles(&[target], None);
/// assert_eq!(roles[0]["metadata"]["namespace"], "shop");
/// let may_delete = |rule: &&serde_json::Value| rule["verbs"].as_array().unwrap().contains(&"delete".into());
/// let deletes: Vec<_> = roles[0]["rules"].as_array().unwrap().iter().filter(may_delete).collect();
/// assert_eq!(deletes.len(), 1);
/// assert_eq!(deletes[0]["resourceNames"], serde_json::json!(["web-canary"]));
/// ```
#[must_use]
pub fn roles(targets: &[Target], journal: Option<&str>) -> Vec<Value> {
    with_journal(by_namespace(targets), journal)
}

/// What the releases need in each namespace.
fn by_namespace(targets: &[Target]) -> BTreeMap<String, Vec<Permission>> {
    let mut namespaces: BTreeMap<String, Vec<Permission>> = BTreeMap::new();
    for target in targets {
        let here: Vec<&Target> = targets.iter().filter(|t| t.namespace == target.namespace).collect();
        namespaces.entry(target.namespace.clone()).or_insert_with(|| {
            let by_gateway = here.iter().any(|target| {
                target.layout != Layout::Single && Router::of(target).is_some_and(|router| router.verifies())
            });
            let mut all = permissions(&here);
            all.extend(each(&GATEWAYS, None).filter(|_| by_gateway));
            all
        });
    }
    namespaces
}

fn with_journal(mut namespaces: BTreeMap<String, Vec<Permission>>, journal: Option<&str>) -> Vec<Value> {
    if let Some(namespace) = journal {
        namespaces.entry(namespace.to_owned()).or_default().extend(each(&JOURNAL, None));
    }
    namespaces.into_iter().map(|(namespace, permissions)| role(&namespace, &permissions)).collect()
}

/// One rule for each group, resource and set of verbs.
fn role(namespace: &str, permissions: &[Permission]) -> Value {
    // The verbs for each object, then the objects for each set of verbs.
    let mut objects: Vec<(&Permission, Vec<&str>)> = Vec::new();
    for permission in permissions {
        let same = |of: &Permission| {
            (of.group, of.resource, &of.name) == (permission.group, permission.resource, &permission.name)
        };
        match objects.iter_mut().find(|(of, _)| same(of)) {
            Some((_, verbs)) => verbs.push(permission.verb),
            None => objects.push((permission, vec![permission.verb])),
        }
    }
    let mut rules: Vec<Value> = Vec::new();
    for (Permission { group, resource, name, .. }, verbs) in objects {
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let Some(name) = name else {
            rules.push(rule);
            continue;
        };
        let same = |other: &&mut Value| {
            ["apiGroups", "resources", "verbs"].iter().all(|key| other[key] == rule[key])
                && other["resourceNames"].is_array()
        };
        match rules.iter_mut().find(same).and_then(|other| other["resourceNames"].as_array_mut()) {
            Some(names) => names.push(json!(name)),
            None => {
                rule["resourceNames"] = json!([name]);
                rules.push(rule);
            }
        }
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "moodify", "namespace": namespace, "labels": {MANAGED_BY: "moodify"}},
        "rules": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::target;

    /// The rules about routing objects, as `resource: names: verbs`.
    fn rules(router: &str) -> Vec<String> {
        let mut target = target();
        target.service.traffic.router = router.to_owned();
        let roles = roles(&[target], None);
        let words = |value: &Value| {
            let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            words.collect::<Vec<_>>().join(" ")
        };
        let others = ["", "apps", "policy", "autoscaling", "keda.sh"].map(|group| json!([group]));
        let about = |rule: &&Value| !others.contains(&rule["apiGroups"]);
        let rules = roles[0]["rules"].as_array().unwrap().iter().filter(about);
        rules
            .map(|r| format!("{}: {}: {}", words(&r["resources"]), words(&r["resourceNames"]), words(&r["verbs"])))
            .collect()
    }

    #[test]
    fn each_router_may_write_its_own_object_and_no_other() {
        assert_eq!(rules("replica-ratio"), [""; 0]);
        for (router, resource) in [("traefik", "traefikservices"), ("istio", "virtualservices"), ("alb", "ingresses")] {
            assert_eq!(rules(router), [format!("{resource}: web-route: get list watch patch")], "{router}");
        }
        for (router, resource) in [("http-route", "httproutes"), ("grpc-route", "grpcroutes")] {
            let wanted =
                [format!("{resource}: web-route: get list watch patch"), "gateways: : get list watch".to_owned()];
            assert_eq!(rules(router), wanted, "{router}");
        }
        let nginx = [
            "ingresses: web-route: get",
            "ingresses: : list create",
            "ingresses: web-route-canary: get watch patch delete",
        ];
        assert_eq!(rules("ingress-nginx"), nginx, "the Ingress of others is only read");
    }

    #[test]
    fn shares_by_pods_need_a_look_at_who_scales() {
        let mut target = target();
        target.service.traffic.router = "replica-ratio".to_owned();
        let needed = permissions(&[&target]);
        let scalers: Vec<&str> = needed.iter().filter(|p| p.group == "autoscaling").map(|p| p.verb).collect();
        assert_eq!(scalers, ["list"], "nothing of theirs is changed");
    }

    #[test]
    fn copies_by_a_gateway_need_a_look_at_what_it_can() {
        let roles = |router: &str| {
            let traffic = json!({"router": router, "service": "web", "route": "web-route"});
            let service =
                json!({"name": "web", "workload": "web", "image": "registry.test/web:v2", "traffic": traffic});
            let steps = json!([{"name": "b", "action": "baseline"},
                {"name": "m", "action": "mirror", "with": {"percent": 10}}, {"name": "s", "action": "stop-mirror"}]);
            let plan: Plan = serde_json::from_value(json!({
                "name": "p", "environment": {"name": "production", "kind": "production", "namespace": "ns"},
                "release": {"version": "v2", "services": [service]}, "phases": [{"name": "p", "steps": steps}],
            }))
            .unwrap();
            roles_for(&plan, None)
        };
        let [of_namespace, everywhere] = roles("http-route").try_into().unwrap();
        assert_eq!(of_namespace["kind"], "Role");
        assert_eq!(everywhere["kind"], "ClusterRole");
        assert_eq!(everywhere["metadata"]["name"], "moodify-ns");
        assert_eq!(everywhere["metadata"].get("namespace"), None);
        let rule =
            |what: &str| json!({"apiGroups": ["gateway.networking.k8s.io"], "resources": [what], "verbs": ["get"]});
        assert_eq!(everywhere["rules"], json!([rule("gateways"), rule("gatewayclasses")]));
        // A route that is written anyway.
        assert_eq!(roles("istio").len(), 1);
        let [of_namespace] = roles("traefik").try_into().unwrap();
        let rules = of_namespace["rules"].as_array().unwrap().iter();
        let rules: Vec<&Value> = rules.filter(|rule| rule["resources"] == json!(["traefikservices"])).collect();
        let rule = |names: &[&str], verbs: &[&str]| {
            let mut rule = json!({"apiGroups": ["traefik.io"], "resources": ["traefikservices"], "verbs": verbs});
            if !names.is_empty() {
                rule["resourceNames"] = json!(names);
            }
            rule
        };
        let wanted = [
            rule(&["web-route"], &["get", "list", "watch", "patch"]),
            rule(&[], &["create"]),
            rule(&["web-canary-mirror"], &["get", "delete"]),
        ];
        assert_eq!(rules, wanted.iter().collect::<Vec<_>>());
    }

    #[test]
    fn testers_behind_traefik_need_an_ingress_route_of_their_own_name() {
        let plan = |router: &str| -> Plan {
            let traffic = json!({"router": router, "service": "web", "route": "web-route"});
            let service =
                json!({"name": "web", "workload": "web", "image": "registry.test/web:v2", "traffic": traffic});
            let admit = json!({"testers": {"header": "X-Tester", "value": "yes"}});
            serde_json::from_value(json!({
                "name": "p", "environment": {"name": "production", "kind": "production", "namespace": "ns"},
                "release": {"version": "v2", "services": [service]},
                "phases": [{"name": "p", "steps": [{"name": "a", "action": "admit-testers", "with": admit}]}],
            }))
            .unwrap()
        };
        assert!(operations(&plan("http-route")).is_empty());
        let needed = operations(&plan("traefik")).into_iter();
        let needed: Vec<String> =
            needed.map(|p| format!("{} {} {}", p.verb, p.resource, p.name.unwrap_or_default())).collect();
        let own = ["get ingressroutes web-route-testers", "delete ingressroutes web-route-testers"];
        assert_eq!(needed, [["list ingressroutes ", "create ingressroutes "], own].concat());
    }
}
