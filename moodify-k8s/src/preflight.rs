//! What can be known before the first write: the server, our permissions, the objects.

use std::collections::BTreeSet;

use futures::StreamExt;
use moodify_core::action::{
    ApplicationParams, MirrorParams, RunJobParams, SetCronJobsParams, SuspendCronJobsParams, kinds,
};
use moodify_core::backend::{Application, CronJobRef, Jobs as _};
use moodify_core::model::{Layout, Plan, Target, Track};
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{Permission, cluster_wide, connections, operations, permissions, released, targets_of};
use crate::client::Kube;
use crate::deployer::{DeploymentDeployer, deployment_of};
use crate::error::{Access, Ask};
use crate::jobs::KubeJobs;
use crate::rival_scalers::{examine_ratio, examine_stop, is_by_ratio};
use crate::single;
use crate::traffic::{NginxRouter, RouteRouter, Router, examine_mirror};

/// `patch deployments.apps`.
fn told(Permission { group, resource, verb, .. }: &Permission) -> String {
    if group.is_empty() { format!("{verb} {resource}") } else { format!("{verb} {resource}.{group}") }
}

impl Kube {
    /// Checks, without changing anything, that a release of these targets could begin: the server answers, the
    /// namespaces exist, we may do what a release does, and Deployments, Services and routing objects are there and can
    /// carry a canary. Returns every problem found, each a sentence of its own; none is good news.
    ///
    /// Access reviews are sent as `POST`, as Kubernetes wants it; they write nothing. Safe to cancel.
    pub async fn preflight(&self, cx: &CallContext, targets: &[Target]) -> Vec<Error> {
        // One reason is enough if nothing can be asked.
        let ask = Ask::new(Access::Read, "reach the API server", self.server());
        if let Err(e) = self.raw(cx, &ask, "/version").await {
            return vec![e];
        }
        let mut problems = Vec::new();
        let namespaces: BTreeSet<&str> = targets.iter().map(|t| t.namespace.as_str()).collect();
        for namespace in namespaces {
            let here: Vec<&Target> = targets.iter().filter(|t| t.namespace == namespace).collect();
            match self.preflight_namespace(cx, namespace, &here).await {
                Ok(found) => problems.extend(found),
                Err(e) => problems.push(e),
            }
        }
        problems
    }

    /// The same for a plan: for what it releases, and for the steps that stop the application and point it to another
    /// database. That what they name is there, and could be stopped and switched, is looked at too.
    pub async fn preflight_plan(&self, cx: &CallContext, plan: &Plan) -> Vec<Error> {
        let mut problems = self.preflight(cx, &released(plan)).await;
        if problems.is_empty() {
            problems.extend(self.examine_mirrors(cx, plan).await);
        }
        let (needed, namespace) = (operations(plan), &plan.environment.namespace);
        if needed.is_empty() || problems.iter().any(|e| e.kind() == ErrorKind::Unauthenticated || e.is_transient()) {
            return problems;
        }
        let may = async {
            self.check_namespace(cx, namespace).await?;
            self.check_permissions(cx, namespace, needed).await
        };
        if let Err(e) = may.await {
            problems.push(e);
            return problems;
        }
        for (_, step) in plan.steps().filter(|(_, step)| step.action == kinds::STOP_APPLICATION) {
            let params = ApplicationParams::deserialize(&step.with).unwrap_or_default();
            let all = Application::all_of(namespace).workloads(&params.workloads).except(&params.except);
            problems.extend(self.operations().counts(cx, &all).await.err());
        }
        for (_, step) in plan.steps().filter(|(_, step)| step.action == kinds::STOP) {
            for target in targets_of(plan, step) {
                problems.extend(examine_stop(self, cx, &single::object_of(&target)).await.err());
            }
        }
        problems.extend(self.examine_jobs(cx, plan).await);
        for connection in connections(plan) {
            problems.extend(self.operations().endpoint(cx, namespace, &connection).await.err());
        }
        problems
    }

    /// Whether requests that are to be mirrored can be.
    async fn examine_mirrors(&self, cx: &CallContext, plan: &Plan) -> Vec<Error> {
        let everywhere = cluster_wide(plan);
        if !everywhere.is_empty()
            && let Err(e) = self.check_permissions(cx, "", everywhere).await
        {
            return vec![e];
        }
        let mut problems = Vec::new();
        for (_, step) in plan.steps().filter(|(_, step)| step.action == kinds::MIRROR) {
            let Ok(params) = MirrorParams::deserialize(&step.with) else { continue };
            for target in targets_of(plan, step) {
                problems.extend(examine_mirror(self, cx, &target, params.percent).await.err());
            }
        }
        problems
    }

