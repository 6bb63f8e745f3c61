use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kube::client::{Body, ClientBuilder};
use kube::core::params::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, Request, Status};
use moodify_core::backend::{
    ConfigurationFiles, Deployer, Diagnostics, Jobs, Operations, ReplicaRatio, TesterRoutes, TrafficMirror,
    TrafficRouter,
};
use moodify_core::{Backends, CallContext, Effect, Error, ErrorKind, Result, secret};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::util::MapRequestLayer;

use crate::config::KubeConfig;
use crate::configuration_backup::NamespaceConfiguration;
use crate::deployer::DeploymentDeployer;
use crate::diagnostics::PodDiagnostics;
use crate::error::{self, Access, Ask, BACKEND};
use crate::jobs::KubeJobs;
use crate::journal::KubeJournal;
use crate::operations::NamespaceOperations;
use crate::traffic::{
    AlbTesters, NginxRouter, RouteRouter, Router, RuleMirror, RuleTesters, SelectorRouter, TraefikMirror,
    TraefikTesters,
};
use crate::verbs::Verbs;

mod watching;

pub(crate) use watching::until_error;

/// A connection to one cluster, cheap to clone; makes the backends.
///
/// Every request is bounded by the context of the call and by the configured limit, and none is repeated in here.
#[derive(Clone)]
pub struct Kube {
    inner: Arc<Inner>,
    /// Whose turn it is to ask.
    turns: Arc<Semaphore>,
}

/// How many requests may be on their way at once, watches apart. A thousand releases that begin together would have an
/// API server answer none of them in time. Below the 49 that it does at once, by default, for everybody who is no
/// service account (`global-default`, <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
const AT_ONCE: usize = 32;

struct Inner {
    client: kube::Client,
    server: String,
    timeout: Duration,
    manager: String,
    /// The file of private keys.
    identity: Option<PathBuf>,
    /// Whether a watch may begin with what is there.
    whole_watches: AtomicBool,
}

impl Kube {
    /// Makes a client for the configured cluster. Asks nothing of the server yet: see [`preflight`](Self::preflight).
    ///
    /// Must be called inside a tokio runtime. A kubeconfig with a login command runs it in here, blocking.
    ///
    /// # Errors
    /// If the configuration or the kubeconfig cannot be used: [`ErrorKind::NotFound`], [`ErrorKind::Invalid`] or
    /// [`ErrorKind::Unauthenticated`].
    pub async fn connect(config: &KubeConfig) -> Result<Self> {
        let loaded = config.load().await?;
        let server = loaded.cluster_url.to_string();
        let builder = ClientBuilder::try_from(loaded).map_err(error::from_setup)?;
        let client = builder.with_layer(&MapRequestLayer::new(watching::as_new_as_a_list)).build();
        Ok(Self::new(client, server, config, true))
    }

    /// With a client of the caller's own, as one with layers that trace, count or sign requests. It must not repeat
    /// requests and must not limit how long an answer is read: the first is the engine's, the second would end watches.
    /// `server` is its address, for people; of `config` the field manager, the time limit and the private keys count.
    /// A watch then takes two requests to begin, where one is enough with [`connect`](Self::connect).
    #[must_use]
    pub fn from_client(client: kube::Client, server: String, config: &KubeConfig) -> Self {
        Self::new(client, server, config, false)
    }

    fn new(client: kube::Client, server: String, config: &KubeConfig, whole_watches: bool) -> Self {
        let (manager, identity) = (config.manager().to_owned(), config.identity());
        let whole_watches = AtomicBool::new(whole_watches);
        let inner = Inner { client, server, timeout: config.timeout(), manager, identity, whole_watches };
        Self { inner: Arc::new(inner), turns: turns() }
    }

    /// The address of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// Runs Deployments.
    #[must_use]
    pub fn deployer(&self) -> Arc<dyn Deployer> {
        Arc::new(DeploymentDeployer::new(self.clone()))
    }

