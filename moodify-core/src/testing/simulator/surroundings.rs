//! What stands around the simulated cluster: metrics, probes, the status page, and people.

use async_trait::async_trait;

use crate::analysis::metrics;
use crate::backend::{
    ApprovalRequest, Approvals, Decision, Incident, IncidentStatus, IncidentUpdate, Maintenance, Measurement,
    MetricQuery, MetricSource, Notification, Notifier, PodState, Probe, ProbeRequest, ProbeResult, Sample,
    SampleRequest, StatusPage, StatusPageCapabilities,
};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Color, Layout, Track};

use super::chance;
use super::cluster::Facet;
use super::fault::BackendKind;
use super::scenario::Scenario;
use super::service::{SimService, place};
use super::state::{Caller, Delivery, Question, SimIncident, State};

/// Figures vary by so much up and down.
const NOISE: f64 = 0.05;

const KNOWN: [&str; 5] =
    [metrics::ERROR_RATE, metrics::LATENCY_P95, metrics::CRASH_LOOP, metrics::UNHEALTHY, metrics::RESTARTS];

fn is_scripted(scenario: &Scenario, metric: &str) -> bool {
    let versions = scenario.versions.values().flatten();
    let all = scenario.canary.iter().chain(&scenario.stable).chain(versions);
    scenario.world.figures.contains_key(metric) || all.clone().any(|b| b.figures.contains_key(metric))
}

/// One figure of one version; `None` where nothing is measured.
fn measure(state: &State, query: &MetricQuery) -> Option<f64> {
    let service = state.service(&query.target)?;
    let running = service.of(&query.target, query.track)?;
    let pods = state.pods(&query.target, query.track);
    let share = |wanted: &dyn Fn(&PodState) -> bool| pods.iter().filter(|pod| wanted(pod)).count() as f64;
    let scenario = &state.scenario;
    // Of a single workload the pods are those of one of its two versions.
    let part = |pod: &&super::workload::Pod| query.target.layout != Layout::Single || pod.image == running.image;
    let of_it = running.pods.iter().filter(part);
    let conducts: Vec<_> = of_it.map(|pod| service.conduct(scenario, &pod.image, state.now)).collect();
    if conducts.iter().any(|conduct| conduct.no_metrics) {
        return None;
    }
    match query.metric.as_str() {
        metrics::CRASH_LOOP => return Some(share(&|pod| pod.crash_looping)),
        metrics::RESTARTS => return Some(pods.iter().map(|pod| f64::from(pod.restarts)).sum()),
        metrics::UNHEALTHY if pods.is_empty() => return None,
        metrics::UNHEALTHY => return Some(share(&|pod| pod.was_ready && !pod.ready) / pods.len() as f64),
        _ => {}
    }
    // Copies are measured as requests are.
    let copies = query.track == Track::Canary && service.mirrored.is_some();
    if !copies && service.share_of(scenario, place(query.target.layout, query.track), state.now) <= 0.0 {
        return None;
    }
    let serving: Vec<_> = conducts.iter().zip(&pods).filter(|(_, pod)| pod.ready).map(|(conduct, _)| conduct).collect();
    let figure = |conduct: &&super::workload::Conduct| match query.metric.as_str() {
        metrics::ERROR_RATE => Some(conduct.error_rate),
        metrics::LATENCY_P95 => Some(conduct.latency),
        other => conduct.figures.get(other).copied(),
    };
    let figures: Option<Vec<f64>> = serving.iter().map(figure).collect();
    let figures = figures.filter(|figures| !figures.is_empty())?;
    let mean = figures.iter().sum::<f64>() / figures.len() as f64;
    let words = [service.name(), &query.metric, &query.track.to_string()];
    // In nanoseconds of virtual time; wraps after 584 years.
    let chance = chance::fraction(scenario.seed, &words, state.now.as_nanos() as u64);
    Some(mean * (1.0 + NOISE * (2.0 * chance - 1.0)))
}

#[async_trait]
impl MetricSource for Facet {
    fn check(&self, query: &MetricQuery) -> Result<()> {
        let scripted = query.query.is_some() || self.world.scenario(|s| is_scripted(s, &query.metric));
        if scripted || KNOWN.contains(&query.metric.as_str()) {
            return Ok(());
        }
        let message = format!("{} has no query, and is none of {}", query.metric, KNOWN.join(", "));
        Err(Error::new(ErrorKind::Unsupported, BackendKind::MetricSource.name(), "check", message))
    }

