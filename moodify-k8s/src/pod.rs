//! A Pod as a [`PodState`]: what a person at night needs of it. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus};
use moodify_core::backend::PodState;

/// Restarts from which a container that is not ready counts as crash looping, if its runs are short.
const MANY_RESTARTS: i32 = 3;

/// A run this long is not part of a crash loop; the kubelet forgives as much.
const LONG_RUN: SignedDuration = SignedDuration::from_mins(10);

/// The state of a pod whose release container is `container`.
///
/// - *ready*: its condition `Ready` is true.
/// - *was ready*: it is, or `Ready` turned false later than the pod was initialised and started. A pod that never was
///   ready has had `Ready` false since then. A second is allowed for, as the times are whole seconds.
/// - *crash looping*: a container waits in `CrashLoopBackOff`; or it is not ready, was restarted three times or more,
///   and its last run took less than ten minutes (so that the short runs between two waits count too).
pub(crate) fn state(pod: &Pod, container: &str) -> PodState {
    let status = pod.status.clone().unwrap_or_default();
    let ready = condition(&status, "Ready").is_some_and(|c| c.status == "True");
    let was_ready = ready || was_ready(&status);
    let statuses = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let release = containers.iter().find(|c| c.name == container).or_else(|| containers.first());
    PodState {
        name: pod.metadata.name.clone().unwrap_or_default(),
        image: release.and_then(|c| c.image.clone()).unwrap_or_default(),
        ready,
        was_ready,
        restarts: statuses().map(|c| u32::try_from(c.restart_count).unwrap_or(0)).sum(),
        crash_looping: statuses().any(crash_looping),
        reason: if ready { None } else { reason(&status, was_ready) },
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn was_ready(status: &PodStatus) -> bool {
    let since = |kind: &str| condition(status, kind)?.last_transition_time.as_ref().map(|t| t.0);
    let started = status.start_time.as_ref().map(|t| t.0);
    let begin: Option<Timestamp> = started.max(since("Initialized")).max(since("PodScheduled"));
    let (Some(begin), Some(turned)) = (begin, since("Ready")) else { return false };
    turned.duration_since(begin) > SignedDuration::from_secs(1)
}

fn crash_looping(container: &ContainerStatus) -> bool {
    if waiting(container).is_some_and(|(reason, _)| reason == "CrashLoopBackOff") {
        return true;
    }
    let short = last_end(container).is_some_and(|end| match (&end.started_at, &end.finished_at) {
        (Some(from), Some(to)) => to.0.duration_since(from.0) < LONG_RUN,
        _ => true,
    });
    !container.ready && container.restart_count >= MANY_RESTARTS && short
}

fn waiting(container: &ContainerStatus) -> Option<(String, Option<String>)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.clone()?, waiting.message.clone()))
}

/// How the container ended last, now or before its last restart.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    [&container.state, &container.last_state].into_iter().find_map(|state| state.as_ref()?.terminated.as_ref())
}

/// `exit code 1`, `exit code 137 (OOMKilled)`. Not the container's own last words: they may hold a secret.
fn exit(end: &ContainerStateTerminated) -> String {
    match end.reason.as_deref() {
        None | Some("" | "Error" | "Completed") => format!("exit code {}", end.exit_code),
        Some(reason) => format!("exit code {} ({reason})", end.exit_code),
    }
}

