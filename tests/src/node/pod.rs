//! The life of one pod on the node: start, probe, crash, restart, drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::behaviour::Behaviour;
use super::event;
use super::group::Member;
use super::log::Log;
use super::process;
use super::server::Server;
use super::status::{State, Status, Terminated};
use super::targets::Target;
use super::{LOAD, Shared};
use crate::{http, wall_clock};

/// A kubelet waits 10 s to 5 min; tests have less time.
const BACK_OFF: [u64; 5] = [1, 2, 4, 8, 10];
/// How long a container that crashes at once is seen running.
const BLINK: Duration = Duration::from_millis(100);
const PORT: u16 = 8080;
/// Requests a second that a ready pod is sent, unless its annotation [`LOAD`] says otherwise.
const RATE: u32 = 20;
/// More requests than this at once are not sent: a pod that never answers must not eat the machine.
const IN_FLIGHT: usize = 256;

/// What the API server says about the end of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is to live.
    None,
    /// It was deleted and has this long to finish.
    Within(Duration),
    /// It is gone from the API server.
    Gone,
}

/// Lives the pod's life until it is deleted.
pub(super) async fn run(pod: Pod, shared: Arc<Shared>, mut end: watch::Receiver<End>) {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &pod.namespace().unwrap_or_default());
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first().cloned()).unwrap_or_default();
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let log = shared.logs.open(&namespace, &name, &container.name);
    // The other containers are there and do nothing but say so.
    let spec = pod.spec.clone().unwrap_or_default();
    let others = spec.init_containers.into_iter().flatten().chain(spec.containers.into_iter().skip(1));
    let silent: Vec<Arc<Log>> = others
        .map(|other| {
            let log = shared.logs.open(&namespace, &name, &other.name);
            log.restart();
            log.write(format!("INFO {} is there", other.name));
            log
        })
        .collect();
    let _usage = shared.usage.add(&pod);
    let mut worker = Worker {
        log,
        api,
        status: Status::new(shared.identity.address()),
        container,
        pod,
        server: None,
        load: None,
        member: None,
        target: None,
        shared,
    };
    tokio::select! {
        never = worker.live() => match never {},
        _ = end.wait_for(|end| *end != End::None) => {}
    }
    let last = *end.borrow();
    if let End::Within(grace) = last {
        tokio::select! {
            () = worker.finish(grace) => {}
            _ = end.wait_for(|end| *end == End::Gone) => {}
        }
    }
    silent.iter().chain([&worker.log]).for_each(|log| log.end());
}

struct Worker {
    shared: Arc<Shared>,
    api: Api<Pod>,
    pod: Pod,
    container: Container,
    status: Status,
    member: Option<Arc<Member>>,
    server: Option<Server>,
    load: Option<AbortOnDropHandle<()>>,
    target: Option<Target>,
    log: Arc<Log>,
}

impl Worker {
    async fn live(&mut self) -> Infallible {
        let image = self.container.image.clone().unwrap_or_default();
        let behaviour = match Behaviour::of_image(&image) {
            Ok(behaviour) if behaviour.missing => return self.no_image(format!("{image}: not found")).await,
            Ok(behaviour) => behaviour,
            Err(problem) => return self.no_image(problem).await,
        };
        if process::is_one(&self.container) {
            return self.run_process().await;
        }
        let member = Arc::new(self.shared.groups.join(&self.pod, &image, behaviour));
        self.member = Some(Arc::clone(&member));
        loop {
            let started = Instant::now();
            let since = wall_clock();
            // What crashes at once never listens, so it is never ready.
            let at_once = member.behaviour().crash.is_some_and(|after| after.is_zero() || self.status.restarts > 0)
                && member.faults_begin(started).is_some();
            let address = self.start(&member, at_once).await;
            let targets = &self.shared.targets;
            self.target.get_or_insert_with(|| targets.add(&self.pod, &image, member.behaviour(), address));
            self.status.state = State::Running { since };
            self.log.restart();
            self.log.write(format!("INFO {image} listens on {address}"));
            self.emit("Started", &format!("Started container {}", self.container.name));
            if !at_once && self.container.readiness_probe.is_none() {
                self.set_ready(true, address);
            }
            self.show().await;
            let life = member.behaviour().crash.map(|after| if at_once { BLINK } else { after });
            let crash = async {
                match life {
                    Some(life) => sleep_until(member.faults_begun(started).await + life).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                never = self.probe(address) => match never {},
                () = crash => {}
            }
            self.server = None;
            self.set_ready(false, address);
            self.log.write("FATAL crashed as its image says".to_owned());
            let back_off = BACK_OFF[(self.status.restarts as usize).min(BACK_OFF.len() - 1)];
            let name = &self.container.name;
            let message =
                format!("back-off {back_off}s restarting failed container={name} pod={}", self.pod.name_any());
            self.emit("BackOff", &message);
            self.status.state = State::Waiting { reason: "CrashLoopBackOff", message };
            self.status.last = Some(Terminated { code: 1, started: since, finished: wall_clock() });
            self.show().await;
            sleep(Duration::from_secs(back_off)).await;
            self.status.restarts += 1;
        }
    }

    /// The container is a process: it runs once, whatever the restart policy, and the pod ends with it.
    async fn run_process(&mut self) -> Infallible {
        let since = wall_clock();
        let number = self.shared.addresses.fetch_add(1, Ordering::Relaxed);
        self.status.ip = Some(self.shared.identity.pod_address(number));
        self.status.state = State::Running { since };
        self.status.set_ready(true);
        self.log.restart();
        self.emit("Started", &format!("Started container {}", self.container.name));
        self.show().await;
        let limit = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let name = self.pod.name_any();
        let run = process::run(&self.container, &name, &self.log);
        let code = match limit.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => timeout(Duration::from_secs(seconds), run).await.ok(),
            None => Some(run.await),
        };
        self.log.end();
        self.status.set_ready(false);
        self.status.late = code.is_none();
        self.status.state = State::Ended { code: code.unwrap_or(137), since, at: wall_clock() };
        self.show().await;
        std::future::pending().await
    }