    async fn query(&self, cx: &CallContext, query: &MetricQuery) -> Result<Measurement> {
        let caller = self.caller(BackendKind::MetricSource, "query", &query.target.service.name).reading();
        let (asks, query, name) = (caller.clone(), query.clone(), self.name.clone());
        let effect = move |state: &mut State| {
            let outage = state
                .scenario
                .metrics
                .and_then(|outage| state.now.checked_sub(outage.down_after.get()).zip(Some(outage)));
            if outage.is_some_and(|(passed, outage)| outage.down_for.is_none_or(|time| passed < time.get())) {
                return Err(asks.fails(ErrorKind::Unavailable, format!("{name} does not answer")));
            }
            Ok(Measurement { value: measure(state, &query), at: state.wall() })
        };
        self.world.call(cx, caller, effect).await
    }
}

/// The service and track that an address is of, if it is of one.
fn addressed<'a>(state: &'a State, url: &str) -> Option<(&'a SimService, Track)> {
    let named = |name: &str| url.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == name);
    state.services.values().find_map(|service| {
        let names = [service.name(), &service.target.service.workload, &service.target.service.traffic.service];
        if names.iter().any(|name| named(&format!("{name}-canary"))) {
            return Some((service, Track::Canary));
        }
        let stands_for = if service.name.stands_for == Color::Green { Track::Canary } else { Track::Stable };
        if [names[0], names[2]].into_iter().any(named) {
            return Some((service, stands_for));
        }
        named(names[1]).then_some((service, Track::Stable))
    })
}

fn answer(state: &State, request: &ProbeRequest) -> ProbeResult {
    let healthy = |service: &SimService, track: Track| {
        let ready = state.pods(&service.target, track).iter().any(|pod| pod.ready);
        let image = service.track(track).map(|running| &running.image);
        // Whoever asks once should learn of a broken version, and not stumble over an ordinary one's rare error.
        ready && image.is_some_and(|image| service.conduct(&state.scenario, image, state.now).error_rate < 0.5)
    };
    let well = match addressed(state, &request.url) {
        Some((service, track)) => healthy(service, track),
        None => state.services.values().all(|service| healthy(service, Track::Stable) || service.flow.lost < 0.5),
    };
    let status = if well { 200 } else { 503 };
    let healthy = request.accepts(status);
    let detail = (!healthy).then(|| format!("{} answered {status}", request.url));
    ProbeResult { healthy, status: Some(status), latency: state.scenario.world.call_time.get(), detail }
}

/// Who answers where a plan says that the data plane is asked: by what really flows, without what chance adds.
fn sampled(state: &State, request: &SampleRequest) -> Sample {
    let is_asked = |service: &&SimService| {
        let plane = service.target.service.traffic.verify.as_ref();
        plane.is_some_and(|plane| plane.url.as_str() == request.url && plane.host == request.host)
    };
    let mut sample = Sample::default();
    let Some(service) = state.services.values().find(is_asked) else {
        (0..request.requests).for_each(|_| sample.unanswered("nobody is there".to_owned()));
        return sample;
    };
    let mut sent = 0.0;
    let mut told = 0;
    for (image, share) in &service.flow.shares {
        let version =
            if *image == service.target.service.image { &request.version } else { image.tag().unwrap_or_default() };
        sent += share * f64::from(request.requests);
        while told < sent.round() as u32 {
            sample.answered(request, Some(version));
            told += 1;
        }
    }
    (told..request.requests).for_each(|_| sample.unanswered("nobody answers".to_owned()));
    sample
}

#[async_trait]
impl Probe for Facet {
    /// An address that names a service (its name, workload or Service) is well if that has a ready instance; one with
    /// `-canary` after it speaks of the canary; any other, of everything.
    async fn probe(&self, cx: &CallContext, request: &ProbeRequest) -> Result<ProbeResult> {
        let caller = self.caller(BackendKind::Probe, "probe", &request.url).reading();
        let known = ["http://", "https://"].iter().any(|scheme| request.url.starts_with(scheme));
        if !known || request.url.ends_with("://") {
            return Err(caller.fails(ErrorKind::Invalid, "not an http address"));
        }
        let request = request.clone();
        self.world.call(cx, caller, move |state| Ok(answer(state, &request))).await
    }

    /// An address is the data plane of the service whose plan says so.
    async fn sample(&self, cx: &CallContext, request: &SampleRequest) -> Result<Sample> {
        let caller = self.caller(BackendKind::Probe, "sample", &request.url).reading();
        let request = request.clone();
        self.world.call(cx, caller, move |state| Ok(sampled(state, &request))).await
    }
}

impl Facet {
    fn page(&self, operation: &'static str) -> Caller {
        self.caller(BackendKind::StatusPage, operation, "status page")
    }
}