    /// Divides traffic by weights in routing objects of this kind.
    #[must_use]
    pub fn router(&self, router: Router) -> Arc<dyn TrafficRouter> {
        match RouteRouter::new(self.clone(), router) {
            Some(inside) => Arc::new(inside),
            None => Arc::new(NginxRouter::new(self.clone())),
        }
    }

    /// Divides traffic by the number of pods behind one Service.
    #[must_use]
    pub fn replica_ratio_router(&self) -> Arc<dyn TrafficRouter> {
        Arc::new(ReplicaRatio::new(self.deployer()))
    }

    /// Sees pods, events and logs.
    #[must_use]
    pub fn diagnostics(&self) -> Arc<dyn Diagnostics> {
        Arc::new(PodDiagnostics::new(self.clone()))
    }

    /// Stops and starts applications, and points them to another database.
    #[must_use]
    pub fn operations(&self) -> Arc<dyn Operations> {
        Arc::new(NamespaceOperations::new(self.clone()))
    }

    /// Keeps runs in a namespace of the cluster.
    #[must_use]
    pub fn journal(&self, namespace: &str) -> KubeJournal {
        // What says that its owner is alive does not wait for what it owns.
        KubeJournal::new(Self { inner: self.inner.clone(), turns: turns() }, namespace)
    }

    /// Switches all traffic between two Deployments that take turns, by the selector of their Service.
    #[must_use]
    pub fn selector_router(&self) -> Arc<dyn TrafficRouter> {
        Arc::new(SelectorRouter::new(self.clone()))
    }

    /// All of these, the routers under the names `replica-ratio`, `service-selector` and [their own](Router::name).
    #[must_use]
    pub fn backends(&self) -> Backends {
        let mut backends = Backends::default();
        backends.deployer = Some(self.deployer());
        backends.diagnostics = Some(self.diagnostics());
        backends.jobs = Some(self.jobs());
        backends.operations = Some(self.operations());
        backends.configuration_files = Some(self.configuration_files());
        backends.routers.insert(ReplicaRatio::NAME.to_owned(), self.replica_ratio_router());
        backends.routers.insert(SelectorRouter::NAME.to_owned(), self.selector_router());
        for router in Router::ALL {
            backends.routers.insert(router.name().to_owned(), self.router(router));
            if let Some(routes) = self.tester_routes(router) {
                backends.tester_routes.insert(router.name().to_owned(), routes);
            }
            if let Some(mirror) = self.mirror(router) {
                backends.mirrors.insert(router.name().to_owned(), mirror);
            }
        }
        backends
    }

    /// Routes for testers, of a router that has them: each of these does.
    ///
    /// - [`HttpRoute`](Router::HttpRoute), [`GrpcRoute`](Router::GrpcRoute) and [`Istio`](Router::Istio): rules in the routing
    ///   object itself. A cookie is told by a regular expression, which the gateway has to support.
    /// - [`Traefik`](Router::Traefik): an `IngressRoute` `<route>-testers`, with a copy of each rule of the namespace's that
    ///   leads to the `TraefikService`.
    /// - [`IngressNginx`](Router::IngressNginx): annotations of the canary's `Ingress`. Of a cookie nginx knows the value
    ///   `always` only; another one is refused, and requests whose cookie is `never` do not get the new version.
    /// - [`Alb`](Router::Alb): paths and actions in the `Ingress` itself, by a header, whose value is compared without case.
    #[must_use]
    pub fn tester_routes(&self, router: Router) -> Option<Arc<dyn TesterRoutes>> {
        match router {
            Router::IngressNginx => Some(Arc::new(NginxRouter::new(self.clone()))),
            Router::Traefik => Some(Arc::new(TraefikTesters::new(self.clone()))),
            Router::Alb => Some(Arc::new(AlbTesters::new(self.clone()))),
            _ => Some(Arc::new(RuleTesters::new(self.clone(), router)?)),
        }
    }

