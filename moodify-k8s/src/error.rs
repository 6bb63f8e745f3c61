//! The only place where errors of the Kubernetes client become moodify's.

use std::error::Error as StdError;
use std::time::Duration;

use hyper_util::client::legacy::Error as TransportError;
use kube::config::KubeconfigError;
use kube::core::Status;
use kube::runtime::watcher;
use moodify_core::{Effect, Error, ErrorKind};

pub(crate) const BACKEND: &str = "kubernetes";

/// What a request does, for its failure to be told.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// `get Deployment`.
    pub(crate) operation: String,
    /// `namespace/name`.
    pub(crate) object: String,
    pub(crate) access: Access,
}

/// What a failed request may have done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It changes nothing, whatever happens.
    Read,
    /// It may have changed something if its answer was lost.
    Write,
    /// A write that compares first.
    Compare,
}

impl Ask {
    pub(crate) fn new(access: Access, operation: impl Into<String>, object: impl Into<String>) -> Self {
        Self { operation: operation.into(), object: object.into(), access }
    }

    pub(crate) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, BACKEND, self.operation.clone(), message).on(self.object.clone()).effect(Effect::None)
    }

    /// The effect if the request was sent and no usable answer came.
    fn lost(&self) -> Effect {
        if self.access == Access::Read { Effect::None } else { Effect::Unknown }
    }
}

/// Whether this 404 is about the object that was asked for, and not about its kind or the path.
pub(crate) fn is_missing_object(status: &Status) -> bool {
    status.code == 404 && status.details.as_ref().is_some_and(|d| !d.name.is_empty())
}

/// Maps an answer of the server that is not a success.
pub(crate) fn from_status(ask: &Ask, status: &Status, retry_after: Option<Duration>) -> Error {
    let details = status.details.as_ref();
    let after = retry_after.or_else(|| {
        let seconds = details.map_or(0, |d| d.retry_after_seconds);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    });
    let message = if status.message.is_empty() {
        format!("the API server answered {} {}", status.code, status.reason)
    } else {
        status.message.trim().to_owned()
    };
    let error = match status.code {
        _ if denied(&message).is_some() => {
            let (who, why) = denied(&message).unwrap_or_default();
            ask.error(ErrorKind::Forbidden, format!("{who} denied it: {why}"))
                .hint("meet that policy, or ask whoever runs it; nothing was changed")
        }
        401 => {
            let message = "the API server does not accept our credentials: they are missing, wrong or expired";
            ask.error(ErrorKind::Unauthenticated, message)
                .hint("log in again, or check user and context of the kubeconfig")
        }
        403 => forbidden(ask, &message),
        404 if is_missing_namespace(status) => ask
            .error(ErrorKind::NotFound, format!("there is no such namespace: {message}"))
            .hint("create the namespace, or check its name"),
        404 if is_missing_object(status) => ask.error(ErrorKind::NotFound, message),
        404 => ask
            .error(ErrorKind::Unsupported, format!("the cluster does not know this kind of object: {message}"))
            .hint(
                "its API has to be installed first: HTTPRoutes need the Gateway API (gateway.networking.k8s.io/v1), figures \
                 of use a metrics server",
            ),
        409 if status.reason == "AlreadyExists" => ask.error(ErrorKind::AlreadyExists, message),
        409 => match apply_conflict(status) {
            Some(owners) => ask
                .error(ErrorKind::Drift, format!("fields that we would write belong to {owners}"))
                .hint("it is not overwritten; find out who manages it"),
            None => ask.error(ErrorKind::Conflict, message),
        },
        410 => ask.error(ErrorKind::Conflict, message),
        422 if ask.access == Access::Compare && !names_a_field(status) => {
            ask.error(ErrorKind::Conflict, "it changed between our read and our write")
                .hint("nothing was changed; look at it and do it once more")
        }
        422 if names_a_field(status) => ask
            .error(ErrorKind::Invalid, message)
            .hint(format!("mend {}; nothing was changed", fields(status).join(", "))),
        400 | 413 | 422 => ask.error(ErrorKind::Invalid, message),
        405 | 406 | 415 | 501 => ask.error(ErrorKind::Unsupported, message),
        429 if budget(status).is_some() => ask
            .error(ErrorKind::Refused, budget(status).unwrap_or_default())
            .transient(true)
            .hint("wait until more pods are healthy, or change the PodDisruptionBudget; nothing was changed"),
        429 => ask.error(ErrorKind::Throttled, message),
        // Server-side apply answers so to a field that the kind does not have.
        500 if message.contains("failed to create typed patch object") => ask
            .error(ErrorKind::Invalid, message)
            .hint("check how the field is spelt and where it stands; nothing was changed"),
        500 if message.contains("failed calling webhook") => ask
            .error(ErrorKind::Unavailable, format!("an admission webhook cannot be asked: {message}"))
            .hint("mend the webhook's service, or ask whoever runs it"),
        500..=599 => ask.error(ErrorKind::Unavailable, message).effect(ask.lost()),
        _ => ask.error(ErrorKind::Internal, message),
    };
    match after {
        Some(after) if error.is_transient() => error.retry_after(after),
        _ => error,
    }
}