    /// Whether what jobs are made of is there.
    async fn examine_jobs(&self, cx: &CallContext, plan: &Plan) -> Vec<Error> {
        let (jobs, namespace) = (KubeJobs { kube: self.clone() }, &plan.environment.namespace);
        let mut problems = Vec::new();
        for (_, step) in plan.steps() {
            if step.action == kinds::RUN_JOB {
                // What is wrong with the step itself is told by its own check.
                let request = RunJobParams::deserialize(&step.with).ok().and_then(|params| params.request(plan).ok());
                if let Some(request) = request {
                    problems.extend(jobs.examine(cx, &request).await.err());
                }
            }
            if step.action == kinds::SUSPEND_CRON_JOBS {
                let params = SuspendCronJobsParams::deserialize(&step.with);
                for name in params.map(|params| params.cron_jobs).unwrap_or_default() {
                    let cron = CronJobRef { namespace: namespace.clone(), name, container: None };
                    problems.extend(jobs.cron_suspended(cx, &cron).await.err());
                }
            }
            if step.action == kinds::SET_CRON_JOBS {
                let params = SetCronJobsParams::deserialize(&step.with);
                for one in params.map(|params| params.cron_jobs).unwrap_or_default() {
                    let (namespace, name) = (namespace.clone(), one.name);
                    let cron = CronJobRef { namespace, name, container: one.container };
                    problems.extend(jobs.cron_image(cx, &cron).await.err());
                }
            }
        }
        problems
    }

    async fn preflight_namespace(&self, cx: &CallContext, namespace: &str, targets: &[&Target]) -> Result<Vec<Error>> {
        self.check_namespace(cx, namespace).await?;
        self.check_permissions(cx, namespace, permissions(targets)).await?;
        let mut problems = Vec::new();
        for target in targets {
            let router = Router::of(target);
            let canary = DeploymentDeployer::new(self.clone()).examine(cx, target, router.is_none()).await;
            problems.extend(canary.err());
            if is_by_ratio(target) {
                problems.extend(examine_ratio(self, cx, &deployment_of(target, Track::Stable)).await.err());
            }
            if let Some(router) = router.filter(|_| target.layout != Layout::Single) {
                problems.extend(self.examine_route(cx, target, router).await.err());
            }
        }
        match self.check_quotas(cx, namespace, targets).await {
            Ok(short) => problems.extend(short),
            Err(e) => problems.push(e),
        }
        Ok(problems)
    }

    async fn examine_route(&self, cx: &CallContext, target: &Target, router: Router) -> Result<()> {
        match RouteRouter::new(self.clone(), router) {
            Some(inside) => inside.examine(cx, target).await,
            None => NginxRouter::new(self.clone()).examine(cx, target).await,
        }
    }

