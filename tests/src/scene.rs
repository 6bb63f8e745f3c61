//! A release to be watched on the rig: services that serve, a plan, and the program that carries it out.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::rig::{AuditEntry, Namespace, Prometheus};
use crate::routes::{ROUTERS, resource, route};

const PATIENCE: Duration = Duration::from_secs(300);
/// As whom `moodify` works where the users are the rig's own: allowed what `moodify rbac` says, and nothing else.
const DEPLOYER: &str = "dave";

/// Services in a namespace, a Prometheus that watches them, and a plan that releases a new version of them.
#[derive(Debug)]
pub struct Scene<'a> {
    namespace: &'a Namespace,
    /// What watches the pods.
    pub prometheus: Prometheus,
    dir: TempDir,
    /// The namespace that keeps the runs, if one does.
    cluster: Option<String>,
    /// As whom `moodify` works.
    user: &'static str,
    /// The plan; change it before it is run.
    pub plan: Value,
}

/// A program that was started and not yet waited for.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The events so far.
    pub events: Vec<Value>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// Its events.
    pub events: Vec<Value>,
    /// What it said.
    pub stderr: String,
}

impl<'a> Scene<'a> {
    /// Deploys version `v1` of each service (5 replicas, with a routing object), and writes a plan that releases the image
    /// with the given tag of each: canary 10, 50, 100 % with bakes of a few seconds.
    ///
    /// `None`, said aloud, if there is no Prometheus.
    ///
    /// # Panics
    ///
    /// When the cluster does not take it.
    pub async fn new(namespace: &'a Namespace, services: &[(&str, &str)], router: &str) -> Option<Self> {
        Self::over(namespace, "v1", services, router).await
    }

    /// The same with another tag of the version that is there before.
    ///
    /// # Panics
    ///
    /// As [`Scene::new`].
    pub async fn over(namespace: &'a Namespace, before: &str, services: &[(&str, &str)], router: &str) -> Option<Self> {
        let prometheus = namespace.prometheus().await?;
        let mut listed = Vec::new();
        for (name, tag) in services {
            namespace.deploy(name, &format!("registry.test/{name}:{before}"), 5).await;
            let mut traffic = json!({"router": router, "service": name});
            if ROUTERS.contains(&router) {
                namespace.apply(&route(router, name, name).to_string()).await;
                traffic["route"] = json!(name);
            }
            let image = format!("registry.test/{name}:{tag}");
            listed.push(json!({"name": name, "workload": name, "image": image, "traffic": traffic}));
        }
        for (name, _) in services {
            namespace.wait_ready(name).await;
        }
        let metrics = json!([
            {"name": "error-rate", "source": "prometheus", "fail": "> 5%", "tolerance": 1, "window": "5s"},
            {"name": "latency-p95", "source": "prometheus", "fail": "> 5s", "tolerance": 1, "window": "5s"},
            {"name": "crash-loop", "source": "pods", "fail": "> 0"},
            {"name": "unhealthy", "source": "pods", "fail": "> 50%"},
        ]);
        let no_data = json!({"after": 8, "hold": "60s", "then": "attention"});
        let analysis = json!({"interval": "1s", "no-data": no_data, "metrics": metrics});
        let canary = json!({"weights": [10, 50, 100], "bake": "10s", "ready-deadline": "40s", "analysis": analysis});
        let user = if namespace.rig().state().is_own() { DEPLOYER } else { "admin" };
        let plan = json!({
            "name": "release",
            "environment": {"name": "production", "kind": "production", "namespace": namespace.name()},
            "release": {"version": "v2", "services": listed},
            "backends": {
                "kubernetes": {"kubeconfig": namespace.kubeconfig(user)},
                "prometheus": {"url": prometheus.url()},
            },
            "phases": [{"name": "rollout", "strategy": {"canary": canary}}],
        });
        let dir = TempDir::new().expect("a temporary directory");
        let scene = Self { namespace, prometheus, dir, cluster: None, user, plan };
        scene.grant().await;
        Some(scene)
    }