/// RBAC says who may not do what; a quota, a namespace that goes and a pod's security say something of their own.
fn forbidden(ask: &Ask, message: &str) -> Error {
    let after = |what: &str| message.find(what).map(|at| &message[at..]);
    if let Some(denied) = after("User \"").filter(|_| message.contains("\" cannot ")) {
        let hint = "grant it to this user with a Role and a RoleBinding in the namespace";
        return ask.error(ErrorKind::Forbidden, denied).hint(hint);
    }
    if let Some(quota) = after("exceeded quota: ") {
        return ask
            .error(ErrorKind::Forbidden, format!("the namespace has no room for it: {quota}"))
            .hint("free what is not needed in the namespace, or raise the ResourceQuota; nothing was changed");
    }
    if message.contains("is being terminated") {
        return ask
            .error(ErrorKind::Forbidden, format!("the namespace is being deleted: {message}"))
            .hint("nothing can be made in it any more; wait until it is gone, then create it anew");
    }
    if let Some(violation) = after("violates PodSecurity") {
        return ask
            .error(ErrorKind::Forbidden, violation)
            .hint("meet the pod security standard of the namespace; nothing was changed");
    }
    ask.error(ErrorKind::Forbidden, message)
}

/// Who denied a request at admission, and why: a webhook or a policy. They choose the code of the answer themselves.
fn denied(message: &str) -> Option<(String, &str)> {
    if let Some((_, rest)) = message.split_once("admission webhook \"") {
        let (name, why) = rest.split_once("\" denied the request")?;
        let why = why.trim_start_matches(':').trim();
        return Some((format!("the admission webhook {name}"), if why.is_empty() { "it gave no reason" } else { why }));
    }
    let (_, rest) = message.split_once("ValidatingAdmissionPolicy '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (_, why) = rest.split_once("denied request: ")?;
    Some((format!("the admission policy {name}"), why))
}

/// What a disruption budget says against an eviction.
fn budget(status: &Status) -> Option<String> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let words: Vec<&str> =
        causes.filter(|c| c.reason == "DisruptionBudget").map(|c| c.message.trim()).filter(|m| !m.is_empty()).collect();
    (!words.is_empty()).then(|| format!("a PodDisruptionBudget forbids it: {}", words.join("; ")))
}

/// Whether this 404 is about the namespace in which the object was to be.
fn is_missing_namespace(status: &Status) -> bool {
    is_missing_object(status) && status.details.as_ref().is_some_and(|d| d.kind == "namespaces")
}

/// The fields that a validation names.
fn fields(status: &Status) -> Vec<&str> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes.map(|c| c.field.as_str()).filter(|field| !field.is_empty()).collect()
}

/// The other managers of a server-side apply conflict: `"kubectl-edit" using apps/v1: .spec.replicas`.
fn apply_conflict(status: &Status) -> Option<String> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let owners: Vec<String> = causes
        .filter(|c| c.reason == "FieldManagerConflict")
        .map(|c| format!("{}: {}", c.message.trim_start_matches("conflict with "), c.field))
        .collect();
    (!owners.is_empty()).then(|| owners.join(", "))
}

/// A validation error names the field that is wrong; a failed `test` of a JSON patch names none.
fn names_a_field(status: &Status) -> bool {
    status.details.iter().flat_map(|d| &d.causes).any(|c| !c.field.is_empty())
}

