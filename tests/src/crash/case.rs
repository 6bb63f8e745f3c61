//! One release that is killed and carried on.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use moodify_core::backend::Backends;
use moodify_core::journal::{Command, CommandKind, Entry, FileJournal, JournalStore as _, Outcome, Record, fold};
use moodify_core::model::Weight;
use moodify_core::strategy::split;
use moodify_core::{Engine, RunId};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};

use super::stage::Stage;
use super::story::{CAPACITY, Story, TOLERANCE};
use super::world::{GONE, History, canary_weight, http_route, ingress};
use super::{Point, label};
use crate::scene::moodify;
use crate::{BoxError, program, wall_clock};

/// How long one process may take.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a process may take to own the run of a dead one. The lease of the dead is twice as long.
const TAKEOVER: Duration = Duration::from_secs(30);

/// Where a release is killed, and its successor, if that is killed too.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) story: &'static Story,
    pub(super) first: Point,
    pub(super) second: Option<Point>,
}

/// How a case came out.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) namespace: String,
    pub(super) outcome: Option<Outcome>,
    /// What the journal holds in the end.
    pub(super) entries: Vec<Entry>,
    /// What became of the objects.
    pub(super) history: History,
    /// What the first process told.
    pub(super) lines: Vec<String>,
    pub(super) begun: Timestamp,
    /// When the last process was started, and what it took to own the run.
    pub(super) resumed: Option<(Timestamp, Duration)>,
    pub(super) ended: Timestamp,
}

/// The journal of a case.
struct Kept {
    store: FileJournal,
    path: PathBuf,
    /// The run that completed and is taken back.
    released: Option<RunId>,
}

impl Kept {
    /// The run that is killed, once there is one.
    async fn run(&self) -> Result<Option<RunId>, BoxError> {
        Ok(self.store.list().await?.into_iter().find(|run| Some(run) != self.released.as_ref()))
    }

    async fn entries(&self) -> Result<Vec<Entry>, BoxError> {
        match self.run().await? {
            Some(run) => Ok(self.store.load(&run).await?),
            None => Ok(Vec::new()),
        }
    }
}

/// What a process said, and how it ended.
struct Said {
    lines: Vec<String>,
    killed: bool,
    code: Option<i32>,
    stderr: String,
}

/// Runs the driver or `moodify` to its end, whatever that is; `heard` is told every line.
async fn run(
    mut command: tokio::process::Command,
    mut heard: impl AsyncFnMut(&str) -> Result<(), BoxError>,
) -> Result<Said, BoxError> {
    let work = async {
        let mut child = command.spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut err = child.stderr.take().ok_or("no errors")?;
        let (mut lines, mut stderr) = (Vec::new(), String::new());
        let listen = async {
            while let Some(line) = out.next_line().await? {
                heard(&line).await?;
                lines.push(line);
            }
            Ok::<_, BoxError>(())
        };
        let (listened, read) = tokio::join!(listen, err.read_to_string(&mut stderr));
        listened?;
        read?;
        let status = child.wait().await?;
        Ok(Said { lines, killed: status.signal() == Some(9), code: status.code(), stderr })
    };
    timeout(PATIENCE, work).await.map_err(|_| format!("it took more than {PATIENCE:?}"))?
}

impl Case {
    /// Plays it: release, kill, resume; then everything is compared, and what became of it with `usual`.
    pub(super) async fn play(&self, stage: &mut Stage, usual: Option<&History>) -> Result<Played, BoxError> {
        let dir = TempDir::new()?;
        let path = dir.path().join("journal");
        let mut kept = Kept { store: FileJournal::open(&path)?, path, released: None };
        match self.play_in(stage, usual, &mut kept, &dir.path().join("plan.json")).await {
            Ok(played) => Ok(played),
            Err(e) => {
                let told: Vec<String> =
                    kept.entries().await?.iter().map(|e| format!("{} {}", e.time, label(e))).collect();
                Err(format!("{e}\n    {}", told.join("\n    ")).into())
            }
        }
    }