    /// Copies of requests, by a router whose routing object can say so.
    ///
    /// - [`Istio`](Router::Istio): `mirror` and `mirrorPercentage` of each HTTP route that leads to the stable Service. What
    ///   it leads there by connections (TLS, TCP) is not copied, nor are the requests of testers.
    ///
    /// - [`HttpRoute`](Router::HttpRoute): a filter `RequestMirror` in each rule that leads to the stable Service. The class of
    ///   the route's Gateway has to report that it can (`HTTPRouteRequestMirror`, and
    ///   `HTTPRouteRequestPercentageMirror` for less than all), or to be Istio's; one that cannot would answer with errors.
    ///
    /// - [`Traefik`](Router::Traefik): a `TraefikService` `<service>-canary-mirror` of the kind `mirroring`, to which the stable
    ///   member of the weighted one leads meanwhile. The Services need an address of their own (`clusterIP`), requests with
    ///   a body of more than 1 MiB are not copied, and the others are held until their bodies are complete.
    ///
    /// A route that mirrors to somebody else already is refused.
    #[must_use]
    pub fn mirror(&self, router: Router) -> Option<Arc<dyn TrafficMirror>> {
        match router {
            Router::Traefik => Some(Arc::new(TraefikMirror::new(self.clone()))),
            _ => Some(Arc::new(RuleMirror::new(self.clone(), router)?)),
        }
    }

    /// Runs Jobs, and sets the images of `CronJob`s.
    #[must_use]
    pub fn jobs(&self) -> Arc<dyn Jobs> {
        Arc::new(KubeJobs { kube: self.clone() })
    }

    /// Backs up and restores what people have configured in a namespace.
    #[must_use]
    pub fn configuration_files(&self) -> Arc<dyn ConfigurationFiles> {
        Arc::new(NamespaceConfiguration { kube: self.clone(), identity: self.inner.identity.clone() })
    }

    /// Does in a namespace what people do with kubectl.
    #[must_use]
    pub fn verbs(&self, namespace: &str) -> Verbs {
        Verbs::new(self.clone(), namespace)
    }

    /// The client itself, for answers that are streams.
    pub(crate) fn client(&self) -> &kube::Client {
        &self.inner.client
    }

    /// How long a request may take until its answer begins.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// The field manager under which we write.
    pub(crate) fn manager(&self) -> &str {
        &self.inner.manager
    }
}

fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of the client: it may hold credentials.
        f.debug_struct("Kube").field("server", &self.inner.server).finish_non_exhaustive()
    }
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const DEPLOYMENT: Kind = Kind { group: "apps", version: "v1", kind: "Deployment", plural: "deployments" };
pub(crate) const STATEFUL_SET: Kind =
    Kind { group: "apps", version: "v1", kind: "StatefulSet", plural: "statefulsets" };
pub(crate) const DAEMON_SET: Kind = Kind { group: "apps", version: "v1", kind: "DaemonSet", plural: "daemonsets" };
pub(crate) const REPLICA_SET: Kind = Kind { group: "apps", version: "v1", kind: "ReplicaSet", plural: "replicasets" };
pub(crate) const CONTROLLER_REVISION: Kind =
    Kind { group: "apps", version: "v1", kind: "ControllerRevision", plural: "controllerrevisions" };
pub(crate) const AUTOSCALER: Kind =
    Kind { group: "autoscaling", version: "v2", kind: "HorizontalPodAutoscaler", plural: "horizontalpodautoscalers" };
/// KEDA's.
pub(crate) const SCALED_OBJECT: Kind =
    Kind { group: "keda.sh", version: "v1alpha1", kind: "ScaledObject", plural: "scaledobjects" };
pub(crate) const BUDGET: Kind =
    Kind { group: "policy", version: "v1", kind: "PodDisruptionBudget", plural: "poddisruptionbudgets" };