    async fn no_image(&mut self, problem: String) -> Infallible {
        self.emit("Failed", &format!("Failed to pull image: {problem}"));
        self.status.state = State::Waiting { reason: "ErrImagePull", message: problem.clone() };
        self.show().await;
        sleep(Duration::from_secs(1)).await;
        let message = format!("Back-off pulling image: {problem}");
        self.status.state = State::Waiting { reason: "ImagePullBackOff", message };
        self.show().await;
        std::future::pending().await
    }

    /// Binds the first free address of the pod network; a restarted container keeps the one of its pod.
    async fn start(&mut self, member: &Arc<Member>, silent: bool) -> SocketAddr {
        let ports = self.container.ports.iter().flatten();
        let port = ports.map(|port| port.container_port).next().and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or(PORT);
        loop {
            let ip = self.status.ip.unwrap_or_else(|| {
                self.shared.identity.pod_address(self.shared.addresses.fetch_add(1, Ordering::Relaxed))
            });
            let server = if silent {
                Ok(None)
            } else {
                Server::start(ip, port, Arc::clone(member), Arc::clone(&self.log)).await.map(Some)
            };
            match server {
                Ok(server) => {
                    self.status.ip = Some(ip);
                    self.server = server;
                    return SocketAddr::from((ip, port));
                }
                // The address has another rig's pod, or this one's last connections are closing.
                Err(error) => {
                    eprintln!("node: {}: {ip}:{port}: {error}", self.pod.name_any());
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Runs the readiness probe for as long as the container lives.
    async fn probe(&mut self, address: SocketAddr) -> Infallible {
        let Some(probe) = self.container.readiness_probe.clone() else { return std::future::pending().await };
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default))
        };
        sleep(Duration::from_secs(probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0))).await;
        let mut ticks = interval(seconds(probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut failures, mut successes) = (0, 0);
        loop {
            ticks.tick().await;
            let outcome = timeout(seconds(probe.timeout_seconds, 1), check(&probe, address)).await;
            match outcome.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(()) => (failures, successes) = (0, successes + 1),
                Err(problem) => {
                    (failures, successes) = (failures + 1, 0);
                    if failures == probe.failure_threshold.unwrap_or(3) {
                        self.emit("Unhealthy", &format!("Readiness probe failed: {problem}"));
                    }
                }
            }
            let was = self.status.ready();
            if successes >= probe.success_threshold.unwrap_or(1) {
                self.set_ready(true, address);
            } else if failures >= probe.failure_threshold.unwrap_or(3) {
                self.set_ready(false, address);
            }
            if was != self.status.ready() {
                self.show().await;
            }
        }
    }

    /// Only what is ready gets requests, as behind a Service.
    fn set_ready(&mut self, ready: bool, address: SocketAddr) {
        self.status.set_ready(ready);
        if !ready {
            self.load = None;
        } else if self.load.is_none() {
            let rate = self.pod.annotations().get(LOAD).and_then(|rate| rate.parse().ok()).unwrap_or(RATE);
            self.load = (rate > 0).then(|| AbortOnDropHandle::new(tokio::spawn(send_load(address, rate))));
        }
    }

    fn emit(&self, reason: &str, message: &str) {
        event::emit(&self.shared.client, &self.shared.identity.name, &self.pod, reason, message);
    }

    async fn finish(&mut self, grace: Duration) {
        self.emit("Killing", &format!("Stopping container {}", self.container.name));
        self.load = None;
        let drains = self.member.as_ref().is_some_and(|member| !member.behaviour().undrained);
        if let Some(server) = self.server.take() {
            self.status.set_ready(false);
            self.show().await;
            if drains {
                server.drain(grace).await;
            }
        }
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        while let Err(error) = self.api.delete(&self.pod.name_any(), &parameters).await {
            if is_gone(&error) {
                return;
            }
            eprintln!("node: {}: {error}", self.pod.name_any());
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Reports the status until the API server has it.
    async fn show(&self) {
        let patch = Patch::Strategic(self.status.patch(&self.pod));
        while let Err(error) = self.api.patch_status(&self.pod.name_any(), &PatchParams::default(), &patch).await {
            if is_gone(&error) {
                return;
            }
            eprintln!("node: {}: {error}", self.pod.name_any());
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Not found, or the name has another pod by now.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

async fn check(probe: &Probe, address: SocketAddr) -> Result<(), String> {
    match &probe.http_get {
        Some(action) => {
            let port = match &action.port {
                IntOrString::Int(port) => u16::try_from(*port).unwrap_or(address.port()),
                // The container has one port that anything listens on, whatever its name.
                IntOrString::String(_) => address.port(),
            };
            let target = SocketAddr::new(address.ip(), port);
            let path = action.path.as_deref().unwrap_or("/");
            match http::get(target, path).await {
                Ok((200..=399, _)) => Ok(()),
                Ok((status, _)) => Err(format!("HTTP probe failed with statuscode: {status}")),
                Err(error) => Err(error.to_string()),
            }
        }
        None => tokio::net::TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string()),
    }
}

/// Real requests at a steady rate; a slow answer does not hold the next request back.
async fn send_load(address: SocketAddr, rate: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        ticks.tick().await;
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            tokio::spawn(async move {
                // The pod counts its answers; who asked does not care.
                let _ = timeout(Duration::from_secs(30), http::get(address, "/")).await;
                drop(place);
            });
        }
    }
}
