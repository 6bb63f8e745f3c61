//! Traffic by weights in routing objects: one file for the requests, one for what all kinds share, one for each kind.

mod alb;
mod alb_testers;
mod gateway;
mod gateway_mirror;
mod gateway_status;
mod ingress;
mod istio;
mod kind;
mod list;
mod mirror;
mod nginx;
mod router;
mod rule;
mod selector;
mod testers;
mod traefik;
mod traefik_mirror;
mod traefik_testers;

pub(crate) use alb_testers::AlbTesters;
pub use kind::Router;
pub(crate) use kind::preview;
pub(crate) use mirror::{RuleMirror, examine_mirror};
pub use nginx::NginxRouter;
pub use router::RouteRouter;
pub use selector::SelectorRouter;
pub(crate) use testers::RuleTesters;
pub(crate) use traefik_mirror::{TraefikMirror, own_name as mirror_service};
pub(crate) use traefik_testers::{TraefikTesters, own_name as testers_route};