pub(crate) const SERVICE: Kind = Kind { group: "", version: "v1", kind: "Service", plural: "services" };
pub(crate) const NODE: Kind = Kind { group: "", version: "v1", kind: "Node", plural: "nodes" };
pub(crate) const POD: Kind = Kind { group: "", version: "v1", kind: "Pod", plural: "pods" };
pub(crate) const EVENT: Kind = Kind { group: "", version: "v1", kind: "Event", plural: "events" };
pub(crate) const CONFIG_MAP: Kind = Kind { group: "", version: "v1", kind: "ConfigMap", plural: "configmaps" };
pub(crate) const SECRET: Kind = Kind { group: "", version: "v1", kind: "Secret", plural: "secrets" };
pub(crate) const JOB: Kind = Kind { group: "batch", version: "v1", kind: "Job", plural: "jobs" };
pub(crate) const CRON_JOB: Kind = Kind { group: "batch", version: "v1", kind: "CronJob", plural: "cronjobs" };
pub(crate) const LEASE: Kind = Kind { group: "coordination.k8s.io", version: "v1", kind: "Lease", plural: "leases" };
pub(crate) const HTTP_ROUTE: Kind =
    Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "HTTPRoute", plural: "httproutes" };
pub(crate) const GRPC_ROUTE: Kind =
    Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "GRPCRoute", plural: "grpcroutes" };
pub(crate) const GATEWAY: Kind =
    Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "Gateway", plural: "gateways" };
pub(crate) const GATEWAY_CLASS: Kind =
    Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "GatewayClass", plural: "gatewayclasses" };
pub(crate) const TRAEFIK_SERVICE: Kind =
    Kind { group: "traefik.io", version: "v1alpha1", kind: "TraefikService", plural: "traefikservices" };
pub(crate) const INGRESS_ROUTE: Kind =
    Kind { group: "traefik.io", version: "v1alpha1", kind: "IngressRoute", plural: "ingressroutes" };
pub(crate) const VIRTUAL_SERVICE: Kind =
    Kind { group: "networking.istio.io", version: "v1", kind: "VirtualService", plural: "virtualservices" };
pub(crate) const INGRESS: Kind =
    Kind { group: "networking.k8s.io", version: "v1", kind: "Ingress", plural: "ingresses" };

impl Kind {
    /// The path under which the objects of a namespace are.
    pub(crate) fn path(self, namespace: &str) -> String {
        let root = self.root();
        format!("{root}/namespaces/{namespace}/{}", self.plural)
    }

    /// The path of the API group.
    pub(crate) fn root(self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// One object: what is asked about.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Object {
    pub(crate) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn ask(&self, access: Access, verb: &str) -> Ask {
        Ask::new(access, format!("{verb} {}", self.kind.kind), format!("{}/{}", self.namespace, self.name))
    }

    /// There is no such object, which a plan names.
    pub(crate) fn missing(&self) -> Error {
        let message = format!("there is no {} {} in the namespace {}", self.kind.kind, self.name, self.namespace);
        self.ask(Access::Read, "get")
            .error(ErrorKind::NotFound, message)
            .hint("check its name and the namespace in the plan")
    }

    /// A request builder; the names come from a plan and must not become path segments of their own.
    pub(crate) fn request(&self, ask: &Ask) -> Result<Request> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        for name in [&self.namespace, &self.name] {
            let ends = |c: char| c.is_ascii_alphanumeric();
            if !name.starts_with(ends) || !name.ends_with(ends) || name.len() > 253 || !name.chars().all(fits) {
                return Err(ask.error(ErrorKind::Invalid, format!("{name:?} is not a name of an object in Kubernetes")));
            }
        }
        Ok(Request::new(self.kind.path(&self.namespace)))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
    }
}

/// How to apply.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Apply {
    /// Take over fields of our own earlier updates; only for what was just seen to be ours.
    pub(crate) force: bool,
    /// Let the server validate, and change nothing.
    pub(crate) dry_run: bool,
}

type Built = std::result::Result<http::Request<Vec<u8>>, kube::core::request::Error>;