    /// The settings of the canary strategy, to be changed.
    pub fn canary(&mut self) -> &mut Value {
        &mut self.plan["phases"][0]["strategy"]["canary"]
    }

    /// Lets two Deployments take turns, with the settings of the canary; what served before stays for `keep`.
    ///
    /// # Panics
    ///
    /// When the cluster does not allow it.
    pub async fn take_turns(&mut self, keep: &str) {
        let mut settings = self.canary().take();
        settings["keep"] = keep.into();
        self.plan["phases"][0]["strategy"] = json!({"blue-green": settings});
        self.grant().await;
    }

    /// The settings of the strategy of [`Scene::take_turns`], to be changed.
    pub fn turns(&mut self) -> &mut Value {
        &mut self.plan["phases"][0]["strategy"]["blue-green"]
    }

    /// Keeps the runs in the namespace, not in a directory.
    ///
    /// # Panics
    ///
    /// When the cluster does not allow it.
    pub async fn keep_in_cluster(&mut self) {
        self.cluster = Some(self.namespace.name().to_owned());
        self.grant().await;
    }

    /// Allows `moodify` what it says that the plan needs as it is now, and nothing else. Where the users are not the
    /// rig's own, it works as the administrator.
    ///
    /// # Panics
    ///
    /// When the cluster does not allow it.
    pub async fn grant(&self) {
        if self.user != DEPLOYER {
            return;
        }
        let plan = self.plan_file();
        let output = self.run(&["rbac", plan.to_str().expect("a path of text"), "--user", DEPLOYER]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let roles = String::from_utf8(output.stdout).expect("it is text");
        self.namespace.apply(&roles).await;
        // The API server learns of it a moment later.
        let mut wanted = vec![("list", "events".to_owned())];
        for service in self.plan["release"]["services"].as_array().expect("services") {
            let name = |value: &Value| value.as_str().map(str::to_owned);
            let kind = service["kind"].as_str().unwrap_or("deployment").replace('-', "");
            wanted.extend(name(&service["workload"]).map(|name| ("patch", format!("{kind}s.apps/{name}"))));
            let router = service["traffic"]["router"].as_str().expect("a router");
            let route = name(&service["traffic"]["route"]);
            if router == "http-route" && self.plan["phases"][0]["strategy"].pointer("/canary/mirror").is_some() {
                wanted.push(("get", "gatewayclasses.gateway.networking.k8s.io".to_owned()));
            }
            if matches!(router, "http-route" | "grpc-route") && service["kind"].is_null() {
                wanted.push(("watch", "gateways.gateway.networking.k8s.io".to_owned()));
            }
            if router == "traefik" && self.plan["phases"][0]["strategy"].pointer("/canary/mirror").is_some() {
                let own = service["traffic"]["service"].as_str().expect("a Service");
                wanted.push(("delete", format!("{}/{own}-canary-mirror", resource(router))));
            }
            if router == "traefik" && self.plan["phases"][0]["strategy"].pointer("/canary/testers").is_some() {
                let own = route.iter().map(|name| ("delete", format!("ingressroutes.traefik.io/{name}-testers")));
                wanted.extend(own);
            }
            wanted.extend(route.map(|name| match router {
                "ingress-nginx" => ("delete", format!("{}/{name}-canary", resource(router))),
                _ => ("patch", format!("{}/{name}", resource(router))),
            }));
        }
        if self.cluster.is_some() {
            wanted.push(("delete", "leases.coordination.k8s.io".to_owned()));
        }
        for (verb, what) in wanted {
            let ask = ["auth", "can-i", verb, &what, "--as", DEPLOYER, "--namespace", self.namespace.name()];
            let begun = Instant::now();
            while !self.namespace.rig().try_kubectl("admin", &ask, "").await.status.success() {
                assert!(begun.elapsed() < PATIENCE, "{DEPLOYER} may not {verb} {what}, by {roles}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Where the journal is, unless it is in the cluster.
    pub fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// Writes the plan, and says where.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn plan_file(&self) -> PathBuf {
        let path = self.dir.path().join("plan.json");
        std::fs::write(&path, format!("{:#}", self.plan)).expect("the plan can be written");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(moodify());
        match &self.cluster {
            Some(namespace) => {
                command.env("KUBECONFIG", self.namespace.kubeconfig(self.user)).arg("--cluster").arg(namespace)
            }
            None => command.arg("--journal").arg(self.journal()),
        };
        command.args(["--output", "json"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Starts `moodify` with these arguments, its output being events.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().expect("moodify can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Running { child, lines, events: Vec::new() }
    }

    /// Starts the release.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start_release(&self) -> Running {
        let plan = self.plan_file();
        self.start(&["run", plan.to_str().expect("a path of text")])
    }

    /// Carries the release out.
    ///
    /// # Panics
    ///
    /// When it cannot be started or never ends.
    pub async fn release(&self) -> Finished {
        self.start_release().finish().await
    }

    /// Lets moodify leave what takes turns.
    ///
    /// # Panics
    ///
    /// When it cannot be started or never ends.
    pub async fn leave(&self) -> Finished {
        let plan = self.plan_file();
        self.start(&["leave", plan.to_str().expect("a path of text"), "--reason", "we stay with kubectl"])
            .finish()
            .await
    }

    /// Runs `moodify` to its end, whatever it prints.
    ///
    /// # Panics
    ///
    /// When it cannot be started or never ends.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let output = timeout(PATIENCE, self.command(arguments).output()).await;
        output.expect("moodify ends").expect("moodify can be started")
    }

    /// The image and the replicas of a Deployment; `None` if there is none.
    ///
    /// # Panics
    ///
    /// When the API server does not answer.
    pub async fn workload(&self, name: &str) -> Option<(String, i32)> {
        let api: Api<Deployment> = self.namespace.api().await;
        let found = api.get_opt(name).await.expect("the API server answers")?;
        let spec = found.spec?;
        let image = spec.template.spec?.containers.first()?.image.clone()?;
        Some((image, spec.replicas?))
    }

    /// What somebody wrote into the routing object of a service: annotations (without kubectl's own) and spec.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn routing(&self, router: &str, name: &str) -> (Value, Value) {
        let text = self.namespace.kubectl(&["get", resource(router), name, "--output", "json"]).await;
        let mut object: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let annotations = object["metadata"]["annotations"].as_object_mut().map(std::mem::take);
        let mut annotations = annotations.unwrap_or_default();
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        (annotations.into(), object["spec"].take())
    }

    /// The backends and weights of the rules of a service's `HTTPRoute`.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn route(&self, name: &str) -> Value {
        self.routing("http-route", name).await.1["rules"].take()
    }

    /// The requests of `moodify` in the namespace that changed something, as `patch httproutes`; `None`, said aloud, where
    /// there is no audit log.
    ///
    /// # Panics
    ///
    /// When the log cannot be read.
    pub fn writes(&self) -> Option<Vec<String>> {
        let ours = |e: &AuditEntry| e.user_agent.starts_with("moodify/") && e.is_write();
        let writes = self.namespace.ledger()?.into_iter().filter(ours);
        Some(writes.map(|e| format!("{} {}", e.verb, e.resource)).collect())
    }

    /// Fails unless every service runs `tag`, with all of its replicas, all of its traffic, and nothing of ours is left.
    ///
    /// # Panics
    ///
    /// When it is otherwise.
    pub async fn assert_serves(&self, tag: &str) {
        for service in self.plan["release"]["services"].as_array().expect("services") {
            let name = service["name"].as_str().expect("a name");
            let image = format!("registry.test/{name}:{tag}");
            assert_eq!(self.workload(name).await, Some((image.clone(), 5)), "{name}");
            if service["traffic"]["route"].is_string() {
                let router = service["traffic"]["router"].as_str().expect("a router");
                let (annotations, spec) = self.routing(router, name).await;
                let before = route(router, name, name);
                assert_eq!(spec, before["spec"], "the route of {name} is as it was");
                let none = json!({});
                let written = before["metadata"].get("annotations").unwrap_or(&none);
                assert_eq!(annotations, *written, "the annotations of the route of {name} are as they were");
            }
            self.namespace.wait_ready(name).await;
        }
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=moodify");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let deployments: Api<Deployment> = self.namespace.api().await;
            let services: Api<Service> = self.namespace.api().await;
            let ingresses: Api<Ingress> = self.namespace.api().await;
            let mut left: Vec<String> = Vec::new();
            left.extend(deployments.list(&ours).await.expect("a list").iter().map(|d| d.name_any()));
            left.extend(services.list(&ours).await.expect("a list").iter().map(|s| s.name_any()));
            left.extend(ingresses.list(&ours).await.expect("a list").iter().map(|i| i.name_any()));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Running {
    /// The process id.
    ///
    /// # Panics
    ///
    /// When it has ended.
    pub fn pid(&self) -> i32 {
        self.child.id().and_then(|id| id.try_into().ok()).expect("it runs")
    }

    /// Reads events until one satisfies `wanted`, and returns it.
    ///
    /// # Panics
    ///
    /// When the program ends or too much time passes before.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let search = async {
            while let Some(line) = self.lines.next_line().await.expect("the output can be read") {
                let event: Value = serde_json::from_str(&line).expect("each line is an event");
                self.events.push(event.clone());
                if wanted(&event) {
                    return event;
                }
            }
            let mut said = String::new();
            if let Some(stderr) = self.child.stderr.as_mut() {
                let _ = stderr.read_to_string(&mut said).await;
            }
            panic!("moodify ended before: {what}\n{said}\n{:#?}", self.events.last());
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    /// Reads events until a step of this name begins.
    ///
    /// # Panics
    ///
    /// As [`Running::until`].
    pub async fn until_step(&mut self, step: &str) {
        self.until(step, |event| event["event"] == "step-started" && event["step"] == step).await;
    }

    /// Kills it as nothing can be killed harder.
    ///
    /// # Panics
    ///
    /// When it cannot be waited for.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When that never comes.
    pub async fn finish(mut self) -> Finished {
        let rest = async {
            while let Some(line) = self.lines.next_line().await.expect("the output can be read") {
                self.events.push(serde_json::from_str(&line).expect("each line is an event"));
            }
            let mut stderr = String::new();
            if let Some(mut pipe) = self.child.stderr.take() {
                let _ = pipe.read_to_string(&mut stderr).await;
            }
            let status = self.child.wait().await.expect("it can be waited for");
            Finished { code: status.code().unwrap_or(-1), events: std::mem::take(&mut self.events), stderr }
        };
        timeout(PATIENCE, rest).await.expect("moodify ends")
    }
}

impl Finished {
    /// The summary of the one terminal event, and that it is the last.
    ///
    /// # Panics
    ///
    /// When there is none, or more than one.
    pub fn ended(&self, outcome: &str) -> String {
        let ends: Vec<&Value> = self.events.iter().filter(|e| e["event"] == "run-ended").collect();
        assert_eq!(ends.len(), 1, "exactly one terminal event: {}", self.stderr);
        assert_eq!(self.events.last(), Some(ends[0]));
        assert_eq!(ends[0]["outcome"], outcome, "{:#}\n{}", ends[0], self.stderr);
        ends[0]["summary"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether a step of this name began.
    pub fn began(&self, step: &str) -> bool {
        self.events.iter().any(|e| e["event"] == "step-started" && e["step"] == step)
    }
}

/// The program under test, built beside this one.
///
/// # Panics
///
/// When it is not there.
pub fn moodify() -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    let target = this.ancestors().find(|dir| dir.join("moodify").is_file()).map(Path::to_owned);
    target.expect("moodify is built beside the tests: cargo build --workspace --bins").join("moodify")
}
