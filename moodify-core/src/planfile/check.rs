//! What the types of a plan cannot say: names, rising weights, references.

use std::collections::HashMap;

use serde_json::Value;

use super::{Mistake, PhaseContent, PlanFile, StrategySpec};
use crate::gate::Gate;
use crate::model::{ConfigKind, ConfigVersion, DataPlane, Environment, Period, Release, Service, Step};

/// The routers that need to know a routing object, and its kind.
const ROUTED: [(&str, &str); 6] = [
    ("http-route", "HTTPRoute"),
    ("grpc-route", "GRPCRoute"),
    ("traefik", "TraefikService"),
    ("istio", "VirtualService"),
    ("ingress-nginx", "Ingress"),
    ("alb", "Ingress"),
];

impl PlanFile {
    /// What is wrong with the plan that its types allow; empty if nothing is. What depends on the backends that are
    /// there (routers, actions, their parameters) is not checked here.
    #[must_use]
    pub fn validate(&self) -> Vec<Mistake> {
        let mut checks = Checks::default();
        checks.text("/name", &self.name);
        checks.environment(&self.environment);
        checks.release(&self.release);
        checks.phases(self);
        checks.mistakes
    }
}

#[derive(Default)]
struct Checks {
    mistakes: Vec<Mistake>,
}

impl Checks {
    fn report(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(Mistake::new(pointer, message));
    }

    fn text(&mut self, pointer: &str, text: &str) {
        if text.trim().is_empty() {
            self.report(pointer, "must not be empty");
        }
    }

    /// A name of one label (RFC 1123), as Kubernetes wants it for namespaces, Services and containers.
    fn label(&mut self, pointer: &str, name: &str) {
        if !is_label(name) {
            let message = format!("{name:?} is not a valid name: at most 63 of a-z, 0-9 and inner dashes");
            self.report(pointer, message);
        }
    }

    /// A name of labels with dots between them, as Kubernetes wants it for workloads and routes.
    fn dns_name(&mut self, pointer: &str, name: &str) {
        if name.len() > 253 || !name.split('.').all(is_label) {
            let message = format!("{name:?} is not a valid name: a-z, 0-9, inner dashes and dots, at most 253");
            self.report(pointer, message);
        }
    }

