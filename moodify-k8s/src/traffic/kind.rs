use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use moodify_core::backend::Change;
use moodify_core::model::Target;
use moodify_core::{CallContext, Error, ErrorKind, Result};
use serde_json::Value;

use super::alb::Alb;
use super::gateway::Gateway;
use super::istio::Istio;
use super::rule::{Kind as Rules, Services};
use super::traefik::Traefik;
use crate::client::{GRPC_ROUTE, HTTP_ROUTE, INGRESS, Kind, Kube, Object, TRAEFIK_SERVICE, VIRTUAL_SERVICE, typed};
use crate::error::{Access, Ask};
use crate::names::canary_of;
use crate::ownership::{drift, last_foreign};

/// What divides traffic by weights that are written down in a routing object.
///
/// Whatever the object, only the weights of the stable Service and of the canary's (`<service>-canary`) are ours, in
/// every rule that leads to the stable one. A rule that sends traffic also elsewhere is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Router {
    /// `HTTPRoute` of the Gateway API (`gateway.networking.k8s.io/v1`). Verified by the conditions in its status, and by
    /// `Programmed` of the Gateways that carry it and of their listeners. A Gateway that may not be read, as one in another
    /// namespace than the Role's, cannot tell.
    HttpRoute,
    /// `GRPCRoute` of the Gateway API, likewise.
    GrpcRoute,
    /// `TraefikService` (`traefik.io/v1alpha1`) with `spec.weighted.services`.
    Traefik,
    /// `VirtualService` of Istio (`networking.istio.io/v1`): routes for HTTP, TLS and TCP (these by connection).
    ///
    /// Destinations are told by their host: `web`, `web.namespace`, `web.namespace.svc` and longer all mean the Service.
    /// A subset of the stable destination stays. The canary's destination is its own Service without a subset; a
    /// `DestinationRule` for the stable host does not reach it, so where one sets more than subsets (TLS, outlier
    /// detection), the host `<service>-canary` needs one too.
    ///
    /// Two workloads that take turns cannot do so behind a subset, whose labels the pods of one of them lack as a rule:
    /// a route with one is refused for them.
    Istio,
    /// Canary annotations of ingress-nginx: a second `Ingress` `<route>-canary` beside the one of the plan, made for
    /// the run and owned by the canary's Service.
    IngressNginx,
    /// Actions that forward to target groups in the annotations of an `Ingress` of the AWS Load Balancer Controller.
    Alb,
}

impl Router {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::HttpRoute, Self::GrpcRoute, Self::Traefik, Self::Istio, Self::IngressNginx, Self::Alb];

    /// The name in plans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpRoute => "http-route",
            Self::GrpcRoute => "grpc-route",
            Self::Traefik => "traefik",
            Self::Istio => "istio",
            Self::IngressNginx => "ingress-nginx",
            Self::Alb => "alb",
        }
    }

    /// The one that the plan names, if it is one of these.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        Self::ALL.into_iter().find(|router| router.name() == target.service.traffic.router)
    }

    /// The kind of the routing object.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::HttpRoute => HTTP_ROUTE,
            Self::GrpcRoute => GRPC_ROUTE,
            Self::Traefik => TRAEFIK_SERVICE,
            Self::Istio => VIRTUAL_SERVICE,
            Self::IngressNginx | Self::Alb => INGRESS,
        }
    }

    /// The routing object that the plan names.
    pub(super) fn object(self, target: &Target) -> Result<Object> {
        let kind = self.kind();
        let name = target.service.traffic.route.as_deref().ok_or_else(|| {
            let ask = Ask::new(Access::Read, format!("find the {}", kind.kind), target.to_string());
            ask.error(ErrorKind::Invalid, "the service's traffic names no route")
                .hint(format!("add `route:` with the name of the {} to the service's traffic in the plan", kind.kind))
        })?;
        Ok(Object::new(kind, &target.namespace, name))
    }

    /// The same as it stands, if it is there.
    pub(super) async fn find(self, kube: &Kube, cx: &CallContext, target: &Target) -> Result<(Object, Option<Value>)> {
        let object = self.object(target)?;
        let found = kube.find(cx, &object).await.map_err(|e| self.explained(e))?;
        Ok((object, found))
    }

    /// How its objects are read and changed. `None` for the one whose weights are in an object of our own.
    pub(super) fn rules(self) -> Option<&'static dyn Rules> {
        match self {
            Self::HttpRoute => Some(&Gateway),
            Self::GrpcRoute => Some(&Gateway),
            Self::Traefik => Some(&Traefik),
            Self::Istio => Some(&Istio),
            Self::Alb => Some(&Alb),
            Self::IngressNginx => None,
        }
    }

    /// Whether the object says that the data plane follows.
    pub(crate) fn verifies(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute)
    }

    /// What a cluster lacks that does not know the kind.
    fn needs(self) -> &'static str {
        match self {
            Self::HttpRoute | Self::GrpcRoute => "the Gateway API (gateway.networking.k8s.io/v1)",
            Self::Traefik => "the custom resource definitions of Traefik (traefik.io/v1alpha1)",
            Self::Istio => "Istio 1.22 or later (networking.istio.io/v1)",
            Self::IngressNginx | Self::Alb => "Kubernetes 1.19 or later (networking.k8s.io/v1)",
        }
    }

    /// Says what is missing in a cluster that does not know the kind.
    pub(super) fn explained(self, error: Error) -> Error {
        if error.kind() != ErrorKind::Unsupported {
            return error;
        }
        let (kind, needs) = (self.kind().kind, self.needs());
        error.hint(format!("the kind {kind} needs {needs}; install it, or choose another router in the plan"))
    }
}

/// Takes out of a routing object what is ours, by a patch, and says what it is then. Without anything to take out it makes
/// sure of that; so does an object that is gone by now.
pub(super) async fn take_out(
    kube: &Kube,
    cx: &CallContext,
    object: &Object,
    route: &Value,
    operations: Vec<Value>,
) -> Result<Option<Value>> {
    if !operations.is_empty() {
        return kube.patch(cx, object, operations).await.map(Some);
    }
    match kube.is_unchanged(cx, object, route).await {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(None),
    }
}

/// What is ours in a routing object is not as we would have it, and who wrote there last.
pub(super) fn edited(kube: &Kube, ask: &Ask, route: &Value, message: &str) -> Error {
    let meta: Option<ObjectMeta> = typed(ask, route["metadata"].clone()).ok();
    drift(ask, message, meta.and_then(|meta| last_foreign(&meta, kube.manager(), &["f:spec"])))
}

/// There is nothing in it to divide.
pub(super) fn leads_nowhere(ask: &Ask, services: &Services) -> Error {
    ask.error(ErrorKind::NotFound, format!("none of its rules leads to the Service {}", services.stable))
        .hint("check route and service of the service's traffic in the plan")
}

/// What a release does to the routing object of the plan, for people.
pub(crate) fn preview(target: &Target) -> Option<Change> {
    let router = Router::of(target)?;
    let mut object = router.object(target).ok()?;
    let to = &target.service.traffic.service;
    let what = if router == Router::IngressNginx {
        let what =
            format!("create, for the rules of {object} that lead to {to}; its weight step by step; delete at the end");
        object.name = canary_of(&object.name);
        what
    } else {
        format!("weights of the rules that lead to {to}: step by step to the canary, back at the end")
    };
    Some(Change { object: object.to_string(), what })
}
