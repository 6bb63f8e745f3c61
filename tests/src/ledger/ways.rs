//! Every way to release a Deployment, and what it costs to the request.

/// How the new version comes to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A canary beside one Deployment, then the Deployment itself.
    InPlace,
    /// Two Deployments that take turns.
    Turns,
    /// The same, all at once.
    Switch,
    /// In the Deployment itself, batch by batch.
    Rolling,
    /// In the Deployment itself, after a stop.
    Recreate,
}

impl Strategy {
    /// The most writes of any way. Argo Rollouts took 40 to 42 for a canary in place, Flagger 14.
    pub fn goal(self) -> usize {
        match self {
            Self::Turns | Self::Switch => 10,
            Self::InPlace | Self::Rolling | Self::Recreate => 13,
        }
    }
}

/// A way to release a Deployment, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// What people call it.
    pub title: &'static str,
    /// How.
    pub strategy: Strategy,
    /// The router of its service.
    pub router: &'static str,
    writes: &'static [&'static str],
    /// What stands for [`ROUTE`], one after the other.
    routes: [&'static str; 4],
    /// The most reads, watches included.
    pub most_reads: usize,
}

impl Way {
    /// Its writes, in order, each with its object.
    pub fn writes(&self) -> Vec<String> {
        let mut routes = self.routes.into_iter();
        let write = |write: &&'static str| if *write == ROUTE { routes.next().unwrap_or_default() } else { write };
        self.writes.iter().map(write).map(str::to_owned).collect()
    }
}

/// A write to what divides the traffic: 10, 50, 100 %, and all of it where it stays.
const ROUTE: &str = "the route";

const IN_PLACE: &[&str] = &[
    "patch deployments/backend-canary",
    "patch services/backend-canary",
    ROUTE,
    "patch deployments/backend-canary",
    ROUTE,
    "patch deployments/backend-canary",
    ROUTE,
    "patch deployments/backend",
    ROUTE,
    "delete deployments/backend-canary",
];

/// The instances are what divides the traffic.
const BY_RATIO: &[&str] = &[
    "patch deployments/backend-canary",
    "patch deployments/backend-canary",
    "patch deployments/backend",
    "patch deployments/backend-canary",
    "patch deployments/backend",
    "patch deployments/backend",
    "delete deployments/backend-canary",
];

const TURNS: &[&str] = &[
    "patch deployments/backend-green",
    "patch services/backend-green",
    ROUTE,
    "patch deployments/backend-green",
    ROUTE,
    "patch deployments/backend-green",
    ROUTE,
    "patch services/backend",
    ROUTE,
    "patch deployments/backend",
];

const SWITCH: &[&str] = &[
    "patch deployments/backend-green",
    "patch services/backend-green",
    "patch services/backend",
    "patch deployments/backend",
];

/// Each batch is let through and held again.
const ROLLING: &[&str] = &["patch deployments/backend"; 6];

/// Stopped, then started as what it shall be.
const RECREATE: &[&str] = &["patch deployments/backend"; 2];

/// ingress-nginx has an Ingress of its own for the new version.
const NGINX: [&str; 4] = [
    "create ingresses/backend-canary",
    "patch ingresses/backend-canary",
    "patch ingresses/backend-canary",
    "delete ingresses/backend-canary",
];

const fn way(title: &'static str, strategy: Strategy, router: &'static str, writes: &'static [&'static str]) -> Way {
    Way { title, strategy, router, writes, routes: [""; 4], most_reads: 64 }
}

const fn in_place(title: &'static str, router: &'static str, routes: [&'static str; 4]) -> Way {
    Way { routes, most_reads: 62, ..way(title, Strategy::InPlace, router, IN_PLACE) }
}

const fn turns(title: &'static str, router: &'static str, routes: [&'static str; 4]) -> Way {
    Way { routes, most_reads: 78, ..way(title, Strategy::Turns, router, TURNS) }
}

/// All ways.
pub const WAYS: [Way; 16] = [
    turns("blue-green, `HTTPRoute`", "http-route", ["patch httproutes/backend"; 4]),
    turns("blue-green, `GRPCRoute`", "grpc-route", ["patch grpcroutes/backend"; 4]),
    turns("blue-green, Traefik", "traefik", ["patch traefikservices/backend"; 4]),
    turns("blue-green, Istio", "istio", ["patch virtualservices/backend"; 4]),
    turns("blue-green, ingress-nginx", "ingress-nginx", NGINX),
    turns("blue-green, AWS ALB", "alb", ["patch ingresses/backend"; 4]),
    way("blue-green, one switch of the Service", Strategy::Switch, "service-selector", SWITCH),
    in_place("canary in place, `HTTPRoute`", "http-route", ["patch httproutes/backend"; 4]),
    in_place("canary in place, `GRPCRoute`", "grpc-route", ["patch grpcroutes/backend"; 4]),
    in_place("canary in place, Traefik", "traefik", ["patch traefikservices/backend"; 4]),
    in_place("canary in place, Istio", "istio", ["patch virtualservices/backend"; 4]),
    in_place("canary in place, ingress-nginx", "ingress-nginx", NGINX),
    in_place("canary in place, AWS ALB", "alb", ["patch ingresses/backend"; 4]),
    way("canary in place, replica ratio", Strategy::InPlace, "replica-ratio", BY_RATIO),
    way("rolling, in batches", Strategy::Rolling, "replica-ratio", ROLLING),
    way("recreate", Strategy::Recreate, "replica-ratio", RECREATE),
];