fn open_incident<'a>(state: &'a mut State, key: &crate::IdempotencyKey) -> Option<&'a mut SimIncident> {
    state.incidents.iter_mut().find(|made| made.key == *key && made.is_open())
}

/// The open incident under the key, else a new one as `first` says.
fn opened(state: &mut State, cx: &CallContext, first: &IncidentUpdate, verb: &str) -> Incident {
    if let Some(made) = open_incident(state, cx.key()) {
        return made.incident.clone();
    }
    let incident = Incident::after(format!("incident-{}", state.incidents.len() + 1), first);
    let (key, run) = (cx.key().clone(), cx.run_id().clone());
    state.incidents.push(SimIncident { key, run, incident: incident.clone() });
    state.wrote(format!("{} {verb}", incident.id));
    incident
}

#[async_trait]
impl StatusPage for Facet {
    fn capabilities(&self) -> StatusPageCapabilities {
        StatusPageCapabilities::new(true)
    }

    async fn open(&self, cx: &CallContext, update: &IncidentUpdate) -> Result<Incident> {
        let (by, update) = (cx.clone(), update.clone());
        let effect = move |state: &mut State| Ok(opened(state, &by, &update, "opened"));
        self.world.call(cx, self.page("open"), effect).await
    }

    async fn schedule(&self, cx: &CallContext, maintenance: &Maintenance) -> Result<Incident> {
        let (by, maintenance, caller) = (cx.clone(), maintenance.clone(), self.page("schedule"));
        if maintenance.until <= maintenance.from {
            return Err(caller.fails(ErrorKind::Invalid, "the maintenance ends before it begins"));
        }
        let effect = move |state: &mut State| {
            let begun = maintenance.from <= state.wall();
            let status = if begun { IncidentStatus::Investigating } else { IncidentStatus::Scheduled };
            Ok(opened(state, &by, &IncidentUpdate::new(status, &*maintenance.message), "scheduled"))
        };
        self.world.call(cx, caller, effect).await
    }

    async fn find(&self, cx: &CallContext) -> Result<Option<Incident>> {
        let key = cx.key().clone();
        let effect = move |state: &mut State| Ok(open_incident(state, &key).map(|made| made.incident.clone()));
        self.world.call(cx, self.page("find").reading(), effect).await
    }

    async fn update(&self, cx: &CallContext, id: &str, update: &IncidentUpdate) -> Result<Incident> {
        let (caller, id, update) = (self.page("update"), id.to_owned(), update.clone());
        let asks = caller.clone();
        let effect = move |state: &mut State| {
            let made = state.incidents.iter_mut().find(|made| made.incident.id == id);
            let made = made.ok_or_else(|| asks.fails(ErrorKind::NotFound, format!("there is no incident {id}")))?;
            let changed = !made.incident.says(&update);
            let incident = Incident::after(&*id, &update);
            made.incident.clone_from(&incident);
            if changed {
                let verb = if update.status == IncidentStatus::Resolved { "resolved" } else { "updated" };
                state.wrote(format!("{id} {verb}"));
            }
            Ok(incident)
        };
        self.world.call(cx, caller, effect).await
    }
}

#[async_trait]
impl Notifier for Facet {
    async fn notify(&self, cx: &CallContext, notification: &Notification) -> Result<()> {
        let caller = self.caller(BackendKind::Notifier, "notify", &self.name);
        let (key, notifier, notification) = (cx.key().clone(), self.name.to_string(), notification.clone());
        let effect = move |state: &mut State| {
            let (at, key, notifier) = (state.now, key.clone(), notifier.clone());
            state.deliveries.push(Delivery { at, notifier, key, notification: notification.clone() });
            state.wrote(format!("told: {}", notification.title));
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }
}

#[async_trait]
impl Approvals for Facet {
    async fn request(&self, cx: &CallContext, request: &ApprovalRequest) -> Result<()> {
        let caller = self.caller(BackendKind::Approvals, "request", "approvals");
        let (key, request) = (cx.key().clone(), request.clone());
        let effect = move |state: &mut State| {
            if !state.questions.contains_key(&key) {
                let question = Question { request: request.clone(), asked: state.now, decisions: Vec::new() };
                state.questions.insert(key.clone(), question);
                state.wrote(format!("asked: {}", request.question));
            }
            Ok(())
        };
        self.world.call(cx, caller, effect).await
    }

    async fn decisions(&self, cx: &CallContext) -> Result<Vec<Decision>> {
        let caller = self.caller(BackendKind::Approvals, "decisions", "approvals").reading();
        let key = cx.key().clone();
        self.world.call(cx, caller, move |state| Ok(state.decisions(&key))).await
    }
}
