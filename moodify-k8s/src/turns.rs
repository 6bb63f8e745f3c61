//! Two Deployments that take turns: the one that the plan names is blue, the one beside it green. The Service of the plan
//! leads to the one that serves; each has a Service of its own besides, by which a router reaches it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use moodify_core::backend::{CanarySpec, Change, Workload};
use moodify_core::model::{Color, Layout, Target, Track};
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use crate::canary;
use crate::client::{Apply, Object, typed};
use crate::configuration;
use crate::deployer::{
    DeploymentDeployer, canary_service, deployment_of, has_capacity, is_as_specified, is_read, is_taken, rolls,
    scaling, stable_service,
};
use crate::error::{Access, Ask};
use crate::names::{RUN, VERSION};
use crate::ownership::{drift, is_made, is_of, last_foreign, last_if_foreign};
use crate::patch::{self, put};
use crate::workload::{container, desired, image, workload};

/// What a turn is made of, read and checked; nothing written yet.
struct Turn {
    /// What serves.
    stable: Value,
    base: Value,
    /// The other Deployment, whoever used it last.
    other: Option<Other>,
    own: Option<Value>,
    /// The other Deployment as it shall be.
    body: Value,
}

/// The Deployment that does not serve, as the server told it, and read.
struct Other {
    value: Value,
    deployment: Deployment,
    /// Whether it is this run's and as specified.
    is_done: bool,
}

pub(crate) fn selector(service: &Value) -> Map<String, Value> {
    service["spec"]["selector"].as_object().cloned().unwrap_or_default()
}