/// Maps the failure to get an answer at all.
pub(crate) fn from_client(ask: &Ask, error: kube::Error) -> Error {
    let mut cause: &(dyn StdError + 'static) = &error;
    let mut connecting = false;
    while let Some(next) = cause.source() {
        cause = next;
        connecting |= cause.downcast_ref::<TransportError>().is_some_and(TransportError::is_connect);
    }
    let why = cause.to_string();
    let mapped = match &error {
        kube::Error::Api(status) => return from_status(ask, status, None),
        kube::Error::Auth(_) => ask
            .error(ErrorKind::Unauthenticated, format!("the kubeconfig's credentials cannot be had: {why}"))
            .hint("run the login command of the kubeconfig by hand"),
        _ if connecting && why.contains("certificate") => ask
            .error(ErrorKind::Unavailable, format!("the API server's certificate is not trusted: {why}"))
            .transient(false)
            .hint("check certificate-authority and server of the cluster in the kubeconfig"),
        _ if connecting => ask
            .error(ErrorKind::Unavailable, format!("the API server cannot be reached: {why}"))
            .hint("check the server's address in the kubeconfig, and the network"),
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => ask.error(ErrorKind::Invalid, why),
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => ask
            .error(ErrorKind::Unavailable, format!("the answer of the API server cannot be read: {why}"))
            .effect(ask.lost()),
        _ => ask
            .error(ErrorKind::Unavailable, format!("the connection to the API server broke: {why}"))
            .effect(ask.lost()),
    };
    mapped.with_source(error)
}

/// An answer that is not what the API promises.
pub(crate) fn unreadable(ask: &Ask, error: serde_json::Error) -> Error {
    ask.error(ErrorKind::Unavailable, format!("the answer of the API server cannot be read: {error}"))
        .effect(ask.lost())
        .with_source(error)
}

/// A request that was given up: by the context's deadline, its cancellation or the limit for one request.
pub(crate) fn given_up(ask: &Ask, error: Error, limit: Duration) -> Error {
    let message = match error.kind() {
        // What the call itself returned names its object; the context's own errors do not.
        _ if !error.target().is_empty() => return error,
        ErrorKind::Timeout => format!("no answer from the API server (one request may take {} s)", limit.as_secs_f32()),
        _ => error.message().to_owned(),
    };
    ask.error(error.kind(), message).effect(ask.lost())
}

/// Whether an error of a watch cannot be waited out: we may not watch, or there is no such kind of object.
pub(crate) fn hopeless(ask: &Ask, error: &watcher::Error) -> Option<Error> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let status = match error {
        InitialListFailed(kube::Error::Api(s)) | WatchStartFailed(kube::Error::Api(s)) => s,
        WatchFailed(kube::Error::Api(s)) | WatchError(s) => s,
        _ => return None,
    };
    matches!(status.code, 401 | 403 | 404).then(|| from_status(ask, status, None))
}

/// A kubeconfig that cannot be used.
pub(crate) fn from_kubeconfig(error: KubeconfigError) -> Error {
    use KubeconfigError::{CurrentContextNotSet, FindPath, LoadClusterOfContext, LoadContext, ReadConfig};
    let (kind, message) = match &error {
        ReadConfig(e, path) if e.kind() == std::io::ErrorKind::NotFound => {
            (ErrorKind::NotFound, format!("there is no kubeconfig {}", path.display()))
        }
        ReadConfig(e, path) => (ErrorKind::Invalid, format!("the kubeconfig {} cannot be read: {e}", path.display())),
        FindPath => (ErrorKind::NotFound, "there is no kubeconfig: the home directory is unknown".to_owned()),
        CurrentContextNotSet => (ErrorKind::Invalid, "the kubeconfig has no current context".to_owned()),
        LoadContext(name) => (ErrorKind::NotFound, format!("the kubeconfig has no context {name:?}")),
        LoadClusterOfContext(name) => (ErrorKind::NotFound, format!("the kubeconfig has no cluster {name:?}")),
        other => (ErrorKind::Invalid, format!("the kubeconfig cannot be used: {other}")),
    };
    Error::new(kind, BACKEND, "read the kubeconfig", message)
        .hint("set KUBECONFIG, or name a file and a context in the configuration; nothing was changed")
        .with_source(error)
}

