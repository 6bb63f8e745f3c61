//! Who scales a workload beside us, where that would be a fight.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use moodify_core::backend::ReplicaRatio;
use moodify_core::model::{Layout, Target};
use moodify_core::{CallContext, ErrorKind, Result};

use crate::autoscaling;
use crate::client::{Kube, Object};
use crate::error::Access;
use crate::operations::ranges;

/// Whether the shares of a release are numbers of pods.
pub(crate) fn is_by_ratio(target: &Target) -> bool {
    target.layout == Layout::InPlace && target.service.traffic.router == ReplicaRatio::NAME
}

/// Who scales a workload.
enum Scaler {
    /// A `HorizontalPodAutoscaler` that nobody makes but people.
    Autoscaler(String),
    /// KEDA, by this `ScaledObject`. Where one is paused, KEDA has taken its autoscaler away.
    Keda(String),
}

async fn scaler(kube: &Kube, cx: &CallContext, of: &Object) -> Result<Option<Scaler>> {
    let all: Vec<HorizontalPodAutoscaler> = autoscaling::listed(kube, cx, &of.namespace).await?;
    let found = ranges(&all).remove(&(of.kind.kind.to_owned(), of.name.clone()));
    Ok(found.map(|found| found.map_or_else(Scaler::Keda, |range| Scaler::Autoscaler(range.name))))
}

/// How KEDA is told to leave a workload alone.
pub(crate) fn pause(of: &Object, scaled_object: &str) -> String {
    format!("kubectl -n {} annotate scaledobject {scaled_object} autoscaling.keda.sh/paused=true", of.namespace)
}

/// Refuses to divide traffic by numbers of pods that somebody else sets.
pub(crate) async fn examine_ratio(kube: &Kube, cx: &CallContext, of: &Object) -> Result<()> {
    let (who, how) = match scaler(kube, cx, of).await? {
        None => return Ok(()),
        Some(Scaler::Autoscaler(name)) => {
            (format!("the HorizontalPodAutoscaler {name}"), "delete it until the release is over".to_owned())
        }
        Some(Scaler::Keda(name)) => (format!("KEDA (ScaledObject {name})"), format!("pause it: {}", pause(of, &name))),
    };
    let message = format!("{who} scales it, and would undo the shares, which are numbers of pods");
    Err(of.ask(Access::Read, "check").error(ErrorKind::Unsupported, message).hint(format!(
        "name a router that divides by weights in the service's traffic, which leaves autoscalers as they are; or {how}"
    )))
}

/// Refuses to stop what KEDA would start again, in the old version. An autoscaler does nothing while there are no pods.
pub(crate) async fn examine_stop(kube: &Kube, cx: &CallContext, of: &Object) -> Result<()> {
    let Some(Scaler::Keda(name)) = scaler(kube, cx, of).await? else { return Ok(()) };
    let message = format!("KEDA (ScaledObject {name}) scales it, and would start it again while it has to stand still");
    Err(of
        .ask(Access::Read, "check")
        .error(ErrorKind::Unsupported, message)
        .hint(format!("pause that until the release is over: {}", pause(of, &name))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployer::deployment_of;
    use crate::testing::{Asked, cx, kube, target};
    use moodify_core::model::Track;
    use serde_json::{Value, json};

    fn cluster(owner: Option<Value>, scaled: &'static str) -> (Kube, Asked) {
        let scaler = json!({"metadata": {"name": "web-hpa", "ownerReferences": owner.map(|owner| [owner])},
            "spec": {"maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": scaled}}});
        kube(move |_, _, _| (200, json!({"items": [scaler]})))
    }

    fn keda() -> Option<Value> {
        Some(json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "web-scaler", "uid": "u-7"}))
    }

    #[tokio::test]
    async fn shares_by_pods_are_refused_where_somebody_else_scales() {
        let web = deployment_of(&target(), Track::Stable);
        for (owner, who, how) in [
            (None, "the HorizontalPodAutoscaler web-hpa scales it", "name a router that divides by weights"),
            (keda(), "KEDA (ScaledObject web-scaler) scales it", "annotate scaledobject web-scaler"),
        ] {
            let error = examine_ratio(&cluster(owner, "web").0, &cx(), &web).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let told = error.to_string();
            assert!(told.contains(who) && told.contains(how), "{told}");
        }
        examine_ratio(&cluster(None, "api").0, &cx(), &web).await.unwrap();
    }

    #[tokio::test]
    async fn only_keda_starts_what_was_stopped() {
        let web = deployment_of(&target(), Track::Stable);
        let error = examine_stop(&cluster(keda(), "web").0, &cx(), &web).await.unwrap_err();
        assert!(error.message().contains("would start it again"), "{error}");
        assert!(error.to_string().contains("paused=true"), "{error}");
        examine_stop(&cluster(None, "web").0, &cx(), &web).await.unwrap();
    }
}