impl Kube {
    /// One request, bounded. Returns the body of a successful answer.
    pub(crate) async fn send(&self, cx: &CallContext, ask: &Ask, request: Built) -> Result<Vec<u8>> {
        let request = request.map_err(|e| error::from_client(ask, kube::Error::BuildRequest(e)))?;
        let call = async {
            let sent = self.inner.client.send(request.map(Body::from)).await;
            let response = sent.map_err(|e| error::from_client(ask, e))?;
            let code = response.status();
            let retry_after = response.headers().get(http::header::RETRY_AFTER);
            let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
            let body = response.into_body().collect_bytes().await.map_err(|e| error::from_client(ask, e))?;
            if code.is_success() {
                return Ok(body.to_vec());
            }
            Err(error::from_status(ask, &status(code.as_u16(), &body), retry_after))
        };
        let _turn = self.turn(cx, ask).await?;
        let bounded = cx.at_most(self.inner.timeout).run(BACKEND, "request", call).await;
        bounded.map_err(|e| error::given_up(ask, e, self.inner.timeout))
    }

    /// Waits for the turn of a request, in the order in which they came. Its time limit counts from then on.
    async fn turn(&self, cx: &CallContext, ask: &Ask) -> Result<Option<OwnedSemaphorePermit>> {
        let turn = async { Ok(self.turns.clone().acquire_owned().await.ok()) };
        cx.run(BACKEND, "request", turn).await.map_err(|e| {
            let message = match e.kind() {
                ErrorKind::Timeout => format!("its turn did not come before the deadline: {AT_ONCE} others were asked"),
                _ => e.message().to_owned(),
            };
            ask.error(e.kind(), message).effect(Effect::None)
        })
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, cx: &CallContext, ask: &Ask, request: Built) -> Result<T> {
        let body = self.send(cx, ask, request).await?;
        serde_json::from_slice(&body).map_err(|e| error::unreadable(ask, e))
    }

    /// The object, if it exists.
    pub(crate) async fn find<T: DeserializeOwned>(&self, cx: &CallContext, object: &Object) -> Result<Option<T>> {
        let ask = object.ask(Access::Read, "get");
        let request = object.request(&ask)?.get(&object.name, &GetParams::default());
        if_there(self.json(cx, &ask, request).await)
    }