    async fn play_in(
        &self,
        stage: &mut Stage,
        usual: Option<&History>,
        kept: &mut Kept,
        plan: &Path,
    ) -> Result<Played, BoxError> {
        std::fs::write(plan, stage.next_version().to_string())?;
        let mut order = ["run", text(plan)].map(str::to_owned);
        if self.story.undo {
            let (before, served) = (stage.look().await?, stage.serves());
            self.drive(kept, &order, &Point::never()).await?;
            stage.settles(&before, Some(Outcome::Completed)).await?;
            let released = kept.run().await?.ok_or("there is no run that released it")?;
            stage.take_back(served);
            order = ["undo", released.as_str()].map(str::to_owned);
            kept.released = Some(released);
        }
        let served = stage.serves();
        let before = stage.look().await?;
        let begun = wall_clock();

        let said = self.drive(kept, &order, &self.first).await?;
        self.at_rest(stage, kept).await?;
        let mut processes = 1;
        if let (Some(point), Some(run)) = (&self.second, kept.run().await?) {
            self.drive(kept, &["resume", run.as_str()].map(str::to_owned), point).await?;
            self.at_rest(stage, kept).await?;
            processes += 1;
        }

        let (entries, resumed) = self.resume(kept).await?;
        let outcome = match entries.as_slice() {
            [] => None,
            entries => Some(check_journal(entries, self.story, processes + usize::from(resumed.is_some()))?),
        };
        stage.settles(&before, outcome).await?;
        // The watch tells a moment later.
        let deadline = Instant::now() + Duration::from_secs(5);
        let history = loop {
            let history = stage.told(stage.watch.since(begun), served);
            match check_history(&history, self.story, outcome, usual) {
                Ok(()) => break history,
                Err(e) if Instant::now() > deadline => return Err(e),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        check_moments(&stage.watch.moments(begun), &entries)?;
        Ok(Played {
            namespace: stage.namespace.name().to_owned(),
            outcome,
            entries,
            history,
            lines: said.lines,
            begun,
            resumed,
            ended: wall_clock(),
        })
    }

    /// Runs the driver until it kills itself; gives the abort where the story has one.
    async fn drive(&self, kept: &Kept, order: &[String; 2], point: &Point) -> Result<Said, BoxError> {
        let [order, what] = order;
        let mut command = Stage::command(&program("crasher"));
        command.args([order, text(&kept.path), what]).arg(serde_json::to_string(point)?);
        let cue = self.story.abort.filter(|_| order == "run").map(|record| format!("record {record}"));
        let said = run(command, async |line| {
            if cue.as_deref() == Some(line) {
                // So that the bake has something to write down about itself when it ends, in each case.
                sleep(Duration::from_millis(1500)).await;
                let run = kept.run().await?.ok_or("there is no run")?;
                let engine = Engine::new(std::sync::Arc::new(kept.store.clone()), Backends::default());
                let abort = Command::new(CommandKind::Abort, "the sweep", "the head of support asked for it");
                engine.command(&run, &abort).await?;
            }
            Ok(())
        });
        let said = said.await?;
        if said.killed != (*point != Point::never()) {
            let last = said.lines.last().map_or("nothing", String::as_str);
            return Err(format!("the driver was not killed {point}: {last}; {}", said.stderr.trim()).into());
        }
        Ok(said)
    }

    /// After a crash nothing is further than the journal allows.
    async fn at_rest(&self, stage: &Stage, kept: &Kept) -> Result<(), BoxError> {
        let allowed = Allowed::by(&kept.entries().await?);
        let client = &stage.client;
        let namespace = stage.namespace.name();
        for (name, _) in self.story.services {
            let (kind, route) = match self.story.router {
                "ingress-nginx" => (ingress(), format!("{name}-canary")),
                _ => (http_route(), (*name).to_owned()),
            };
            let routes = kube::Api::<kube::api::DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
            if let Some(route) = routes.get_opt(&route).await? {
                let (is, may) = (canary_weight(&route), u64::from(allowed.weight.percent()));
                if is > may {
                    return Err(format!("{name}: the canary has {is} % where the journal allows {may} %").into());
                }
            }
            let deployments =
                kube::Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(client.clone(), namespace);
            let replicas = async |name: &str| {
                let found = deployments.get_opt(name).await?;
                Ok::<_, BoxError>(found.and_then(|d| Some((d.spec.as_ref()?.replicas?, image_of(&d)?))))
            };
            let (stable, canary) = (replicas(name).await?, replicas(&self.story.canary(name)).await?);
            if canary.is_some() && !allowed.deploy {
                return Err(format!("{name}: there is a canary that the journal knows nothing of").into());
            }
            let (count, image) = stable.ok_or_else(|| format!("{name} is gone"))?;
            let old = Story::image(name, &format!("v{}", stage.serves()));
            if image != old && !allowed.promote {
                return Err(format!("{name} runs {image} before the journal says that it is promoted").into());
            }
            let services = kube::Api::<k8s_openapi::api::core::v1::Service>::namespaced(client.clone(), namespace);
            let selector = services.get(name).await?.spec.and_then(|spec| spec.selector).unwrap_or_default();
            if selector.values().any(|value| value.ends_with("-green")) && !allowed.promote {
                return Err(format!("the Service {name} leads to the new version before the journal says so").into());
            }
            let canaries = canary.map_or(0, |(count, _)| count);
            if count + canaries < i32::try_from(CAPACITY)? {
                return Err(format!("{name}: {count} and {canaries} instances are less than there were").into());
            }
            let share = f64::from(canaries) / f64::from(count + canaries);
            if self.story.router == "replica-ratio" && share > split(CAPACITY, allowed.ratio).share() + 0.001 {
                return Err(format!("{name}: {canaries} of {} instances are canaries", count + canaries).into());
            }
        }
        Ok(())
    }

    /// Lets `moodify resume` carry the run on, if there is one that is not over.
    async fn resume(&self, kept: &Kept) -> Result<(Vec<Entry>, Option<(Timestamp, Duration)>), BoxError> {
        let Some(run_id) = kept.run().await? else { return Ok((Vec::new(), None)) };
        let known = kept.entries().await?;
        if fold(&known)?.ended.is_some() {
            return Ok((known, None));
        }
        let mut command = Stage::command(&moodify());
        command.args(["--journal", text(&kept.path), "--output", "json", "resume", run_id.as_str()]);
        let (at, begun) = (wall_clock(), Instant::now());
        let said = run(command, async |_| Ok(())).await?;
        let entries = kept.entries().await?;
        let code = match self.story.outcome {
            Outcome::Completed => 0,
            _ => 4,
        };
        if said.code != Some(code) {
            let end = entries.last().map(|e| format!("{:?}", e.record)).unwrap_or_default();
            return Err(format!(
                "moodify resume ended with {:?} after {:?}: {end} {}",
                said.code,
                begun.elapsed(),
                said.stderr
            )
            .into());
        }
        let first = entries.get(known.len()).ok_or("it wrote nothing down")?;
        let took = Duration::try_from(first.time.duration_since(at)).unwrap_or_default();
        if !matches!(first.record, Record::Owned { .. }) || took > TAKEOVER {
            return Err(format!("{} came {took:?} after the start of the new process", label(first)).into());
        }
        Ok((entries, Some((at, took))))
    }
}

/// What a journal allows.
struct Allowed {
    /// By a route.
    weight: Weight,
    /// By the number of instances: a canary that is there has its share.
    ratio: Weight,
    deploy: bool,
    promote: bool,
}

impl Allowed {
    fn by(entries: &[Entry]) -> Self {
        let mut allowed = Self { weight: Weight::ZERO, ratio: Weight::ZERO, deploy: false, promote: false };
        for entry in entries {
            match &entry.record {
                Record::Checkpoint { step, data } => {
                    let weight = serde_json::from_value(data["weight"].clone()).unwrap_or(Weight::ZERO);
                    if step.contains("-shift-") {
                        (allowed.weight, allowed.ratio) = (weight, weight);
                    } else if step.ends_with("-deploy") {
                        (allowed.deploy, allowed.ratio) = (true, weight);
                    }
                }
                Record::StepStarted { step, .. }
                    if ["-promote", "-roll", "-hand-over"].iter().any(|last| step.ends_with(last)) =>
                {
                    allowed.promote = true;
                }
                _ => {}
            }
        }
        allowed
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn image_of(deployment: &k8s_openapi::api::apps::v1::Deployment) -> Option<String> {
    deployment.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.clone()
}

/// The journal is whole, has one end and that of the story, and counts on over crashes.
fn check_journal(entries: &[Entry], story: &Story, processes: usize) -> Result<Outcome, BoxError> {
    let ends: Vec<_> = entries.iter().filter(|e| matches!(e.record, Record::Ended { .. })).collect();
    let [end] = ends.as_slice() else { return Err(format!("it ended {} times", ends.len()).into()) };
    let Record::Ended { outcome, summary } = &end.record else { return Err("no end".into()) };
    if *outcome != story.outcome {
        return Err(format!("it ended as {outcome}: {summary}").into());
    }
    let owners = entries.iter().filter(|e| matches!(e.record, Record::Owned { .. })).count();
    if owners > processes {
        return Err(format!("{owners} owners, but {processes} processes").into());
    }
    let mut counts = std::collections::BTreeMap::new();
    let mut failures = 0;
    for entry in entries {
        // Everything is bad from the first measurement on: what was counted before a crash is not counted afresh.
        if let Record::Checkpoint { data, .. } = &entry.record
            && story.errors
            && let Some(counted) = data["failures"].as_object()
        {
            let now = counted.values().filter_map(serde_json::Value::as_u64).max().unwrap_or(0);
            if now < failures {
                return Err(
                    format!("{failures} bad measurements were counted, and after record {} {now}", entry.seq).into()
                );
            }
            failures = now;
        }
        let (what, attempt) = match &entry.record {
            Record::StepStarted { step, attempt, .. } => (format!("step {step}"), *attempt),
            Record::UndoStarted { step, attempt } => (format!("undo of {step}"), *attempt),
            _ => continue,
        };
        let count: &mut u32 = counts.entry(what.clone()).or_default();
        *count += 1;
        if *count != attempt {
            return Err(format!("{what}: attempt {count} is counted as {attempt}").into());
        }
    }
    // The last of them is not always written down as a count: it ends the bake.
    let all = format!("{} times in a row", TOLERANCE + 1);
    if story.errors && !summary.contains(&all) {
        return Err(format!("it was not taken back by {} bad measurements: {summary}", TOLERANCE + 1).into());
    }
    Ok(*outcome)
}

/// Each canary got the story's weights in their order, and no other; and every object became what it always does.
fn check_history(
    history: &History,
    story: &Story,
    outcome: Option<Outcome>,
    usual: Option<&History>,
) -> Result<(), BoxError> {
    if let (Some(usual), Some(_)) = (usual, outcome)
        && history != usual
    {
        return Err(format!("what became of the objects is {history:#?}, not {usual:#?}").into());
    }
    for (object, states) in history.iter().filter(|(object, _)| is_route(object)) {
        let weights: Vec<&str> = states.iter().filter_map(|state| state.split(' ').next()).collect();
        // The canary's own comes with the first weight and goes after the last; nobody writes the other one.
        let (first, last, given) = match object.as_str() {
            canary if canary.ends_with("-canary") => (None, GONE, story.weights),
            ingress if ingress.starts_with("Ingress/") => (None, "0", &[][..]),
            _ => (Some("0"), "0", story.weights),
        };
        let given = given.iter().map(u8::to_string).chain([last.to_owned()]);
        let mut wanted: Vec<String> = first.map(str::to_owned).into_iter().chain(given).collect();
        wanted.dedup();
        if weights != wanted && outcome.is_some() {
            return Err(format!("{object} gave the canary {weights:?} %, not {wanted:?}").into());
        }
        if states.first() != states.last() && last != GONE {
            return Err(format!("{object} ended as {:?}", states.last()).into());
        }
    }
    Ok(())
}

fn is_route(object: &str) -> bool {
    object.starts_with("HTTPRoute/") || object.starts_with("Ingress/")
}

/// At no time had a canary more than the journal allowed by then.
fn check_moments(moments: &[(Timestamp, String, String)], entries: &[Entry]) -> Result<(), BoxError> {
    for (at, object, state) in moments.iter().filter(|(_, object, state)| is_route(object) && state != GONE) {
        let weight: u8 = state.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(100);
        let by_then = entries.iter().take_while(|entry| entry.time <= *at).cloned().collect::<Vec<_>>();
        let allowed = Allowed::by(&by_then).weight.percent();
        if weight > allowed {
            return Err(format!("{object}: {weight} % at {at}, where the journal allowed {allowed} %").into());
        }
    }
    Ok(())
}