/// Whether a Service with this selector leads to the pods of a Deployment.
pub(crate) fn leads_to(selector: &Map<String, Value>, deployment: &Value) -> bool {
    let labels = canary::pod_labels(deployment);
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The same keys with the values that the pods of a Deployment carry.
fn led_to(ask: &Ask, selector: &Map<String, Value>, deployment: &Value) -> Result<Map<String, Value>> {
    let labels = canary::pod_labels(deployment);
    let value = |key: &String| {
        labels.get(key).cloned().map(|value| (key.clone(), value)).ok_or_else(|| {
            let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
            ask.error(ErrorKind::Invalid, format!("it selects by {key}, a label that the pods of {name} do not carry"))
        })
    };
    selector.keys().map(value).collect()
}

impl DeploymentDeployer {
    async fn value(&self, cx: &CallContext, object: &Object) -> Result<Value> {
        self.kube.find(cx, object).await?.ok_or_else(|| object.missing())
    }

    /// Which of the two the Service of the plan leads to.
    pub(crate) async fn who_serves(&self, cx: &CallContext, target: &Target) -> Result<Color> {
        Ok(self.serving_by(cx, target).await?.0)
    }

    /// The same, with that Service.
    pub(crate) async fn serving_by(&self, cx: &CallContext, target: &Target) -> Result<(Color, Value)> {
        // Whoever serves, it is these two.
        let target = target.clone().with_layout(Layout::Colors(Color::Blue));
        let (blue, green) = (deployment_of(&target, Track::Stable), deployment_of(&target, Track::Canary));
        let base = stable_service(&target);
        let (blue, green, service) =
            tokio::try_join!(self.value(cx, &blue), self.kube.find::<Value>(cx, &green), self.value(cx, &base))?;
        let selector = selector(&service);
        let to_green = green.as_ref().is_some_and(|green| leads_to(&selector, green));
        match (leads_to(&selector, &blue), to_green) {
            (true, false) => Ok((Color::Blue, service)),
            (false, true) => Ok((Color::Green, service)),
            (both, _) => {
                let (name, ask) = (&target.service.workload, base.ask(Access::Read, "look where it leads:"));
                let message = match both {
                    true => format!("it leads to the pods of {name} and of the one beside it alike"),
                    false => format!("it leads neither to the pods of {name} nor to those of the one beside it"),
                };
                Err(ask.error(ErrorKind::Invalid, message).hint("mend its selector so that it leads to one of the two"))
            }
        }
    }

    async fn turn(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Turn> {
        let (serving, object) = (deployment_of(target, Track::Stable), deployment_of(target, Track::Canary));
        let (base, own) = (stable_service(target), canary_service(target));
        let (stable, other, base, own) = tokio::try_join!(
            self.value(cx, &serving),
            self.kube.find::<Value>(cx, &object),
            self.value(cx, &base),
            self.kube.find::<Value>(cx, &own),
        )?;
        let ask = object.ask(Access::Read, "plan");
        let read = |value: Value| {
            let deployment: Deployment = typed(&ask, value.clone())?;
            self.seen(Some(deployment.clone()), target, Track::Canary, cx.run_id())?;
            let is_done = is_of(&deployment.metadata, cx.run_id()) && is_as_specified(&ask, &deployment, target, spec)?;
            Ok::<_, Error>(Other { value, deployment, is_done })
        };
        let other = other.map(read).transpose()?;
        if own.as_ref().is_some_and(|own| !is_made(own)) {
            return Err(is_taken(&canary_service(target)));
        }
        let selects: Service = typed(&ask, base.clone())?;
        let body = match (&other, target.layout.color(Track::Canary)) {
            // Blue keeps the labels that it is known by.
            (Some(blue), Some(Color::Blue)) => {
                let labels = canary::pod_labels(&blue.value);
                json!({"spec": {"template": canary::template(&ask, &stable, labels, target, cx.run_id(), spec)?}})
            }
            (None, Some(Color::Blue)) => return Err(object.missing()),
            _ => {
                // Where two take turns, neither gets the other's traffic by the Service.
                let mut apart = spec.clone();
                apart.shares_service = false;
                canary::deployment(&ask, &stable, &selects, target, cx.run_id(), &apart)?
            }
        };
        Ok(Turn { stable, base, other, own, body })
    }

    /// Makes the one that does not serve as specified.
    async fn take_turn(&self, cx: &CallContext, target: &Target, spec: &CanarySpec, turn: &Turn) -> Result<Deployment> {
        let object = deployment_of(target, Track::Canary);
        let ask = object.ask(Access::Write, "deploy");
        let Some(other) = &turn.other else {
            return self.kube.apply(cx, &object, &turn.body, Apply { force: false, dry_run: false }).await;
        };
        if other.is_done {
            return Ok(other.deployment.clone());
        }
        // Its status may change as it likes.
        let same = |key: &str| json!({"op": "test", "path": format!("/metadata/{key}"), "value": other.value["metadata"][key]});
        let mut patch = vec![same("uid"), same("generation")];
        let (_, runs) = container(&ask, &other.deployment, target.service.container())?;
        if !spec.restore || image(&ask, runs)? != spec.image || !is_read(&other.deployment, target, spec) {
            patch.push(json!({"op": "replace", "path": "/spec/template", "value": turn.body["spec"]["template"]}));
        }
        // Without a number of its own it would have one.
        patch.push(json!({"op": "add", "path": "/spec/replicas", "value": spec.replicas}));
        put(&mut patch, &other.value, "/metadata/labels", RUN, cx.run_id().as_str());
        put(&mut patch, &other.value, "/metadata/annotations", VERSION, &spec.version);
        self.kube.patch(cx, &object, patch).await
    }

    pub(crate) async fn deploy_turn(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<Workload> {
        let ask = deployment_of(target, Track::Canary).ask(Access::Write, "deploy");
        let turn = self.turn(cx, target, spec).await?;
        self.make_config(cx, target, &spec.config).await?;
        let serving: Deployment = typed(&ask, turn.stable.clone())?;
        self.hold_instances(cx, target, desired(&serving)).await?;
        let deployed = self.take_turn(cx, target, spec, &turn).await?;
        if spec.plain {
            return workload(&ask, &deployed, target);
        }
        let uid = deployed.metadata.uid.clone().unwrap_or_default();
        let body = canary::service(&turn.base, target, cx.run_id(), &uid);
        if !turn.own.as_ref().is_some_and(|own| is_same_service(own, &body)) {
            let force = turn.own.is_some();
            let own = canary_service(target);
            let applied = self.kube.apply::<Value>(cx, &own, &body, Apply { force, dry_run: false }).await;
            // The Deployment stands already, whatever became of the Service.
            applied.map_err(|e| e.effect(Effect::Unknown))?;
        }
        self.make_budgets(cx, target, &turn.stable, &deployed).await?;
        workload(&ask, &deployed, target)
    }

    pub(crate) async fn examine_turn(&self, cx: &CallContext, target: &Target, spec: &CanarySpec) -> Result<()> {
        let turn = self.turn(cx, target, spec).await?;
        if let Some(other) = &turn.other {
            rolls(target, Track::Canary, &other.deployment)?;
        }
        self.examine_config(cx, target, &turn.stable["spec"]["template"]).await?;
        let ask = deployment_of(target, Track::Stable).ask(Access::Read, "check");
        has_capacity(target, &typed(&ask, turn.stable)?)?;
        let name = deployment_of(target, Track::Stable).name;
        let scalers = self.scalers(cx, target, &[Track::Stable]).await?;
        scalers.into_iter().try_for_each(|scaler| scaler.follows(&name).map(drop))
    }

    pub(crate) async fn preview_turn(
        &self,
        cx: &CallContext,
        target: &Target,
        spec: &CanarySpec,
    ) -> Result<Vec<Change>> {
        let turn = self.turn(cx, target, spec).await?;
        let (stable, canary) = (deployment_of(target, Track::Stable), deployment_of(target, Track::Canary));
        let ask = canary.ask(Access::Read, "preview");
        match &turn.other {
            Some(other) if other.is_done => return Ok(Vec::new()),
            Some(_) => {}
            None => {
                let _: Value = self.kube.apply(cx, &canary, &turn.body, Apply { force: false, dry_run: true }).await?;
            }
        }
        let config = configuration::preview(target, &turn.stable["spec"]["template"]);
        let serving: Deployment = typed(&ask, turn.stable)?;
        let (_, runs) = container(&ask, &serving, target.service.container())?;
        let (before, capacity) = (image(&ask, runs)?, desired(&serving));
        let s = |n: u32| if n == 1 { "" } else { "s" };
        let verb = if turn.other.is_some() { "change" } else { "create" };
        let count = spec.replicas;
        let mut changes = vec![
            (
                canary.to_string(),
                format!("{verb} with {count} replica{} of {}, {capacity} at the end", s(count), spec.image),
            ),
            (canary_service(target).to_string(), format!("for the pods of {canary}")),
        ];
        if let Some(route) = &target.service.traffic.route {
            let to = &target.service.traffic.service;
            changes.push((
                format!("route {}/{route}", target.namespace),
                format!("weights of what leads to {to}: step by step to the new version, back at the end"),
            ));
        }
        changes.push((stable_service(target).to_string(), format!("leads to {} at the end", canary.name)));
        changes.push((
            stable.to_string(),
            format!("keeps {capacity} replica{} of {before} for a while, then 0", s(capacity)),
        ));
        let scalers = self.preview_minimums(cx, target, capacity).await?;
        Ok(changes.into_iter().map(|(object, what)| Change { object, what }).chain(config).chain(scalers).collect())
    }

    pub(crate) async fn hand_name_over(&self, cx: &CallContext, target: &Target, to: Track) -> Result<()> {
        let from = if to == Track::Canary { Track::Stable } else { Track::Canary };
        let base = stable_service(target);
        let (old, new, service) = (deployment_of(target, from), deployment_of(target, to), self.value(cx, &base));
        let (old, new, service) = tokio::try_join!(self.kube.find::<Value>(cx, &old), self.value(cx, &new), service)?;
        let (now, ask) = (selector(&service), base.ask(Access::Compare, "hand over"));
        if !leads_to(&now, &new) {
            let meta = typed(&ask, service["metadata"].clone())?;
            // A way back must not need the version that it leaves: if that is gone, what led to it is known by who wrote it.
            let is_ours = || last_if_foreign(&meta, self.kube.manager(), &["f:spec", "f:selector"]).is_none();
            let led_here = match &old {
                Some(old) => leads_to(&now, old),
                None => to == Track::Stable && is_ours(),
            };
            if !led_here {
                let editor = last_foreign(&meta, self.kube.manager(), &["f:spec"]);
                return Err(drift(&ask, "it leads to neither of the two versions", editor));
            }
            let wanted = led_to(&ask, &now, &new)?;
            let patch = vec![
                json!({"op": "test", "path": "/spec/selector", "value": now}),
                json!({"op": "replace", "path": "/spec/selector", "value": wanted}),
            ];
            let _: Value = self.kube.patch(cx, &base, patch).await?;
        }
        let new = deployment_of(target, to).name;
        let from_name = deployment_of(target, from).name;
        for scaler in self.scalers(cx, target, &[from]).await? {
            let (scaler, path) = (scaler.follows(&from_name)?, "/spec/scaleTargetRef/name");
            let patch = vec![
                json!({"op": "test", "path": path, "value": from_name}),
                json!({"op": "replace", "path": path, "value": new}),
            ];
            let patched = self.kube.patch::<Value>(cx, &scaler, patch).await;
            // The Service leads there already, whatever became of the autoscaler.
            patched.map_err(|e| e.effect(Effect::Unknown))?;
        }
        Ok(())
    }

    /// Leaves of the two only blue, without our marks; its pods are not touched.
    pub(crate) async fn leave_turns(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let by_blue = target.clone().with_layout(Layout::Colors(Color::Blue));
        let by_green = target.clone().with_layout(Layout::Colors(Color::Green));
        let (blue, green) = (deployment_of(&by_blue, Track::Stable), deployment_of(&by_blue, Track::Canary));
        let ask = green.ask(Access::Compare, "leave");
        if self.who_serves(cx, target).await? == Color::Green {
            let message = format!("the Service {} leads to it: it serves", stable_service(target).name);
            return Err(ask.error(ErrorKind::Conflict, message));
        }
        let (found, plain) = tokio::try_join!(self.kube.find::<Value>(cx, &green), self.value(cx, &blue))?;
        let found = found.filter(is_made);
        if let Some(found) = &found {
            let deployment: Deployment = typed(&ask, found.clone())?;
            if desired(&deployment) > 0 && !is_of(&deployment.metadata, cx.run_id()) {
                return Err(ask
                    .error(ErrorKind::AlreadyExists, "it has instances, but does not serve")
                    .hint("let the run that it belongs to end; or scale it to 0, if nobody needs what it runs"));
            }
        }
        self.delete_own_service(cx, &by_green).await?;
        let marks = [patch::label(RUN), patch::annotation(VERSION)];
        let marks = marks.iter().filter_map(|path| Some((path, plain.pointer(path)?)));
        let patch: Vec<Value> = marks
            .flat_map(|(path, value)| {
                [json!({"op": "test", "path": path, "value": value}), json!({"op": "remove", "path": path})]
            })
            .collect();
        if !patch.is_empty() {
            let _: Value = self.kube.patch(cx, &blue, patch).await?;
        }
        // Its own Service goes with it: the Deployment owns it.
        match found {
            Some(found) => self.delete_found(cx, &green, &found).await,
            None => Ok(()),
        }
    }

    /// Deletes an object as it was found, unless it goes already.
    async fn delete_found(&self, cx: &CallContext, object: &Object, found: &Value) -> Result<()> {
        if found["metadata"]["deletionTimestamp"].is_string() {
            return Ok(());
        }
        self.kube.delete(cx, object, found["metadata"]["uid"].as_str().unwrap_or_default().to_owned()).await
    }

    /// Deletes the Service of the one that does not serve.
    async fn delete_own_service(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let own = canary_service(target);
        match self.kube.find::<Value>(cx, &own).await?.filter(is_made) {
            Some(service) => self.delete_found(cx, &own, &service).await,
            None => Ok(()),
        }
    }

    /// Leaves of the one that does not serve what costs nothing: of blue its name and labels, of green nothing.
    pub(crate) async fn remove_turn(&self, cx: &CallContext, target: &Target) -> Result<()> {
        let (object, base) = (deployment_of(target, Track::Canary), stable_service(target));
        let green = target.layout.color(Track::Canary) == Some(Color::Green);
        let Some(found) = self.kube.find::<Value>(cx, &object).await? else {
            // What was read may be past. Blue is not ours to delete, nor to ask for that.
            return if green { self.kube.is_absent(cx, &object).await } else { Ok(()) };
        };
        let ask = object.ask(Access::Compare, "remove");
        let deployment: Deployment = typed(&ask, found.clone())?;
        if !is_of(&deployment.metadata, cx.run_id()) {
            tracing::warn!(%object, run = %cx.run_id(), "not removed: it belongs to somebody else");
            return Ok(());
        }
        let service: Option<Value> = self.kube.find(cx, &base).await?;
        if service.is_some_and(|service| leads_to(&selector(&service), &found)) {
            let message = format!("the Service {} leads to it: it serves", base.name);
            return Err(ask.error(ErrorKind::Conflict, message));
        }
        if green {
            // Its own Service goes with it: the Deployment owns it.
            return self.delete_found(cx, &object, &found).await;
        }
        self.delete_own_service(cx, target).await?;
        let owner = patch::label(RUN);
        let mut patch = vec![json!({"op": "test", "path": owner, "value": cx.run_id().as_str()})];
        patch.extend(scaling(desired(&deployment), 0));
        patch.push(json!({"op": "remove", "path": owner}));
        let _: Value = self.kube.patch(cx, &object, patch).await?;
        Ok(())
    }
}

/// Whether a Service is as it shall be in what matters: whose it is, where it leads, and by which ports.
fn is_same_service(there: &Value, wanted: &Value) -> bool {
    let owner = |service: &Value| service["metadata"]["ownerReferences"][0]["uid"].clone();
    owner(there) == owner(wanted)
        && ["selector", "ports", "type"].iter().all(|key| there["spec"][key] == wanted["spec"][key])
}