    /// What there is to know about an object, without what is in it; `None` if there is no such object.
    pub(crate) async fn find_metadata<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
    ) -> Result<Option<T>> {
        let ask = object.ask(Access::Read, "get");
        let request = object.request(&ask)?.get_metadata(&object.name, &GetParams::default());
        if_there(self.json(cx, &ask, request).await)
    }

    /// The objects of a kind that the selectors choose.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        kind: Kind,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Vec<T>> {
        let (ask, request) = listing(kind, namespace)?;
        Ok(self.json::<Items<Vec<T>>>(cx, &ask, request.list(params)).await?.items)
    }

    /// Server-side apply of `body` under our field manager.
    pub(crate) async fn apply<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
        body: &Value,
        how: Apply,
    ) -> Result<T> {
        let ask = object.ask(if how.dry_run { Access::Read } else { Access::Write }, "apply");
        let params = PatchParams { dry_run: how.dry_run, force: how.force, ..PatchParams::apply(self.manager()) };
        let request = object.request(&ask)?.patch(&object.name, &params, &Patch::Apply(body));
        self.json(cx, &ask, request).await
    }

    /// A JSON patch, whose `test` operations hold at the moment of the write or fail it as a conflict.
    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
        operations: Vec<Value>,
    ) -> Result<T> {
        let ask = object.ask(Access::Compare, "patch");
        let (params, patch) = self.comparing(&ask, operations)?;
        let request = object.request(&ask)?.patch(&object.name, &params, &patch);
        self.json(cx, &ask, request).await
    }

    /// Asks the server, which knows the present, whether `test` operations hold now, and for the object as it is; a
    /// conflict if not. A read may come from the past. Writes nothing.
    pub(crate) async fn compare<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
        tests: Vec<Value>,
    ) -> Result<T> {
        let ask = object.ask(Access::Compare, "compare");
        let (params, patch) = self.comparing(&ask, tests)?;
        let params = PatchParams { dry_run: true, ..params };
        let request = object.request(&ask)?.patch(&object.name, &params, &patch);
        self.json(cx, &ask, request).await
    }

    /// Asks the server whether an object still is what was read, which may be past; a conflict if not. Writes nothing.
    pub(crate) async fn is_unchanged(&self, cx: &CallContext, object: &Object, read: &Value) -> Result<()> {
        let version = &read["metadata"]["resourceVersion"];
        let same = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
        self.compare::<Value>(cx, object, same).await.map(drop)
    }

    /// Asks the server, which knows the present, whether there is no such object; a conflict if there is one. Changes
    /// nothing.
    pub(crate) async fn is_absent(&self, cx: &CallContext, object: &Object) -> Result<()> {
        /// The uid of no object.
        const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
        let ask = object.ask(Access::Read, "look for");
        let nobody = Preconditions { uid: Some(NOBODY.to_owned()), ..Preconditions::default() };
        let dry = DeleteParams { dry_run: true, ..DeleteParams::background() };
        let request = object.request(&ask)?.delete(&object.name, &dry.preconditions(nobody));
        // It stands in the body, where no audit log shows it.
        let request = request.map(|mut request| {
            let told = format!("{}dryRun=All", request.uri()).parse();
            *request.uri_mut() = told.unwrap_or_else(|_| request.uri().clone());
            request
        });
        match self.send(cx, &ask, request).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The same as [`patch`](Self::patch), for what there is to know about the object afterwards, without what is in it.
    pub(crate) async fn patch_metadata<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
        operations: Vec<Value>,
    ) -> Result<T> {
        let ask = object.ask(Access::Compare, "patch");
        let (params, patch) = self.comparing(&ask, operations)?;
        let request = object.request(&ask)?.patch_metadata(&object.name, &params, &patch);
        self.json(cx, &ask, request).await
    }

    /// A JSON patch under our field manager.
    fn comparing(&self, ask: &Ask, operations: Vec<Value>) -> Result<(PatchParams, Patch<()>)> {
        let patch = serde_json::from_value(Value::Array(operations))
            .map_err(|e| ask.error(ErrorKind::Internal, format!("the patch is none: {e}")))?;
        let params = PatchParams { field_manager: Some(self.manager().to_owned()), ..PatchParams::default() };
        Ok((params, Patch::Json(patch)))
    }

    /// Makes an object that is not there yet.
    pub(crate) async fn create<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        object: &Object,
        body: &Value,
    ) -> Result<T> {
        let ask = object.ask(Access::Write, "create");
        let params = PostParams { field_manager: Some(self.manager().to_owned()), ..PostParams::default() };
        let request = object.request(&ask)?.create(&params, body.to_string().into_bytes());
        self.json(cx, &ask, request).await
    }

    /// What there is to know about the objects of a kind that the selectors choose, without what is in them.
    pub(crate) async fn list_metadata<T: DeserializeOwned>(
        &self,
        cx: &CallContext,
        kind: Kind,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Vec<T>> {
        let (ask, request) = listing(kind, namespace)?;
        // Of no objects there is no list, but null.
        let found: Items<Option<Vec<T>>> = self.json(cx, &ask, request.list_metadata(params)).await?;
        Ok(found.items.unwrap_or_default())
    }

    /// Deletes the very object with this uid; what it owns goes in the background. Fine if it is gone.
    pub(crate) async fn delete(&self, cx: &CallContext, object: &Object, uid: String) -> Result<()> {
        self.delete_if(cx, object, Preconditions { uid: Some(uid), ..Preconditions::default() }).await
    }

    /// Deletes the object that is as `this_one` says; a conflict if it is another by now. Fine if it is gone.
    pub(crate) async fn delete_if(&self, cx: &CallContext, object: &Object, this_one: Preconditions) -> Result<()> {
        let ask = object.ask(Access::Write, "delete");
        let request = object.request(&ask)?.delete(&object.name, &DeleteParams::background().preconditions(this_one));
        match self.send(cx, &ask, request).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Asks the server a question that is put as an object (an access review).
    pub(crate) async fn review(&self, cx: &CallContext, path: &str, body: &Value) -> Result<Value> {
        let ask = Ask::new(Access::Read, "check permissions", self.server());
        let request = Request::new(path).create(&PostParams::default(), body.to_string().into_bytes());
        self.json(cx, &ask, request).await
    }

    /// Reads a path as it is.
    pub(crate) async fn raw(&self, cx: &CallContext, ask: &Ask, path: &str) -> Result<Vec<u8>> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::core::request::Error::BuildRequest);
        self.send(cx, ask, request).await
    }

    /// The log of a pod's container.
    pub(crate) async fn log(
        &self,
        cx: &CallContext,
        pod: &Object,
        params: &kube::core::subresource::LogParams,
    ) -> Result<String> {
        let ask = pod.ask(Access::Read, "read the log of");
        let request = pod.request(&ask)?.logs(&pod.name, params);
        Ok(String::from_utf8_lossy(&self.send(cx, &ask, request).await?).into_owned())
    }
}

