use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use moodify_core::backend::{
    CanarySpec, Change, Deployer, DeployerCapabilities, ImageChange, Remedy, Scale, Single, Workload,
};
use moodify_core::model::{Color, ConfigRefs, Layout, Target, Track, WorkloadKind};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result, RunId};
use serde_json::{Value, json};

use crate::canary;
use crate::client::{Apply, DEPLOYMENT, Kube, Object, SERVICE, typed, until_error};
use crate::configuration;
use crate::error::{Access, Ask, unreadable};
use crate::names::{self, RUN, VERSION};
use crate::ownership::{self, Owner, last_foreign};
use crate::patch;
use crate::single;
use crate::traffic;
use crate::workload::{config, container, desired, image, workload};

/// Runs Deployments: the stable one is the user's and only ever patched; the canary beside it is ours. Where there is no
/// canary beside it, it runs `StatefulSet`s and `DaemonSet`s too.
///
/// Every method is safe to cancel: what was sent before may have taken effect, as after a timeout.
#[derive(Debug, Clone)]
pub struct DeploymentDeployer {
    pub(crate) kube: Kube,
}

/// What a canary is made of, read and checked; nothing written yet.
struct Plan {
    stable: Deployment,
    /// The stable one's pods, as the server told of them.
    template: Value,
    stable_service: Value,
    existing: Option<Deployment>,
    existing_service: Option<Service>,
    body: Value,
}

impl Plan {
    /// Whether the canary's Service is there, this run's, and goes with this Deployment.
    fn has_service(&self, deployed: &Deployment, run: &RunId) -> bool {
        let Some(service) = &self.existing_service else { return false };
        let mut owners = service.metadata.owner_references.iter().flatten().map(|owner| Some(&owner.uid));
        ownership::owner(&service.metadata, run) == Owner::Us && owners.any(|o| o == deployed.metadata.uid.as_ref())
    }
}

impl DeploymentDeployer {
    pub(crate) fn new(kube: Kube) -> Self {
        Self { kube }
    }

