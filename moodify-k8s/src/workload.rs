//! A Deployment as a [`Workload`].

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Container;
use moodify_core::backend::{Replicas, Workload};
use moodify_core::model::{ConfigRefs, ImageRef, Target};
use moodify_core::{Error, ErrorKind};

use crate::configuration;
use crate::error::Ask;

/// Where the release container is in a Deployment, and what it runs.
pub(crate) fn container<'a>(
    ask: &Ask,
    deployment: &'a Deployment,
    name: &str,
) -> Result<(usize, &'a Container), Error> {
    named(ask, containers(deployment), name)
}

/// The container of that name, and where it is.
pub(crate) fn named<'a>(ask: &Ask, containers: &'a [Container], name: &str) -> Result<(usize, &'a Container), Error> {
    let found = containers.iter().enumerate().find(|(_, container)| container.name == name);
    found.ok_or_else(|| no_container(ask, Some(name), containers.iter().map(|container| container.name.as_str())))
}

/// That there is no container of that name, or, without one, that there is not a single one.
pub(crate) fn no_container<'a>(ask: &Ask, name: Option<&str>, there: impl Iterator<Item = &'a str>) -> Error {
    let there = there.collect::<Vec<_>>().join(", ");
    let message = match name {
        Some(name) => format!("it has no container {name:?}; there are: {there}"),
        None => format!("it has several containers: {there}"),
    };
    ask.error(ErrorKind::Invalid, message).hint("name the container that is meant in the plan")
}

fn containers(deployment: &Deployment) -> &[Container] {
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    template.map(|pod| pod.containers.as_slice()).unwrap_or_default()
}

/// An image as the platform understands it: without tag and digest it is `latest`.
pub(crate) fn image(ask: &Ask, container: &Container) -> Result<ImageRef, Error> {
    let text = container.image.as_deref().unwrap_or_default();
    let parsed = text.parse().or_else(|_| format!("{text}:latest").parse());
    parsed.map_err(|e| ask.error(ErrorKind::Invalid, e))
}

pub(crate) fn desired(deployment: &Deployment) -> u32 {
    count(deployment.spec.as_ref().map_or(Some(1), |spec| spec.replicas.or(Some(1))))
}

/// What its pods read of the configuration that ships with this service.
pub(crate) fn config(deployment: &Deployment, target: &Target) -> ConfigRefs {
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let annotations = template.and_then(|template| template.annotations.as_ref());
    configuration::reads(annotations.and_then(|all| all.get(configuration::READS)).map(String::as_str), target)
}

fn count(replicas: Option<i32>) -> u32 {
    replicas.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}

/// The state of a Deployment that runs this service.
pub(crate) fn workload(ask: &Ask, deployment: &Deployment, target: &Target) -> Result<Workload, Error> {
    let (_, container) = container(ask, deployment, target.service.container())?;
    let status = deployment.status.clone().unwrap_or_default();
    let generation = deployment.metadata.generation.unwrap_or(0);
    // Counts of an older generation speak of the rollout before this one, and so does its verdict.
    let observed = status.observed_generation.is_some_and(|seen| seen >= generation);
    let gave_up = status.conditions.iter().flatten().find(|c| {
        c.type_ == "Progressing" && c.status == "False" && c.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    Ok(Workload {
        name: deployment.metadata.name.clone().unwrap_or_default(),
        image: image(ask, container)?,
        config: config(deployment, target),
        replicas: Replicas {
            desired: desired(deployment),
            total: count(status.replicas),
            updated: count(status.updated_replicas),
            ready: count(status.ready_replicas),
            available: count(status.available_replicas),
        },
        generation,
        observed,
        stalled: gave_up.filter(|_| observed).map(|c| {
            let why = c.message.clone().unwrap_or_default();
            format!("Kubernetes gave up waiting for progress (ProgressDeadlineExceeded): {why}")
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Access;
    use crate::testing::target;
    use serde_json::json;

    fn deployment(generation: i64, observed: i64) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": generation},
            "spec": {"replicas": 3, "selector": {}, "template": {"spec": {"containers": [
                {"name": "proxy", "image": "proxy:1"}, {"name": "web", "image": "web"}]}}},
            "status": {"observedGeneration": observed, "replicas": 4, "updatedReplicas": 2, "readyReplicas": 3,
                "availableReplicas": 1, "conditions": [{"type": "Progressing", "status": "False",
                "reason": "ProgressDeadlineExceeded", "message": "has timed out"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_counts_and_the_verdict_are_of_this_generation() {
        let ask = Ask::new(Access::Read, "get", "ns/web");
        let now = workload(&ask, &deployment(2, 2), &target()).unwrap();
        assert!(now.observed && now.stalled.as_ref().is_some_and(|s| s.contains("has timed out")));
        assert_eq!(now.image.as_str(), "web:latest");
        assert_eq!(now.replicas, Replicas { desired: 3, total: 4, updated: 2, ready: 3, available: 1 });
        let before = workload(&ask, &deployment(3, 2), &target()).unwrap();
        assert!(!before.observed && before.stalled.is_none());
    }

    #[test]
    fn a_missing_container_names_those_that_are_there() {
        let ask = Ask::new(Access::Read, "get", "ns/web");
        let mut target = target();
        target.service.container = Some("backend".to_owned());
        let error = workload(&ask, &deployment(1, 1), &target).unwrap_err();
        assert!(error.message().contains("there are: proxy, web"), "{error}");
    }
}