fn with(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|m| !m.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

fn reason(status: &PodStatus, was_ready: bool) -> Option<String> {
    if let (Some("Failed"), Some(reason)) = (status.phase.as_deref(), &status.reason) {
        return Some(with(reason, status.message.as_deref()));
    }
    if let Some(unscheduled) = condition(status, "PodScheduled").filter(|c| c.status == "False") {
        return Some(with(unscheduled.reason.as_deref().unwrap_or("Unschedulable"), unscheduled.message.as_deref()));
    }
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    // What holds it up, before what is merely on its way.
    let on_its_way = |reason: &str| matches!(reason, "ContainerCreating" | "PodInitializing");
    for (reason, message) in containers().filter(|c| !c.ready).filter_map(waiting_with_exit) {
        if !on_its_way(&reason) {
            return Some(with(&reason, message.as_deref()));
        }
    }
    if let Some(end) = containers().find_map(|c| c.state.as_ref()?.terminated.as_ref().filter(|e| e.exit_code != 0)) {
        return Some(exit(end));
    }
    let unready = status.container_statuses.iter().flatten().find(|c| !c.ready);
    if let Some(running) = unready.filter(|c| c.state.as_ref().is_some_and(|s| s.running.is_some())) {
        let restarted = last_end(running).map(|end| format!(", restarted after {}", exit(end))).unwrap_or_default();
        let probe = match (running.started, was_ready) {
            (Some(false), _) => "the startup probe has not passed yet",
            (_, true) => "the readiness probe fails",
            (_, false) => "the readiness probe has not passed yet",
        };
        return Some(format!("{probe}{restarted}"));
    }
    if let Some((reason, message)) = containers().find_map(waiting) {
        return Some(with(&reason, message.as_deref()));
    }
    let unready = condition(status, "Ready").filter(|c| c.status != "True");
    unready.and_then(|c| c.reason.as_deref().map(|reason| with(reason, c.message.as_deref())))
}

/// Why a container waits; for a crash loop with the exit code instead of the kubelet's wordy message.
fn waiting_with_exit(container: &ContainerStatus) -> Option<(String, Option<String>)> {
    let (reason, message) = waiting(container)?;
    let ended = last_end(container).filter(|_| reason == "CrashLoopBackOff");
    Some((reason, ended.map(exit).or(message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(ready: (&str, &str), containers: &Value) -> PodState {
        let pod = json!({
            "metadata": {"name": "web-1"},
            "spec": {"containers": [{"name": "proxy", "image": "proxy:1"}, {"name": "web", "image": "web:v2"}]},
            "status": {
                "phase": "Running",
                "startTime": "2026-11-24T12:00:00Z",
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-24T12:00:00Z"},
                    {"type": "Initialized", "status": "True", "lastTransitionTime": "2026-11-24T12:00:02Z"},
                    {"type": "Ready", "status": ready.0, "lastTransitionTime": ready.1}],
                "containerStatuses": containers,
            },
        });
        state(&serde_json::from_value(pod).unwrap(), "web")
    }

    fn container(restarts: u32, ready: bool, now: &Value, before: &Value) -> Value {
        json!([{"name": "web", "image": "web:v2", "imageID": "", "restartCount": restarts, "ready": ready,
            "started": true, "state": now, "lastState": before}])
    }

    fn ran(seconds: u32, code: i32) -> Value {
        json!({"terminated": {"exitCode": code, "reason": "Error", "startedAt": "2026-11-24T12:00:00Z",
            "finishedAt": format!("2026-11-24T12:{:02}:{:02}Z", seconds / 60, seconds % 60)}})
    }

    const RUNNING: &str = r#"{"running": {"startedAt": "2026-11-24T12:00:02Z"}}"#;

    fn running() -> Value {
        serde_json::from_str(RUNNING).unwrap()
    }

    #[test]
    fn a_pod_that_starts_was_not_ready_yet() {
        let starting = pod(("False", "2026-11-24T12:00:00Z"), &container(0, false, &running(), &json!({})));
        assert!(!starting.ready && !starting.was_ready && !starting.crash_looping);
        assert_eq!(starting.reason.as_deref(), Some("the readiness probe has not passed yet"));
        assert_eq!(starting.image, "web:v2");
    }

    #[test]
    fn a_pod_that_lost_readiness_was_ready() {
        let lost = pod(("False", "2026-11-24T12:01:00Z"), &container(0, false, &running(), &json!({})));
        assert!(!lost.ready && lost.was_ready);
        assert_eq!(lost.reason.as_deref(), Some("the readiness probe fails"));
        let well = pod(("True", "2026-11-24T12:00:09Z"), &container(0, true, &running(), &json!({})));
        assert!(well.ready && well.was_ready && well.reason.is_none());
    }

    #[test]
    fn a_crash_loop_is_told_with_its_exit_code() {
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed ..."}});
        let looping = pod(("False", "2026-11-24T12:00:02Z"), &container(2, false, &waits, &ran(1, 1)));
        assert!(looping.crash_looping);
        assert_eq!((looping.restarts, looping.reason.as_deref()), (2, Some("CrashLoopBackOff: exit code 1")));
    }

    #[test]
    fn between_two_waits_it_is_still_a_crash_loop() {
        let state = |restarts, seconds| {
            pod(("False", "2026-11-24T12:00:02Z"), &container(restarts, false, &running(), &ran(seconds, 137)))
        };
        assert!(state(3, 5).crash_looping);
        assert!(!state(2, 5).crash_looping, "twice is no loop");
        assert!(!state(3, 900).crash_looping, "long runs are no loop");
        let reason = state(3, 5).reason.unwrap();
        assert_eq!(reason, "the readiness probe has not passed yet, restarted after exit code 137");
    }

    #[test]
    fn what_holds_a_pod_up_is_named() {
        let waits = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"web:v2\""}});
        let pulling = pod(("False", "2026-11-24T12:00:02Z"), &container(0, false, &waits, &json!({})));
        assert_eq!(pulling.reason.as_deref(), Some("ImagePullBackOff: Back-off pulling image \"web:v2\""));
        let unscheduled = json!({"metadata": {"name": "web-1"}, "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}});
        let unscheduled = state(&serde_json::from_value(unscheduled).unwrap(), "web");
        assert_eq!(unscheduled.reason.as_deref(), Some("Unschedulable: 0/3 nodes are available"));
    }
}