    /// Reads a track's Deployment, and checks that a canary is this run's and unedited.
    async fn find(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<Deployment>> {
        let object = deployment_of(target, track);
        let found: Option<Deployment> = self.kube.find(cx, &object).await?;
        self.seen(found, target, track, cx.run_id())
    }

    /// A Deployment as a run may see it: a canary must be its own and unedited; one that takes turns and is scaled to
    /// nothing is nobody's.
    pub(crate) fn seen(
        &self,
        found: Option<Deployment>,
        target: &Target,
        track: Track,
        run: &RunId,
    ) -> Result<Option<Deployment>> {
        let Some(found) = found else { return Ok(None) };
        let object = deployment_of(target, track);
        if track == Track::Stable {
            return Ok(Some(found));
        }
        if target.layout == Layout::InPlace {
            ownership::check(&found.metadata, run, self.kube.manager(), "check the canary", &object.to_string())?;
            return Ok(Some(found));
        }
        if desired(&found) == 0 && !ownership::is_of(&found.metadata, run) {
            return Ok(None);
        }
        ownership::check_turn(&found.metadata, run, self.kube.manager(), "check the canary", &object.to_string())?;
        Ok(Some(found))
    }

    async fn get(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Deployment> {
        self.find(cx, target, track).await?.ok_or_else(|| deployment_of(target, track).missing())
    }

    /// Somebody changed the spec so that it is neither as before nor as wanted.
    fn drift(&self, ask: &Ask, deployment: &Deployment, path: &[&str], message: &str) -> Error {
        let editor = last_foreign(&deployment.metadata, self.kube.manager(), path)
            .or_else(|| last_foreign(&deployment.metadata, self.kube.manager(), &["f:spec"]));
        ownership::drift(ask, message, editor)
    }

    /// Reads what a canary is made of and checks that it can be made.
    async fn plan(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Plan> {
        let (stable_object, canary_object) =
            (deployment_of(target, Track::Stable), deployment_of(target, Track::Canary));
        let (own, shared) = (canary_service(target), stable_service(target));
        let find_own = async { if spec.shares_service { Ok(None) } else { self.kube.find::<Service>(cx, &own).await } };
        let (stable, existing, stable_service, existing_service) = tokio::try_join!(
            self.kube.find::<Value>(cx, &stable_object),
            self.find(cx, target, Track::Canary),
            self.kube.find::<Value>(cx, &shared),
            find_own,
        )?;
        let stable = stable.ok_or_else(|| stable_object.missing())?;
        let stable_service = stable_service.ok_or_else(|| shared.missing())?;
        let ask = canary_object.ask(Access::Read, "plan");
        if existing.as_ref().is_some_and(|d| d.metadata.deletion_timestamp.is_some()) {
            return Err(ask.error(ErrorKind::Conflict, "the canary is being deleted; it must be gone first"));
        }
        // Another run's Service is a leftover: its Deployment is gone, or we would have found it.
        if existing_service.as_ref().is_some_and(|s| ownership::owner(&s.metadata, cx.run_id()) == Owner::Stranger) {
            return Err(is_taken(&own));
        }
        let selects: Service = typed(&ask, stable_service.clone())?;
        let body = canary::deployment(&ask, &stable, &selects, target, cx.run_id(), spec)?;
        let template = stable["spec"]["template"].clone();
        let stable = typed(&ask, stable)?;
        Ok(Plan { stable, template, stable_service, existing, existing_service, body })
    }

    /// Whether a canary could be made of this target, without asking the server to make one.
    pub(crate) async fn examine(&self, cx: &CallContext, target: &Target, shares_service: bool) -> Result<()> {
        let spec = CanarySpec::new(target.service.image.clone(), "check", 1, shares_service);
        match target.layout {
            Layout::InPlace => {}
            Layout::Colors(_) => {
                let target = target.clone().with_layout(Layout::Colors(self.who_serves(cx, target).await?));
                return self.examine_turn(cx, &target, &spec).await;
            }
            Layout::Single => return self.examine_single(cx, target).await,
        }
        let Plan { stable, template, .. } = self.plan(cx, target, &spec).await?;
        self.examine_config(cx, target, &template).await?;
        rolls(target, Track::Stable, &stable)?;
        has_capacity(target, &stable)
    }

    /// Removes a canary in place.
    async fn remove_canary(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let object = deployment_of(target, Track::Canary);
        // Not by `find`: an edited canary is removed too.
        let Some(found) = self.kube.find::<Deployment>(cx, &object).await? else {
            // What was read may be past.
            return self.kube.is_absent(cx, &object).await;
        };
        if ownership::owner(&found.metadata, cx.run_id()) != Owner::Us {
            tracing::warn!(%object, run = %cx.run_id(), "not removed: it belongs to somebody else");
            return Ok(());
        }
        if found.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        // Its own Service goes with it: the Deployment owns it.
        self.kube.delete(cx, &object, found.metadata.uid.unwrap_or_default()).await
    }

    async fn apply_deployment(
        &self,
        cx: &CallContext,
        target: &Target,
        plan: &Plan,
        dry_run: bool,
    ) -> Result<Deployment> {
        let object = deployment_of(target, Track::Canary);
        let mut body = plan.body.clone();
        let force = plan.existing.is_some();
        if let Some(existing) = &plan.existing {
            // Forced over our own updates, but only if it is still what we have just checked.
            body["metadata"]["resourceVersion"] = json!(existing.metadata.resource_version);
        }
        match self.kube.apply(cx, &object, &body, Apply { force, dry_run }).await {
            // A selector cannot be changed: another run was faster with the same name.
            Err(e) if e.kind() == ErrorKind::Invalid && !force => {
                self.find(cx, target, Track::Canary).await?;
                Err(e)
            }
            other => other,
        }
    }

    async fn apply_service(
        &self,
        cx: &CallContext,
        target: &Target,
        plan: &Plan,
        uid: &str,
        dry_run: bool,
    ) -> Result<()> {
        let body = canary::service(&plan.stable_service, target, cx.run_id(), uid);
        let force = plan.existing_service.is_some();
        let _: Value = self.kube.apply(cx, &canary_service(target), &body, Apply { force, dry_run }).await?;
        Ok(())
    }
}

pub(crate) fn deployment_of(target: &Target, track: Track) -> Object {
    Object::new(DEPLOYMENT, &target.namespace, &names::workload(target, track))
}

pub(crate) fn stable_service(target: &Target) -> Object {
    Object::new(SERVICE, &target.namespace, &target.service.traffic.service)
}

pub(crate) fn canary_service(target: &Target) -> Object {
    Object::new(SERVICE, &target.namespace, &names::canary_service(target))
}

/// Refuses a Deployment that would not roll out what it is asked to.
pub(crate) fn rolls(target: &Target, track: Track, deployment: &Deployment) -> Result<()> {
    if deployment.spec.as_ref().is_none_or(|spec| spec.paused != Some(true)) {
        return Ok(());
    }
    let ask = deployment_of(target, track).ask(Access::Read, "check");
    Err(ask
        .error(ErrorKind::Invalid, "it is paused, so that a new image would not be rolled out")
        .hint("kubectl rollout resume"))
}

/// Refuses a stable Deployment that serves nothing.
pub(crate) fn has_capacity(target: &Target, stable: &Deployment) -> Result<()> {
    if desired(stable) > 0 {
        return Ok(());
    }
    let message = "it has 0 replicas: there is no capacity from which to shift traffic";
    Err(deployment_of(target, Track::Stable).ask(Access::Read, "check").error(ErrorKind::Invalid, message))
}

/// The name of the canary's Service is a stranger's.
pub(crate) fn is_taken(own: &Object) -> Error {
    own.ask(Access::Read, "plan")
        .error(ErrorKind::AlreadyExists, "it exists and was not made by moodify")
        .hint("the name is needed for the canary; rename or remove this Service")
}

/// Whether the canary's Deployment is as specified already.
pub(crate) fn is_as_specified(ask: &Ask, existing: &Deployment, target: &Target, spec: &CanarySpec) -> Result<bool> {
    let (_, runs) = container(ask, existing, target.service.container())?;
    let version = existing.metadata.annotations.as_ref().and_then(|a| a.get(VERSION));
    let same = image(ask, runs)? == spec.image && desired(existing) == spec.replicas;
    Ok(same && version == Some(&spec.version) && is_read(existing, target, spec))
}

/// Whether a Deployment's pods read what is specified.
pub(crate) fn is_read(existing: &Deployment, target: &Target, spec: &CanarySpec) -> bool {
    let reads = config(existing, target);
    spec.config.iter().all(|(key, object)| reads.get(key) == Some(object))
}

/// A compare-and-set of the number of replicas.
pub(crate) fn scaling(from: u32, to: u32) -> [Value; 2] {
    [
        json!({"op": "test", "path": "/spec/replicas", "value": from}),
        json!({"op": "replace", "path": "/spec/replicas", "value": to}),
    ]
}

#[async_trait]
impl Deployer for DeploymentDeployer {
    fn capabilities(&self) -> DeployerCapabilities {
        use WorkloadKind::{DaemonSet, Deployment, StatefulSet};
        // A Deployment decides itself how many pods it replaces before it is seen and paused.
        let single = |kind| Single { kind, exact: kind != Deployment, stops: kind != DaemonSet };
        let capabilities = DeployerCapabilities::new(&["Deployment"], true).with_colors();
        capabilities.with_single(&[Deployment, StatefulSet, DaemonSet].map(single))
    }

    async fn observe(&self, cx: &CallContext, target: &Target, track: Track) -> Result<Option<Workload>> {
        if target.layout == Layout::Single {
            return self.observe_single(cx, target, track).await;
        }
        let ask = deployment_of(target, track).ask(Access::Read, "get");
        let found = self.find(cx, target, track).await?;
        found.map(|d| workload(&ask, &d, target)).transpose()
    }

    async fn watch(
        &self,
        cx: &CallContext,
        target: &Target,
        track: Track,
    ) -> Result<BoxStream<'static, Result<Option<Workload>>>> {
        if target.layout == Layout::Single {
            return Ok(self.watch_single(cx, target, track));
        }
        let object = deployment_of(target, track);
        let ask = object.ask(Access::Read, "watch");
        let (this, run, target) = (self.clone(), cx.run_id().clone(), target.clone());
        let states = self.kube.watch_object(cx, &object).map(move |found| {
            let Some(found) = found? else { return Ok(None) };
            let deployment: Deployment = found
                .try_parse()
                .map_err(|e| ask.error(ErrorKind::Internal, format!("this is not a Deployment as we know it: {e}")))?;
            let seen = this.seen(Some(deployment), &target, track, &run)?;
            seen.map(|deployment| workload(&ask, &deployment, &target)).transpose()
        });
        Ok(until_error(states))
    }

    async fn deploy(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Workload> {
        match target.layout {
            Layout::InPlace => {}
            Layout::Colors(_) => return self.deploy_turn(cx, target, spec).await,
            Layout::Single => return self.hold_single(cx, target, spec).await,
        }
        let ask = deployment_of(target, Track::Canary).ask(Access::Write, "deploy");
        let plan = self.plan(cx, target, spec).await?;
        self.make_config(cx, target, &spec.config).await?;
        if !spec.shares_service {
            self.hold_instances(cx, target, desired(&plan.stable)).await?;
        }
        // Each of the two on its own: after a crash between them the Deployment is not written again.
        let deployed = match &plan.existing {
            Some(existing) if is_as_specified(&ask, existing, target, spec)? => existing.clone(),
            _ => self.apply_deployment(cx, target, &plan, false).await?,
        };
        if !spec.shares_service && !plan.has_service(&deployed, cx.run_id()) {
            let uid = deployed.metadata.uid.clone().unwrap_or_default();
            let applied = self.apply_service(cx, target, &plan, &uid, false).await;
            // The Deployment stands already, whatever became of the Service.
            applied.map_err(|e| e.effect(Effect::Unknown))?;
        }
        if !spec.shares_service {
            let stable = json!({"spec": {"template": plan.template}});
            self.make_budgets(cx, target, &stable, &deployed).await?;
        }
        workload(&ask, &deployed, target)
    }

    async fn scale(&self, cx: &CallContext, target: &Target, track: Track, scale: Scale) -> Result<Workload> {
        if target.layout == Layout::Single {
            return self.scale_single(cx, target, scale).await;
        }
        let object = deployment_of(target, track);
        let ask = object.ask(Access::Write, "scale");
        let now = self.get(cx, target, track).await?;
        let replicas = desired(&now);
        let retired = matches!(target.layout, Layout::Colors(_)) && track == Track::Stable && scale.to == 0;
        if replicas == scale.to {
            if retired {
                self.release_instances(cx, target).await?;
            }
            return workload(&ask, &now, target);
        }
        // What an autoscaler made of the version before is nobody's wish for the time after it.
        let by_rule = retired && ownership::is_autoscaled(&now.metadata);
        if replicas != scale.from && !by_rule {
            let message = format!("it is asked for {replicas} replicas, where we expected {}", scale.from);
            return Err(self.drift(&ask, &now, &["f:spec", "f:replicas"], &message));
        }
        let mut patch = scaling(replicas, scale.to).to_vec();
        if track == Track::Canary {
            patch.insert(0, json!({"op": "test", "path": patch::label(RUN), "value": cx.run_id().as_str()}));
        }
        let scaled: Deployment = self.kube.patch(cx, &object, patch).await?;
        if retired {
            self.release_instances(cx, target).await?;
        }
        workload(&ask, &scaled, target)
    }

    async fn set_image(&self, cx: &CallContext, target: &Target, change: &ImageChange) -> Result<Workload> {
        if target.layout == Layout::Single {
            return self.set_single(cx, target, change).await;
        }
        let object = deployment_of(target, Track::Stable);
        let ask = object.ask(Access::Write, "set the image of");
        let name = target.service.container();
        let now = self.get(cx, target, Track::Stable).await?;
        let (index, runs) = container(&ask, &now, name)?;
        let current = image(&ask, runs)?;
        let mut patch = Vec::new();
        if current == change.from && current != change.to {
            let path = format!("/spec/template/spec/containers/{index}");
            patch.push(json!({"op": "test", "path": format!("{path}/name"), "value": name}));
            patch.push(json!({"op": "test", "path": format!("{path}/image"), "value": runs.image}));
            patch.push(json!({"op": "replace", "path": format!("{path}/image"), "value": change.to.as_str()}));
        } else if current != change.to {
            let message = format!("it runs {current}, where we expected {}", change.from);
            return Err(self.drift(&ask, &now, &["f:spec", "f:template"], &message));
        }
        let value = serde_json::to_value(&now).map_err(|e| unreadable(&ask, e))?;
        patch.extend(configuration::patch(&ask, &value, target, &change.config)?);
        let replicas = desired(&now);
        if let Some(scale) = change.scale.filter(|scale| scale.to != replicas) {
            if replicas != scale.from {
                let message = format!("it is asked for {replicas} replicas, where we expected {}", scale.from);
                return Err(self.drift(&ask, &now, &["f:spec", "f:replicas"], &message));
            }
            patch.extend(scaling(scale.from, scale.to));
        }
        if patch.is_empty() {
            return workload(&ask, &now, target);
        }
        self.make_config(cx, target, &change.config).await?;
        let patched: Deployment = self.kube.patch(cx, &object, patch).await?;
        workload(&ask, &patched, target)
    }

    async fn serving(&self, cx: &CallContext, target: &Target) -> Result<Color> {
        self.who_serves(cx, target).await
    }

    async fn hand_over(&self, cx: &CallContext, target: &Target, to: Track) -> Result<()> {
        self.hand_name_over(cx, target, to).await
    }

    async fn leave(&self, cx: &CallContext, target: &Target) -> Result<()> {
        if !matches!(target.layout, Layout::Colors(_)) {
            let message = "it takes no turns: there is nothing beside it that would have to go";
            let ask = deployment_of(target, Track::Stable).ask(Access::Read, "leave");
            return Err(ask.error(ErrorKind::Unsupported, message));
        }
        self.leave_turns(cx, target).await?;
        self.delete_unread(cx, target, &ConfigRefs::new()).await.map_err(|e| e.effect(Effect::Unknown))
    }

    async fn remove(&self, cx: &CallContext, target: &Target) -> Result<()> {
        match target.layout {
            Layout::InPlace => self.remove_canary(cx, target).await,
            Layout::Colors(_) => self.remove_turn(cx, target).await,
            Layout::Single => self.remove_single(cx, target).await,
        }?;
        if target.layout != Layout::Single {
            self.release_instances(cx, target).await?;
        }
        // The traffic is elsewhere by now, so that nothing is held up by it.
        self.delete_unread(cx, target, &ConfigRefs::new()).await.map_err(|e| e.effect(Effect::Unknown))
    }

    async fn preview(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Vec<Change>> {
        match target.layout {
            Layout::InPlace => {}
            Layout::Colors(_) => return self.preview_turn(cx, target, spec).await,
            Layout::Single => return self.preview_single(cx, target, spec).await,
        }
        let plan = self.plan(cx, target, spec).await?;
        let (stable, canary) = (deployment_of(target, Track::Stable), deployment_of(target, Track::Canary));
        if let Some(existing) = &plan.existing
            && is_as_specified(&canary.ask(Access::Read, "preview"), existing, target, spec)?
            && (spec.shares_service || plan.has_service(existing, cx.run_id()))
        {
            return Ok(Vec::new());
        }
        let deployed = self.apply_deployment(cx, target, &plan, true).await?;
        let change = |object: String, what: String| Change { object, what };
        let replicas = |n: u32| format!("{n} replica{}", if n == 1 { "" } else { "s" });
        let verb = if plan.existing.is_some() { "change" } else { "create" };
        let what = format!("{verb} with {} of {}", replicas(spec.replicas), spec.image);
        let mut changes = vec![change(canary.to_string(), what)];
        if !spec.shares_service {
            let uid = deployed.metadata.uid.unwrap_or_default();
            self.apply_service(cx, target, &plan, &uid, true).await?;
            changes.push(change(canary_service(target).to_string(), format!("create, for the pods of {canary}")));
            changes.extend(traffic::preview(target));
        }
        let ask = stable.ask(Access::Read, "get");
        let (_, runs) = container(&ask, &plan.stable, target.service.container())?;
        let (before, capacity) = (image(&ask, runs)?, desired(&plan.stable));
        changes.push(if before == spec.image {
            change(stable.to_string(), format!("none: it runs {before} already"))
        } else {
            change(
                stable.to_string(),
                format!("image {before} -> {}, with {} at the end", spec.image, replicas(capacity)),
            )
        });
        changes.extend(configuration::preview(target, &plan.template));
        if !spec.shares_service {
            changes.extend(self.preview_minimums(cx, target, capacity).await?);
        }
        changes.push(change(canary.to_string(), "delete at the end, with everything that was made for it".to_owned()));
        Ok(changes)
    }

    fn by_hand(&self, target: &Target, remedy: &Remedy) -> Vec<String> {
        if target.layout == Layout::Single {
            return single::by_hand(target, remedy);
        }
        let (namespace, name) = (&target.namespace, &names::workload(target, Track::Stable));
        match remedy {
            Remedy::Image(image) => {
                let container = target.service.container.as_deref().unwrap_or("*");
                let mut commands =
                    vec![format!("kubectl -n {namespace} set image deployment/{name} '{container}={image}'")];
                commands.extend(configuration::by_hand(target, "deployment", name));
                commands.push(format!("kubectl -n {namespace} rollout status deployment/{name}"));
                commands
            }
            Remedy::Replicas(count) => vec![
                format!("kubectl -n {namespace} scale deployment/{name} --replicas={count}"),
                format!("kubectl -n {namespace} rollout status deployment/{name}"),
            ],
            Remedy::RemoveCanary if target.layout.color(Track::Canary) == Some(Color::Blue) => {
                vec![format!("kubectl -n {namespace} scale deployment/{} --replicas=0", target.service.workload)]
            }
            Remedy::RemoveCanary => {
                let canary = names::workload(target, Track::Canary);
                vec![format!("kubectl -n {namespace} delete deployment/{canary} --ignore-not-found")]
            }
            Remedy::HandOver(track) => {
                let (to, service) = (names::workload(target, *track), &target.service.traffic.service);
                let labels = "jsonpath='{.spec.template.metadata.labels}'";
                vec![
                    format!("kubectl -n {namespace} get deployment/{to} -o {labels}"),
                    format!("kubectl -n {namespace} edit service/{service}  # its selector: these labels' values"),
                ]
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Asked, cx, kube, not_found, stable_deployment, stable_service, target};
    use std::sync::Mutex;

    fn spec(shares_service: bool) -> CanarySpec {
        CanarySpec::new("registry/web:v2".parse().unwrap(), "v2", 1, shares_service)
    }

    /// A cluster with the stable objects, and with this canary if there is one.
    fn cluster(canary: Option<Value>) -> (DeploymentDeployer, Asked) {
        let canary = Mutex::new(canary);
        let (kube, asked) = kube(move |method, uri, body| {
            let path = uri.split('?').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let mut canary = canary.lock().unwrap();
            match (method, name) {
                ("GET", "web") => (200, stable_deployment()),
                ("GET", "web-svc") => (200, stable_service()),
                ("GET", "poddisruptionbudgets") => (200, json!({"items": []})),
                ("GET", "web-canary") => canary.clone().map_or_else(|| not_found(name), |c| (200, c)),
                ("GET", _) => not_found(name),
                ("PATCH", "web-canary") if body.is_object() => {
                    let mut made = body.clone();
                    made["metadata"]["uid"] = "u-9".into();
                    made["metadata"]["resourceVersion"] = "7".into();
                    *canary = Some(made.clone());
                    (200, made)
                }
                ("PATCH", "web") => (200, stable_deployment()),
                _ => (200, json!({})),
            }
        });
        (DeploymentDeployer::new(kube), asked)
    }

    fn writes(asked: &Asked) -> Vec<String> {
        asked.lock().unwrap().iter().filter(|line| !line.starts_with("GET")).cloned().collect()
    }

    /// The canary that the deployer itself makes.
    async fn own_canary() -> Value {
        let (deployer, asked) = cluster(None);
        deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap();
        let apply = writes(&asked)[0].splitn(3, ' ').nth(2).unwrap().to_owned();
        let mut canary: Value = serde_json::from_str(&apply).unwrap();
        canary["metadata"]["uid"] = "u-9".into();
        canary
    }

    #[tokio::test]
    async fn of_a_canary_without_its_service_only_the_service_is_written() {
        let (deployer, asked) = cluster(None);
        deployer.deploy(&cx(), &target(), &spec(false)).await.unwrap();
        let first = writes(&asked);
        // The Service never arrived: nothing is found of it.
        deployer.deploy(&cx(), &target(), &spec(false)).await.unwrap();
        let all = writes(&asked);
        assert_eq!((first.len(), all.len()), (2, 3), "{all:?}");
        assert!(all[2].contains("/services/web-svc-canary"), "{all:?}");
        assert_eq!(all[1].split('?').next(), all[2].split('?').next());
    }

    #[tokio::test]
    async fn a_canary_takes_two_writes_with_a_service_of_its_own_and_one_without() {
        let (deployer, asked) = cluster(None);
        let made = deployer.deploy(&cx(), &target(), &spec(false)).await.unwrap();
        assert_eq!((made.name.as_str(), made.replicas.desired, made.observed), ("web-canary", 1, false));
        let written = writes(&asked);
        assert_eq!(written.len(), 2, "{written:?}");
        let deployment = "PATCH /apis/apps/v1/namespaces/ns/deployments/web-canary?&fieldManager=moodify ";
        assert!(written[0].starts_with(deployment), "{written:?}");
        assert!(written[1].starts_with("PATCH /api/v1/namespaces/ns/services/web-svc-canary?&fieldManager=moodify "));
        assert!(written[1].contains("\"uid\":\"u-9\""), "owned by the Deployment: {written:?}");

        let (deployer, asked) = cluster(None);
        deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap();
        assert_eq!(writes(&asked).len(), 1);
        deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap();
        assert_eq!(writes(&asked).len(), 1, "all is as asked for");
    }

    #[tokio::test]
    async fn a_preview_is_a_dry_run() {
        let (deployer, asked) = cluster(None);
        let changes = deployer.preview(&cx(), &target(), &spec(false)).await.unwrap();
        assert!(writes(&asked).iter().all(|line| line.contains("dryRun=All")), "{asked:?}");
        let objects: Vec<&str> = changes.iter().map(|c| c.object.as_str()).collect();
        assert_eq!(
            objects,
            [
                "Deployment ns/web-canary",
                "Service ns/web-svc-canary",
                "HTTPRoute ns/web-route",
                "Deployment ns/web",
                "Deployment ns/web-canary",
            ]
        );
        assert_eq!(changes[0].what, "create with 1 replica of registry/web:v2");
        assert_eq!(changes[3].what, "image registry/web:v1 -> registry/web:v2, with 4 replicas at the end");

        let (deployer, asked) = cluster(Some(own_canary().await));
        assert_eq!(deployer.preview(&cx(), &target(), &spec(true)).await.unwrap(), [], "deploy would write nothing");
        assert!(writes(&asked).is_empty(), "{asked:?}");
        let more = CanarySpec::new(spec(true).image, "v2", 2, true);
        let changes = deployer.preview(&cx(), &target(), &more).await.unwrap();
        assert_eq!(changes[0].what, "change with 2 replicas of registry/web:v2");
    }

    #[tokio::test]
    async fn trap_13_what_a_newer_schema_adds_to_an_object_is_no_reason_to_write_it_again() {
        let mut canary = own_canary().await;
        canary["metadata"]["generation"] = 1.into();
        canary["spec"]["template"]["spec"]["fieldOfTheNextVersion"] = json!({"default": true});
        canary["spec"]["template"]["spec"]["containers"][1]["terminationMessagePath"] = "/dev/termination-log".into();
        canary["spec"]["strategy"] = json!({"type": "RollingUpdate"});
        let (deployer, asked) = cluster(Some(canary));
        deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap();
        assert!(writes(&asked).is_empty(), "{asked:?}");
    }

    #[tokio::test]
    async fn another_run_s_canary_is_left_alone() {
        let mut canary = own_canary().await;
        canary["metadata"]["labels"]["moodify.dev/run"] = "r0".into();
        let (deployer, asked) = cluster(Some(canary));
        let error = deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.message().contains("r0"), "{error}");
        deployer.remove(&cx(), &target()).await.unwrap();
        assert!(writes(&asked).is_empty(), "{asked:?}");
    }

    #[tokio::test]
    async fn an_edited_canary_is_drift_but_can_be_removed() {
        let mut canary = own_canary().await;
        canary["metadata"]["managedFields"] = json!([{"manager": "kubectl-edit", "operation": "Update",
            "time": "2026-11-24T12:03:04Z", "fieldsV1": {"f:spec": {"f:template": {}}}}]);
        let (deployer, asked) = cluster(Some(canary));
        for error in [
            deployer.observe(&cx(), &target(), Track::Canary).await.unwrap_err(),
            deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap_err(),
            deployer.scale(&cx(), &target(), Track::Canary, Scale { from: 1, to: 2 }).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Drift);
            let told = error.to_string();
            assert!(told.contains("Deployment ns/web-canary: it was edited by \"kubectl-edit\""), "{told}");
        }
        assert!(writes(&asked).is_empty());
        deployer.remove(&cx(), &target()).await.unwrap();
        let written = writes(&asked);
        assert!(written.len() == 1 && written[0].starts_with("DELETE "), "{written:?}");
        assert!(written[0].contains("\"uid\":\"u-9\"") && written[0].contains("Background"), "{written:?}");
    }

    #[tokio::test]
    async fn a_canary_that_is_not_seen_but_there_is_not_taken_for_removed() {
        let (kube, asked) = kube(|method, uri, _| match method {
            // A read from the past.
            "GET" => not_found(uri),
            _ => {
                (409, json!({"code": 409, "reason": "Conflict", "message": "Precondition failed: UID in precondition"}))
            }
        });
        let error = DeploymentDeployer::new(kube).remove(&cx(), &target()).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.is_transient(), "{error}");
        assert!(writes(&asked)[0].contains("dryRun=All"), "{asked:?}");
    }

    #[tokio::test]
    async fn scaling_compares_at_the_moment_of_the_write() {
        let (deployer, asked) = cluster(None);
        let scale = |from, to| Scale { from, to };
        deployer.scale(&cx(), &target(), Track::Stable, scale(3, 4)).await.unwrap();
        assert!(writes(&asked).is_empty(), "it has 4 already");
        let error = deployer.scale(&cx(), &target(), Track::Stable, scale(3, 5)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Drift);
        deployer.scale(&cx(), &target(), Track::Stable, scale(4, 5)).await.unwrap();
        let patch =
            r#"[{"op":"test","path":"/spec/replicas","value":4},{"op":"replace","path":"/spec/replicas","value":5}]"#;
        assert!(writes(&asked)[0].ends_with(patch), "{asked:?}");
    }

    #[tokio::test]
    async fn an_image_is_changed_in_one_write_with_the_count() {
        let change = |from: &str, to: &str, scale| ImageChange {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            config: ConfigRefs::new(),
            scale,
        };
        let (deployer, asked) = cluster(None);
        let done = change("registry/web:v0", "registry/web:v1", Some(Scale { from: 0, to: 4 }));
        deployer.set_image(&cx(), &target(), &done).await.unwrap();
        assert!(writes(&asked).is_empty(), "it is so already");
        let other = change("registry/web:v0", "registry/web:v2", None);
        assert_eq!(deployer.set_image(&cx(), &target(), &other).await.unwrap_err().kind(), ErrorKind::Drift);
        let wanted = change("registry/web:v1", "registry/web:v2", Some(Scale { from: 4, to: 2 }));
        deployer.set_image(&cx(), &target(), &wanted).await.unwrap();
        let written = writes(&asked);
        assert_eq!(written.len(), 1);
        for part in [
            r#"{"op":"test","path":"/spec/template/spec/containers/1/name","value":"web"}"#,
            r#"{"op":"test","path":"/spec/template/spec/containers/1/image","value":"registry/web:v1"}"#,
            r#"{"op":"replace","path":"/spec/template/spec/containers/1/image","value":"registry/web:v2"}"#,
            r#"{"op":"test","path":"/spec/replicas","value":4}"#,
        ] {
            assert!(written[0].contains(part), "{written:?}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let (kube, _) = kube(|_, uri, _| not_found(uri));
        let deployer = DeploymentDeployer::new(kube);
        let error = deployer.deploy(&cx(), &target(), &spec(true)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "there is no Deployment web in the namespace ns");
        assert_eq!(deployer.observe(&cx(), &target(), Track::Stable).await.unwrap(), None);
        deployer.remove(&cx(), &target()).await.unwrap();
    }

    #[tokio::test]
    async fn a_name_cannot_become_a_path() {
        let (deployer, asked) = cluster(None);
        let mut target = target();
        target.namespace = "ns/../../secrets".to_owned();
        let error = deployer.observe(&cx(), &target, Track::Stable).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_bounded_and_a_lost_write_is_unknown() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            std::future::pending::<Result<http::Response<kube::client::Body>, kube::Error>>().await
        });
        let client = kube::Client::new(service, "ns");
        let kube = Kube::from_client(client, "https://test".to_owned(), &crate::KubeConfig::new());
        let deployer = DeploymentDeployer::new(kube.clone());
        let long = CallContext::new(
            RunId::new("r1").unwrap(),
            moodify_core::IdempotencyKey::new("k"),
            std::time::Duration::from_secs(600),
        );
        let begin = tokio::time::Instant::now();
        let read = deployer.observe(&long, &target(), Track::Stable).await.unwrap_err();
        assert_eq!((read.kind(), read.effect_of()), (ErrorKind::Timeout, Effect::None));
        assert_eq!(begin.elapsed().as_secs(), 10);
        let object = deployment_of(&target(), Track::Stable);
        let write = kube.patch::<Value>(&long, &object, scaling(1, 2).to_vec()).await.unwrap_err();
        assert_eq!((write.kind(), write.effect_of()), (ErrorKind::Timeout, Effect::Unknown));
    }
}