/// A configuration from which no client can be made.
pub(crate) fn from_setup(error: kube::Error) -> Error {
    from_client(&Ask::new(Access::Read, "set up the client", "the kubeconfig"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: serde_json::Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    fn ask(access: Access) -> Ask {
        Ask::new(access, "patch Deployment", "ns/web")
    }

    #[test]
    fn answers_are_told_apart() {
        let named = json!({"name": "web", "kind": "deployments"});
        for (code, details, kind, transient, effect) in [
            (401, json!(null), ErrorKind::Unauthenticated, false, Effect::None),
            (403, json!(null), ErrorKind::Forbidden, false, Effect::None),
            (404, named, ErrorKind::NotFound, false, Effect::None),
            (404, json!(null), ErrorKind::Unsupported, false, Effect::None),
            (409, json!(null), ErrorKind::Conflict, true, Effect::None),
            (410, json!(null), ErrorKind::Conflict, true, Effect::None),
            (422, json!(null), ErrorKind::Invalid, false, Effect::None),
            (429, json!(null), ErrorKind::Throttled, true, Effect::None),
            (500, json!(null), ErrorKind::Unavailable, true, Effect::Unknown),
            (503, json!(null), ErrorKind::Unavailable, true, Effect::Unknown),
            (504, json!(null), ErrorKind::Unavailable, true, Effect::Unknown),
        ] {
            let mut body = json!({"code": code, "message": "m"});
            if !details.is_null() {
                body["details"] = details;
            }
            let error = from_status(&ask(Access::Write), &status(body.clone()), None);
            assert_eq!((error.kind(), error.is_transient(), error.effect_of()), (kind, transient, effect), "{code}");
            assert_eq!(from_status(&ask(Access::Read), &status(body), None).effect_of(), Effect::None, "{code}");
        }
    }

    #[test]
    fn a_failed_test_is_a_conflict_and_a_wrong_field_is_not() {
        let failed = status(json!({"code": 422, "reason": "Invalid", "details": {},
            "message": "the server rejected our request due to an error in our request"}));
        assert_eq!(from_status(&ask(Access::Compare), &failed, None).kind(), ErrorKind::Conflict);
        let wrong = status(json!({"code": 422, "reason": "Invalid", "message": "Deployment.apps \"web\" is invalid",
            "details": {"causes": [{"field": "spec.replicas", "message": "Invalid value: -1"}]}}));
        assert_eq!(from_status(&ask(Access::Compare), &wrong, None).kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_conflict_of_server_side_apply_is_drift_with_the_manager() {
        let conflict = status(json!({"code": 409, "reason": "Conflict", "message": "Apply failed with 1 conflict",
            "details": {"causes": [{"reason": "FieldManagerConflict", "field": ".spec.replicas",
                "message": "conflict with \"kubectl-edit\" using apps/v1"}]}}));
        let error = from_status(&ask(Access::Write), &conflict, None);
        assert_eq!(error.kind(), ErrorKind::Drift);
        assert!(error.message().contains("\"kubectl-edit\" using apps/v1: .spec.replicas"), "{error}");
    }

    #[test]
    fn rbac_is_told_with_verb_resource_and_user() {
        let denied =
            status(json!({"code": 403, "reason": "Forbidden", "message": "deployments.apps \"web\" is forbidden: \
            User \"dev\" cannot patch resource \"deployments\" in API group \"apps\" in the namespace \"prod\""}));
        let error = from_status(&ask(Access::Write), &denied, None);
        assert!(error.message().starts_with("User \"dev\" cannot patch resource \"deployments\""), "{error}");
    }

    #[test]
    fn every_refusal_says_who_refused_and_what_to_do() {
        for (code, message, details, kind, told, hint) in [
            (
                403,
                "pods \"a\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2",
                json!({}),
                ErrorKind::Forbidden,
                "no room for it: exceeded quota: few, requested: pods=1",
                "raise the ResourceQuota",
            ),
            (
                403,
                "configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated",
                json!({}),
                ErrorKind::Forbidden,
                "the namespace is being deleted",
                "wait until it is gone",
            ),
            (
                403,
                "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true",
                json!({}),
                ErrorKind::Forbidden,
                "violates PodSecurity \"restricted:latest\": runAsNonRoot",
                "meet the pod security",
            ),
            (
                400,
                "admission webhook \"policy.example.test\" denied the request: no image without a digest",
                json!({}),
                ErrorKind::Forbidden,
                "webhook policy.example.test denied it: no image without a digest",
                "meet that policy",
            ),
            (
                422,
                "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'limits' with binding 'all' denied request: too many",
                json!({}),
                ErrorKind::Forbidden,
                "the admission policy limits denied it: too many",
                "meet that policy",
            ),
            (
                500,
                "Internal error occurred: failed calling webhook \"policy.example.test\": connection refused",
                json!({}),
                ErrorKind::Unavailable,
                "an admission webhook cannot be asked",
                "mend the webhook",
            ),
            (
                404,
                "namespaces \"x\" not found",
                json!({"name": "x", "kind": "namespaces"}),
                ErrorKind::NotFound,
                "there is no such namespace",
                "create the namespace",
            ),
            (
                429,
                "Cannot evict pod as it would violate the pod's disruption budget.",
                json!({"causes": [
                {"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods and has 2 currently"}]}),
                ErrorKind::Refused,
                "budget web needs 2 healthy pods",
                "change the PodDisruptionBudget",
            ),
            (
                422,
                "Deployment.apps \"a\" is invalid: spec.replicas: Invalid value: -1",
                json!({"causes": [{"field": "spec.replicas"}]}),
                ErrorKind::Invalid,
                "spec.replicas: Invalid value: -1",
                "mend spec.replicas; nothing was changed",
            ),
        ] {
            let status = status(json!({"code": code, "message": message, "details": details}));
            let error = from_status(&ask(Access::Write), &status, None);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(told) && error.to_string().contains(hint), "{error}");
        }
    }

    #[test]
    fn the_server_says_when_to_come_back() {
        let busy = status(json!({"code": 429, "message": "slow down", "details": {"retryAfterSeconds": 3}}));
        let wait = |header| from_status(&ask(Access::Write), &busy, header).retry_after_of();
        assert_eq!(wait(None), Some(Duration::from_secs(3)));
        assert_eq!(wait(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)), "the header wins");
    }
}
