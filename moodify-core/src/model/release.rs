use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigRefs, ConfigVersion, DataPlane, Layout};

/// What ships: a version of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The version, for people: `v1.2.3`.
    pub version: String,
    /// What ships, in lockstep.
    #[schemars(length(min = 1))]
    pub services: Vec<Service>,
}

impl Release {
    /// The service of that name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }
}

/// One workload, the container in it that carries the release, and how traffic reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name in the plan: `backend`.
    pub name: String,
    /// The workload that runs it: the name of the Deployment, or of what `kind` says.
    pub workload: String,
    /// What kind of workload that is.
    #[serde(default, skip_serializing_if = "WorkloadKind::is_deployment")]
    pub kind: WorkloadKind,
    /// The container in that workload; by default the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The image to release.
    pub image: ImageRef,
    /// How traffic is divided between stable and canary.
    pub traffic: Routing,
    /// The configuration that ships with this version, and goes back with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigVersion>,
}

impl Service {
    /// The container that carries the release.
    #[must_use]
    pub fn container(&self) -> &str {
        self.container.as_deref().unwrap_or(&self.name)
    }

    /// Which objects this version reads, of the configuration that ships with it.
    #[must_use]
    pub fn config_refs(&self) -> ConfigRefs {
        self.config.iter().map(|config| (config.key(), config.object())).collect()
    }
}

/// What kind of workload runs a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    /// Instances that are all alike.
    #[default]
    Deployment,
    /// Instances with names, and often disks, of their own.
    StatefulSet,
    /// One instance on each node.
    DaemonSet,
}

impl WorkloadKind {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_deployment(&self) -> bool {
        *self == Self::Deployment
    }

    /// Its name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How traffic reaches a service, and who divides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The router, by the name under which it is registered: `replica-ratio`, `service-selector`, `http-route`,
    /// `grpc-route`, `traefik`, `istio`, `ingress-nginx`, `alb`.
    pub router: String,
    /// The Service object in front of the stable version.
    pub service: String,
    /// The routing object whose weights are set (`http-route`: the name of the `HTTPRoute`; `traefik`: of the
    /// `TraefikService`; `istio`: of the `VirtualService`; `ingress-nginx` and `alb`: of the `Ingress`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Where the data plane itself is asked whether a weight is in force. Without it, what the router reports has to do; not
    /// every router reports anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<DataPlane>,
}

impl Routing {
    /// Traffic to a Service that this router divides, by a routing object where it has one.
    #[must_use]
    pub fn new(router: &str, service: &str, route: Option<&str>) -> Self {
        let (router, service, route) = (router.to_owned(), service.to_owned(), route.map(str::to_owned));
        Self { router, service, route, verify: None }
    }
}

/// A container image: repository with tag or digest.
///
/// ```
/// use moodify_core::model::ImageRef;
/// let image: ImageRef = "registry.example/moodify/backend:v1.2.3".parse().unwrap();
/// assert_eq!(image.tag(), Some("v1.2.3"));
/// assert!("backend".parse::<ImageRef>().is_err(), "neither tag nor digest: nobody could say what ships");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef(String);

impl ImageRef {
    /// The reference as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digest (`sha256:...`), if it is pinned by one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, digest)| digest)
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        let name = self.0.split('@').next()?;
        let last = name.rsplit('/').next()?;
        last.split_once(':').map(|(_, tag)| tag)
    }
}

impl FromStr for ImageRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let clean = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        let image = Self(text.to_owned());
        let pinned = match image.digest() {
            Some(d) => {
                d.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && h.chars().all(|c| c.is_ascii_hexdigit()))
            }
            None => image.tag().is_some_and(|t| !t.is_empty()),
        };
        if clean && pinned && !text.starts_with([':', '@', '/']) {
            Ok(image)
        } else {
            Err(format!("{text:?} is not an image with a tag or a sha256 digest, like registry.example/backend:v1.2.3"))
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.0
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canary's share of the traffic, in whole percent from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u64")]
pub struct Weight(#[schemars(range(min = 0, max = 100))] u8);

impl Weight {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const FULL: Self = Self(100);

    /// So many percent; `None` above 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// In percent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// As a fraction of one.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl TryFrom<u64> for Weight {
    type Error = String;
    fn try_from(percent: u64) -> Result<Self, String> {
        u8::try_from(percent).ok().and_then(Self::new).ok_or_else(|| format!("a weight is 0 to 100 %, not {percent}"))
    }
}

impl From<Weight> for u64 {
    fn from(weight: Weight) -> Self {
        Self::from(weight.0)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// Which of the two versions side by side, by the part that it has in a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Track {
    /// What serves before the release, and is named by everybody else.
    Stable,
    /// What carries the new version.
    Canary,
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
        })
    }
}

/// A service in its place: what a backend is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The environment's name.
    pub environment: String,
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub service: Service,
    /// How its two versions stand side by side.
    #[serde(default)]
    pub layout: Layout,
}

impl Target {
    /// A service of which a temporary canary stands beside the stable workload.
    #[must_use]
    pub fn new(environment: &str, namespace: &str, service: Service) -> Self {
        let (environment, namespace) = (environment.to_owned(), namespace.to_owned());
        Self { environment, namespace, service, layout: Layout::InPlace }
    }

    /// The same in another layout.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service.name)
    }
}