    async fn check_namespace(&self, cx: &CallContext, namespace: &str) -> Result<()> {
        let ask = Ask::new(Access::Read, "check the namespace", namespace);
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || namespace.len() > 63 || !namespace.chars().all(fits) {
            return Err(ask.error(ErrorKind::Invalid, format!("{namespace:?} is not the name of a namespace")));
        }
        match self.raw(cx, &ask, &format!("/api/v1/namespaces/{namespace}")).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(ask
                .error(
                    ErrorKind::NotFound,
                    format!("there is no namespace {namespace:?} in this cluster; nothing was changed"),
                )
                .hint("check the environment's namespace and the kubeconfig's context")),
            // Who works in one namespace only often may not read it as an object.
            Err(e) if e.kind() == ErrorKind::Forbidden => Ok(()),
            other => other.map(drop),
        }
    }

    async fn check_permissions(&self, cx: &CallContext, namespace: &str, needed: Vec<Permission>) -> Result<()> {
        let reviews = needed.into_iter().map(|needed| async move {
            self.may(cx, namespace, &needed).await.map(|allowed| (!allowed).then(|| told(&needed)))
        });
        let answers: Vec<Result<Option<String>>> = futures::stream::iter(reviews).buffered(8).collect().await;
        let mut missing: Vec<String> = Vec::new();
        for what in answers.into_iter().filter_map(Result::transpose) {
            let what = what?;
            // The same of several objects is told once.
            if !missing.contains(&what) {
                missing.push(what);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let who = self.whoami(cx).await.unwrap_or_else(|| "our user".to_owned());
        let ask = Ask::new(Access::Read, "check permissions", namespace);
        let (place, grant) = match namespace {
            "" => ("of the whole cluster".to_owned(), "a ClusterRole and a ClusterRoleBinding"),
            namespace => (format!("in the namespace {namespace}"), "a Role and a RoleBinding in the namespace"),
        };
        let message = format!("{who} may not {} {place}; nothing was changed", missing.join(", "));
        Err(ask
            .error(ErrorKind::Forbidden, message)
            .hint(format!("grant it with {grant}: `moodify rbac PLAN` prints them")))
    }

    async fn may(&self, cx: &CallContext, namespace: &str, needed: &Permission) -> Result<bool> {
        let Permission { group, resource, verb, name } = needed;
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = json!({
            "namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource,
            "name": name.as_deref().unwrap_or_default(),
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let answer = self.review(cx, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
        Ok(answer["status"]["allowed"] == Value::Bool(true))
    }

    /// Our user's name, where the server tells it.
    async fn whoami(&self, cx: &CallContext) -> Option<String> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let answer = self.review(cx, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await.ok()?;
        answer["status"]["userInfo"]["username"].as_str().map(|name| format!("user {name:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cx, kube, not_found, stable_deployment, stable_service, target};

    fn cluster(denied: &'static [&'static str], namespace: u16) -> Kube {
        let (kube, _) = kube(move |_, uri, body| {
            let name = uri.rsplit('/').next().unwrap_or_default();
            let attributes = &body["spec"]["resourceAttributes"];
            let asked = format!(
                "{} {}",
                attributes["verb"].as_str().unwrap_or("-"),
                attributes["resource"].as_str().unwrap_or("-")
            );
            match name {
                "version" => (200, json!({"gitVersion": "v1.37.2"})),
                "ns" if namespace == 404 => not_found(name),
                "ns" => (namespace, json!({"code": namespace, "message": "m"})),
                _ if uri.contains("selfsubjectaccess") => {
                    (201, json!({"status": {"allowed": !denied.contains(&asked.as_str())}}))
                }
                _ if uri.contains("selfsubjectreviews") => (201, json!({"status": {"userInfo": {"username": "dev"}}})),
                _ if uri.contains("resourcequotas") => (200, json!({"items": []})),
                "web" => (200, stable_deployment()),
                "web-svc" => (200, stable_service()),
                _ => not_found(name),
            }
        });
        kube
    }

    #[tokio::test]
    async fn what_we_may_not_do_is_listed_with_the_user() {
        let problems = cluster(&["patch deployments", "list events"], 200).preflight(&cx(), &[target()]).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        let told = problems[0].to_string();
        let part = "user \"dev\" may not patch deployments.apps, list events in the namespace ns; nothing was changed";
        assert!(told.contains(part), "{told}");
    }

    #[tokio::test]
    async fn what_several_services_lack_is_told_once() {
        let mut other = target();
        other.service.workload = "api".to_owned();
        let problems = cluster(&["patch deployments"], 200).preflight(&cx(), &[target(), other]).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        let told = problems[0].to_string();
        assert!(told.contains("may not patch deployments.apps in the namespace"), "{told}");
    }

    #[tokio::test]
    async fn a_missing_namespace_and_a_missing_route_are_told() {
        let problems = cluster(&[], 404).preflight(&cx(), &[target()]).await;
        assert!(problems.len() == 1 && problems[0].message().contains("there is no namespace \"ns\""), "{problems:?}");
        // Who may not read the namespace may still work in it.
        let problems = cluster(&[], 403).preflight(&cx(), &[target()]).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].message(), "there is no HTTPRoute web-route in the namespace ns");
    }

    #[tokio::test]
    async fn an_expired_token_is_one_problem() {
        let (kube, _) =
            kube(|_, _, _| (401, json!({"code": 401, "message": "Unauthorized", "reason": "Unauthorized"})));
        let problems = kube.preflight(&cx(), &[target(), target()]).await;
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].kind(), ErrorKind::Unauthenticated);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_one_problem() {
        let dir = std::env::temp_dir().join(format!("moodify-k8s-{}", std::process::id()));
        let file = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
            clusters: [{name: a, cluster: {server: \"https://127.0.0.1:1\"}}]\nusers: [{name: a, user: {token: t}}]\n";
        std::fs::write(&dir, file).unwrap();
        let connected = Kube::connect(&crate::KubeConfig::new().kubeconfig(&dir)).await;
        std::fs::remove_file(&dir).unwrap();
        let problems = connected.unwrap().preflight(&cx(), &[target()]).await;
        assert_eq!(problems.len(), 1);
        let told = problems[0].to_string();
        assert!(
            told.contains("https://127.0.0.1:1/") && told.contains("cannot be reached: ") && told.contains("refused"),
            "{told}"
        );
    }
}