/// What a list holds.
#[derive(serde::Deserialize)]
struct Items<L> {
    items: L,
}

/// The question for the objects of a kind.
fn listing(kind: Kind, namespace: &str) -> Result<(Ask, Request)> {
    let ask = Ask::new(Access::Read, format!("list {}", kind.plural), namespace);
    // The name is only there to be valid: a list names none.
    let request = Object::new(kind, namespace, "all").request(&ask)?;
    Ok((ask, request))
}

/// The status object of an answer, or one made of whatever a proxy said instead.
fn status(code: u16, body: &[u8]) -> Status {
    let parsed = serde_json::from_slice::<Status>(body).ok().filter(|s| s.code != 0 || !s.message.is_empty());
    let text = || secret::redact(String::from_utf8_lossy(body).trim()).chars().take(300).collect::<String>();
    parsed.unwrap_or_else(|| Status::failure(&text(), "")).with_code(code)
}

/// Makes an object of the API of JSON.
fn if_there<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn typed<T: DeserializeOwned>(ask: &Ask, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|e| error::unreadable(ask, e))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use moodify_core::journal::JournalStore as _;

    use super::*;

    /// A cluster that takes so long for each answer, and the most requests that it had at once.
    fn slow(takes: Duration) -> (Kube, Arc<AtomicUsize>) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let (now, seen) = (Arc::clone(&now), Arc::clone(&seen));
            async move {
                seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(takes).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, kube::Error>(http::Response::new(Body::from(b"{}".to_vec())))
            }
        });
        (Kube::from_client(kube::Client::new(service, "ns"), "https://test".to_owned(), &KubeConfig::new()), most)
    }

    fn for_seconds(seconds: u64) -> CallContext {
        CallContext::by_hand("test", Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_at_once_have_their_turns_and_none_is_late_for_having_waited() {
        let (kube, most) = slow(Duration::from_secs(1));
        let (object, cx) = (Object::new(DEPLOYMENT, "ns", "web"), for_seconds(60));
        let all = (0..1000).map(|_| kube.find::<Value>(&cx, &object));
        let answers = futures::future::join_all(all).await;
        assert!(answers.iter().all(Result::is_ok), "the last ones waited for more than the limit of a request");
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_sent_had_no_effect() {
        let (kube, _) = slow(Duration::from_secs(8));
        let (object, body) = (Object::new(SERVICE, "ns", "web"), json!({}));
        let (patient, hasty) = (for_seconds(60), for_seconds(5));
        let before = futures::future::join_all((0..AT_ONCE).map(|_| kube.create::<Value>(&patient, &object, &body)));
        let (before, late) = tokio::join!(before, kube.create::<Value>(&hasty, &object, &body));
        assert!(before.iter().all(Result::is_ok));
        let error = late.unwrap_err();
        assert_eq!((error.kind(), error.effect_of()), (ErrorKind::Timeout, Effect::None));
        assert!(error.to_string().contains("its turn did not come"), "{error}");
        let journal = kube.journal("ns");
        let held = futures::future::join_all((0..AT_ONCE).map(|_| kube.create::<Value>(&patient, &object, &body)));
        let (_, runs) = tokio::join!(held, journal_within(&journal, 9));
        assert!(runs, "a journal has turns of its own");
    }

    async fn journal_within(journal: &KubeJournal, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), journal.list()).await.is_ok()
    }
}