    /// The first of each name wins; each later one is reported with the place of the first.
    fn unique<'a>(&mut self, what: &str, names: impl IntoIterator<Item = (String, &'a str)>) {
        let mut seen: HashMap<&str, String> = HashMap::new();
        for (pointer, name) in names {
            if let Some(first) = seen.get(name) {
                let message = format!("{what} {name:?} is there already");
                self.mistakes.push(Mistake { also: Some(first.clone()), ..Mistake::new(pointer, message) });
            } else {
                seen.insert(name, pointer);
            }
        }
    }

    fn environment(&mut self, environment: &Environment) {
        self.text("/environment/name", &environment.name);
        self.label("/environment/namespace", &environment.namespace);
        for (index, store) in environment.backups.iter().enumerate() {
            self.text(&format!("/environment/backups/{index}"), store);
        }
        for (audience, notifiers) in &environment.audiences {
            let at = format!("/environment/audiences/{audience}");
            if notifiers.is_empty() {
                self.report(&at, "an audience without a notifier hears nothing");
            }
            for (index, notifier) in notifiers.iter().enumerate() {
                self.text(&format!("{at}/{index}"), notifier);
            }
        }
        for (index, gate) in environment.gates.iter().enumerate() {
            let at = format!("/environment/gates/{index}");
            match gate {
                Gate::Window(window) => {
                    if window.days.is_empty() {
                        self.report(format!("{at}/window/days"), "a window without days never opens");
                    }
                    if window.from >= window.to {
                        let message = "the window ends before it begins; write two windows to go past midnight";
                        self.report(format!("{at}/window/to"), message);
                    }
                }
                Gate::Freeze(freeze) if freeze.from > freeze.to => {
                    self.report(format!("{at}/freeze/to"), "the freeze ends before it begins");
                }
                Gate::Freeze(_) => {}
            }
        }
    }

    fn release(&mut self, release: &Release) {
        self.text("/release/version", &release.version);
        if release.services.is_empty() {
            self.report("/release/services", "no services: nothing would ship");
        }
        for (index, service) in release.services.iter().enumerate() {
            self.service(&format!("/release/services/{index}"), service);
        }
        let column = |key: &'static str, name: fn(&Service) -> &str| {
            let pointer = move |index| format!("/release/services/{index}/{key}");
            release.services.iter().enumerate().map(move |(index, service)| (pointer(index), name(service)))
        };
        self.unique("service", column("name", |service| &service.name));
        self.unique("workload", column("workload", |service| &service.workload));
    }

    fn service(&mut self, at: &str, service: &Service) {
        self.label(&format!("{at}/name"), &service.name);
        self.dns_name(&format!("{at}/workload"), &service.workload);
        if let Some(container) = &service.container {
            self.label(&format!("{at}/container"), container);
        }
        for (index, config) in service.config.iter().enumerate() {
            self.config(&format!("{at}/config/{index}"), config);
        }
        let keys: Vec<String> = service.config.iter().map(ConfigVersion::key).collect();
        let names = keys.iter().enumerate().map(|(index, key)| (format!("{at}/config/{index}/name"), key.as_str()));
        self.unique("configuration", names);
        let traffic = &service.traffic;
        self.text(&format!("{at}/traffic/router"), &traffic.router);
        self.label(&format!("{at}/traffic/service"), &traffic.service);
        match &traffic.route {
            Some(route) => self.dns_name(&format!("{at}/traffic/route"), route),
            None => {
                if let Some((router, kind)) = ROUTED.iter().find(|(router, _)| traffic.router == *router) {
                    let message = format!("the router {router} needs `route`, the name of the {kind}");
                    self.report(format!("{at}/traffic"), message);
                }
            }
        }
        for (pointer, message) in traffic.verify.iter().flat_map(DataPlane::problems) {
            self.report(format!("{at}/traffic/verify{pointer}"), message);
        }
    }

    fn config(&mut self, at: &str, config: &ConfigVersion) {
        self.dns_name(&format!("{at}/name"), &config.name);
        match (&config.data, &config.version) {
            (Some(_), Some(_)) => self.report(format!("{at}/version"), "give either `data` or `version`, not both"),
            (None, None) => {
                self.report(at, "give `data`, its contents in this version, or `version`, an object that is there");
            }
            (None, Some(version)) => self.dns_name(&format!("{at}/version"), version),
            (Some(_), None) if config.kind == ConfigKind::Secret => self.report(
                format!("{at}/data"),
                "the contents of a Secret do not belong into a plan: make the Secret, and give its name as `version`",
            ),
            (Some(data), None) => {
                if config.name.len() > 242 {
                    self.report(format!("{at}/name"), "no room for the version behind it: at most 242 characters");
                }
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                for key in data.keys().filter(|key| key.is_empty() || key.len() > 253 || !key.chars().all(fits)) {
                    let message = format!("{key:?} is not a valid key: at most 253 of a-z, A-Z, 0-9, `-`, `_` and `.`");
                    self.report(format!("{at}/data"), message);
                }
                // etcd takes 1.5 MiB an object; Kubernetes 1 MiB of contents.
                if data.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > 1 << 20 {
                    self.report(format!("{at}/data"), "more than 1 MiB, which is what a ConfigMap can hold");
                }
            }
        }
    }

    fn phases(&mut self, plan: &PlanFile) {
        if plan.phases.is_empty()
            && !plan.release.services.is_empty()
            && let Err(why) = StrategySpec::fitting(&plan.release)
        {
            self.report("/release/services", why);
        }
        let mut steps = Vec::new();
        for (index, phase) in plan.phases.iter().enumerate() {
            let at = format!("/phases/{index}");
            self.text(&format!("{at}/name"), &phase.name);
            match &phase.content {
                PhaseContent::Steps(list) | PhaseContent::Parallel(list) if list.is_empty() => {
                    self.report(format!("{at}/steps"), "no steps");
                }
                PhaseContent::Steps(list) | PhaseContent::Parallel(list) => {
                    steps.extend(list.iter().enumerate().map(|(index, step)| (format!("{at}/steps/{index}"), step)));
                }
                PhaseContent::Strategy(strategy) => {
                    for (pointer, message) in strategy.problems() {
                        self.report(format!("{at}/strategy{pointer}"), message);
                    }
                }
            }
        }
        for (at, step) in &steps {
            self.step(at, step, &plan.release);
        }
        self.unique("step", steps.iter().map(|(at, step)| (format!("{at}/name"), step.name.as_str())));
    }

    fn step(&mut self, at: &str, step: &Step, release: &Release) {
        self.text(&format!("{at}/name"), &step.name);
        self.text(&format!("{at}/action"), &step.action);
        if step.deadline == Some(Period::ZERO) {
            self.report(format!("{at}/deadline"), "a deadline of no time at all");
        }
        if step.retry.attempts == 0 {
            self.report(format!("{at}/retry/attempts"), "must be at least 1, the first attempt");
        }
        // By convention `services` in a step's parameters names services of the release, whatever the action.
        let Some(Value::Array(services)) = step.with.get("services") else { return };
        for (index, name) in services.iter().enumerate() {
            let Some(name) = name.as_str() else { continue };
            if release.service(name).is_none() {
                let known: Vec<&str> = release.services.iter().map(|service| service.name.as_str()).collect();
                let note = Some(format!("services of the release: {}", known.join(", ")));
                let mistake = Mistake::new(format!("{at}/with/services/{index}"), format!("unknown service {name:?}"));
                self.mistakes.push(Mistake { note, ..mistake });
            }
        }
    }
}

fn is_label(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}
