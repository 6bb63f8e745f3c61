use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::services::{ByService, check, chosen, planned, target};
use super::{Action, CheckContext, Observed, StepContext, kinds};
use crate::analysis::{Analysis, Judge, MetricCheck, MetricStatus, NoDataThen, Sample, metrics, sources};
use crate::backend::{Granularity, MetricQuery, Pods, Traffic};
use crate::clock;
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::event::ProgressKind;
use crate::model::{Layout, Period, Plan, Service, Target, Track, Weight, WorkloadKind};
use crate::mutation::{self, Mutation};

/// The parameters of a `bake` step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BakeParams {
    /// The weight that is in force.
    pub weight: Weight,
    /// How long the new version is watched. Only time counts in which it was really watched.
    pub period: Period,
    /// What is measured, and what it means.
    #[serde(default)]
    pub analysis: Analysis,
    /// The services by name; left out, all of them: one's breach is the breach of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// Watches the new version for a time. A breach ends it at once. While there is no data, or a person paused the run,
/// the time stands still; and it never ends well before every metric was measured and found good.
#[derive(Debug)]
pub(super) struct Bake;

/// What survives a crash.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Baked {
    /// The time that counted.
    elapsed: Period,
    /// How long there has been no data, if there is none.
    #[serde(default)]
    held: Period,
    /// Bad measurements in a row, by service and metric.
    #[serde(default)]
    failures: BTreeMap<String, u32>,
}

/// How often time is shown to who looks on; also how far a wait may overrun and still count as watched.
const TICK: Duration = Duration::from_secs(1);
const LEFT: &str = "moodify leaves it as it is; decide what shall be, then release or roll back by hand";
/// The longest that one question to a metric source may take.
const LONGEST_QUERY: Duration = Duration::from_secs(10);

/// How often the time that counted is written down: the most that a crash loses.
fn note_every(period: Duration) -> Duration {
    (period / 30).clamp(Duration::from_secs(30), Duration::from_secs(300))
}

/// Something seen while baking.
enum Seen {
    Pods(usize, Pods),
    /// Whether it is there.
    Canary(usize, bool),
    Traffic(usize, Traffic),
    Sample(usize, Sample),
}

fn query(check: &MetricCheck, target: &Target, workload: &str, plan: &Plan) -> MetricQuery {
    let mut query = MetricQuery::new(&check.name, target.clone(), Track::Canary, workload, &plan.release.version);
    query.query.clone_from(&check.query);
    query.window = check.window;
    query
}

/// What the pods say about one of the metrics that are read from them; `None` if it is not one of those.
fn pod_sample(metric: &str, pods: &Pods) -> Option<Sample> {
    let count = |fits: fn(&crate::backend::PodState) -> bool| pods.iter().filter(|p| fits(p)).count() as f64;
    let value = match metric {
        metrics::CRASH_LOOP => count(|p| p.crash_looping),
        metrics::RESTARTS => pods.iter().map(|p| f64::from(p.restarts)).sum(),
        metrics::UNHEALTHY if pods.is_empty() => return Some(Sample::Empty),
        metrics::UNHEALTHY => count(|p| !p.ready && p.was_ready) / pods.len() as f64,
        _ => return None,
    };
    Some(Sample::Value(value))
}

/// Asks one metric source once; every way to fail is a sample too.
async fn ask(cx: &StepContext, judge: usize, source: &str, query: MetricQuery) -> Seen {
    let asked = async {
        let source = cx.backends().metric_source(source)?;
        let call = cx.call()?.at_most(LONGEST_QUERY);
        call.run("engine", "ask the metric source", source.query(&call, &query)).await
    };
    let sample = match asked.await {
        Ok(measurement) => measurement.value.map_or(Sample::Empty, Sample::Value),
        Err(e) => Sample::Error(e.to_string()),
    };
    Seen::Sample(judge, sample)
}

/// Everything that is seen while baking, from watches that last and from questions that are answered once.
type Streams<'a> = SelectAll<BoxStream<'a, Result<Seen>>>;

/// What divided the traffic was there when the bake began: where it is not any more, somebody took it away.
fn gone(e: Error) -> Error {
    if e.kind() != ErrorKind::NotFound {
        return e;
    }
    let message = format!("somebody took away what divides the traffic: {}", e.message());
    Error::new(ErrorKind::Drift, "analysis", "watch the new version", message).on(e.target()).hint(LEFT)
}

/// One bake going on.
struct Watch<'a> {
    cx: &'a StepContext,
    params: &'a BakeParams,
    services: Vec<&'a Service>,
    /// By service, then by metric.
    judges: Vec<(usize, Judge<'a>)>,
    /// Of the new version, by service.
    workloads: Vec<String>,
    elapsed: Duration,
    held_since: Option<Instant>,
    noted: Instant,
    failures: BTreeMap<String, u32>,
    /// By service.
    pods_seen: Vec<Option<Pods>>,
}

/// Begins to watch. Who does not answer must not keep a version in service that nobody watches.
async fn opened<T>(call: &CallContext, watch: impl Future<Output = Result<T>>) -> Result<T> {
    call.at_most(LONGEST_QUERY).run("engine", "watch the new version", watch).await
}

impl<'a> Watch<'a> {
    /// From where the last attempt wrote down that it was.
    fn begin(cx: &'a StepContext, params: &'a BakeParams) -> Result<Self> {
        let services = chosen(&params.services, cx.plan())?;
        let baked = cx.last_checkpoint::<Baked>().unwrap_or_default();
        let judge = |(i, service): (usize, &&Service)| {
            let of = service.name.as_str();
            let judges = params.analysis.metrics.iter().map(|check| {
                let failures = baked.failures.get(&format!("{of}/{}", check.name)).copied().unwrap_or_default();
                (i, Judge::new(of, check).with_failures(failures))
            });
            judges.collect::<Vec<_>>()
        };
        let unwatched = match mutation::on(Mutation::CountUnwatchedTime) && cx.attempt() > 1 {
            true => clock::since(cx.created(), cx.clock().now()),
            false => Duration::ZERO,
        };
        let held = Some(baked.held.get()).filter(|held| !held.is_zero());
        let pods_seen = vec![None; services.len()];
        let mut judges: Vec<_> = services.iter().enumerate().flat_map(judge).collect();
        judges.shrink_to_fit();
        let single = |service: &&Service| target(cx, service).layout == Layout::Single;
        let mut deployed: ByService<String> = match services.iter().all(single) {
            true => ByService::new(),
            false => cx.output_of_kind(kinds::DEPLOY_CANARY)?,
        };
        // A single workload is its own canary.
        let workload = |service: &&Service| match single(service) {
            true => service.workload.clone(),
            false => deployed.remove(&service.name).unwrap_or_default(),
        };
        let workloads = services.iter().map(workload).collect();
        Ok(Self {
            cx,
            params,
            judges,
            workloads,
            services,
            elapsed: baked.elapsed.get() + unwatched,
            held_since: held.and_then(|held| Instant::now().checked_sub(held)),
            noted: Instant::now(),
            failures: baked.failures,
            pods_seen,
        })
    }

    fn target(&self, service: usize) -> Target {
        target(self.cx, self.services[service])
    }

    async fn streams(&self) -> Result<Streams<'a>> {
        let cx = self.cx;
        let mut all = SelectAll::new();
        let from_pods = self.judges.iter().any(|(_, j)| j.check().source == sources::PODS);
        for i in 0..self.services.len() {
            let target = &self.target(i);
            if from_pods || target.layout == Layout::Single {
                let call = cx.call()?;
                let pods = opened(&call, cx.backends().diagnostics()?.watch_pods(&call, target, Track::Canary)).await?;
                all.push(pods.map(move |p| p.map(|p| Seen::Pods(i, p))).boxed());
            }
            let call = cx.call()?;
            let canary = opened(&call, cx.backends().deployer()?.watch(&call, target, Track::Canary)).await?;
            all.push(canary.map(move |w| w.map(|w| Seen::Canary(i, w.is_some()))).boxed());
            let router = cx.backends().router(&target.service.traffic.router)?;
            if router.capabilities().granularity != Granularity::Instances && target.layout != Layout::Single {
                let traffic = opened(&call, router.watch(&call, target)).await?;
                all.push(traffic.map(move |t| t.map(|t| Seen::Traffic(i, t)).map_err(gone)).boxed());
            }
        }
        Ok(all)
    }

    fn status(&self) -> Vec<MetricStatus> {
        self.judges.iter().map(|(_, j)| j.status().clone()).collect()
    }

    fn breach(&self, judge: usize) -> Result<()> {
        let (service, judge) = &self.judges[judge];
        if !judge.breached() {
            return Ok(());
        }
        let status = judge.status();
        let times = if status.failures > 1 { format!(", {} times in a row", status.failures) } else { String::new() };
        // The engine before this one measured it; what it saw was its to show.
        let is = match status.measured {
            0 => format!("was beyond its limit of {}", status.limit),
            _ => format!("is {} (limit {})", status.shown, status.limit),
        };
        let at = match self.params.weight {
            Weight::ZERO => "before it gets traffic of its own".to_owned(),
            weight => format!("at {weight} of the traffic"),
        };
        let message = format!("{} of {} {is}{times}, {at}", status.metric, status.service);
        Err(Error::new(ErrorKind::Unhealthy, "analysis", "watch the new version", message)
            .on(self.target(*service).to_string()))
    }

    fn drift(&self, target: usize, message: String) -> Error {
        Error::new(ErrorKind::Drift, "analysis", "watch the new version", message)
            .on(self.target(target).to_string())
            .hint(LEFT)
    }

    fn take(&mut self, seen: Seen) -> Result<()> {
        match seen {
            Seen::Sample(judge, sample) => {
                self.judges[judge].1.record(&sample);
                self.breach(judge)
            }
            Seen::Pods(target, pods) => {
                self.pods_seen[target] = Some(pods.clone());
                for i in 0..self.judges.len() {
                    let (of, judge) = &mut self.judges[i];
                    if *of != target || judge.check().source != sources::PODS {
                        continue;
                    }
                    if let Some(sample) = pod_sample(&judge.check().name, &pods) {
                        judge.record(&sample);
                        self.breach(i).map_err(|e| {
                            let why: Vec<String> =
                                pods.iter().filter(|p| !p.ready).take(5).map(ToString::to_string).collect();
                            if why.is_empty() {
                                return e;
                            }
                            let message = format!("{}; {}", e.message(), why.join("; "));
                            Error::new(e.kind(), "analysis", "watch the new version", message).on(e.target())
                        })?;
                    }
                }
                Ok(())
            }
            Seen::Canary(_, true) => Ok(()),
            // An earlier step saw it ready: what is not there when the watch begins was taken away as well.
            Seen::Canary(target, false) => Err(self.drift(target, "somebody took the new version away".to_owned())),
            Seen::Traffic(_, traffic) if traffic.weight == self.params.weight => Ok(()),
            Seen::Traffic(..) if mutation::on(Mutation::OverwriteDrift) => Ok(()),
            Seen::Traffic(target, traffic) => {
                let who = traffic.edited_by.unwrap_or_else(|| "somebody else".to_owned());
                let message = format!(
                    "{who} set the canary's weight to {}; this run had set {}",
                    traffic.weight, self.params.weight
                );
                Err(self.drift(target, message))
            }
        }
    }

    /// Why time stands still, if it does. `ending` when the whole period has counted, `answered` when no question is
    /// under way.
    fn standstill(&self, ending: bool, answered: bool) -> Option<String> {
        let after = self.params.analysis.no_data.after;
        let show = |status: &MetricStatus| {
            let problem = status.problem.as_deref().unwrap_or("neither good nor bad");
            format!("{} of {}: {problem}", status.metric, status.service)
        };
        let bad = |j: &Judge<'_>| {
            // Neither good nor bad is no reason to wait without a word for ever. Pods are not asked: what they said is
            // all that there is, whatever others are asked meanwhile.
            let unclear = !j.content() && j.status().failures == 0;
            let answered = answered || j.check().source == sources::PODS;
            j.blind(after) || (ending && unclear && (answered || j.status().missing + j.status().measured > 0))
        };
        let blind: Vec<String> = self.judges.iter().filter(|(_, j)| bad(j)).map(|(_, j)| show(j.status())).collect();
        if !blind.is_empty() {
            return Some(format!("no data is not health: {}", blind.join("; ")));
        }
        None
    }

    fn held(&self) -> Duration {
        self.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn held_too_long(&self) -> bool {
        self.held() >= self.params.analysis.no_data.hold.get() && !mutation::on(Mutation::HoldForEver)
    }

    /// Holds while there is no data; ends the run when that lasts too long.
    async fn hold(&mut self, why: Option<&String>) -> Result<()> {
        match (why, self.held_since) {
            (Some(why), None) => {
                self.held_since = Some(Instant::now());
                self.cx.hold(why).await
            }
            (None, Some(_)) => {
                self.held_since = None;
                self.note().await?;
                self.cx.release().await
            }
            (Some(why), Some(_)) if self.held_too_long() => {
                let message = format!("{why}, for {}", self.params.analysis.no_data.hold);
                let kind = match self.params.analysis.no_data.then {
                    NoDataThen::Attention => ErrorKind::Inconclusive,
                    NoDataThen::Rollback => ErrorKind::Unhealthy,
                };
                Err(Error::new(kind, "analysis", "watch the new version", message).hint(
                    "mend the metric source or the query; the new version keeps the weight that it has until then",
                ))
            }
            _ => Ok(()),
        }
    }

    fn failures(&self) -> BTreeMap<String, u32> {
        let bad = self.judges.iter().map(|(_, judge)| judge.status()).filter(|status| status.failures > 0);
        bad.map(|status| (format!("{}/{}", status.service, status.metric), status.failures)).collect()
    }

    async fn note(&mut self) -> Result<()> {
        self.noted = Instant::now();
        self.failures = self.failures();
        let (elapsed, held, failures) = (self.elapsed.into(), self.held().into(), self.failures.clone());
        self.cx.checkpoint(&Baked { elapsed, held, failures }).await
    }

    /// Asks every source but the pods; says how many were asked.
    fn measure(&self, streams: &mut Streams<'a>) -> usize {
        let mut asked = 0;
        let cx = self.cx;
        for (i, (service, judge)) in self.judges.iter().enumerate() {
            let check = judge.check();
            if check.source != sources::PODS {
                let (target, workload) = (self.target(*service), &self.workloads[*service]);
                let (source, mut query) = (check.source.clone(), query(check, &target, workload, cx.plan()));
                if target.layout == Layout::Single {
                    query.pods = self.pods_seen[*service].iter().flatten().map(|pod| pod.name.clone()).collect();
                    // Of a workload with two versions nobody can say which figures are of the new one without its pods.
                    if query.pods.is_empty() {
                        continue;
                    }
                }
                streams.push(async move { Ok(ask(cx, i, &source, query).await) }.into_stream().boxed());
                asked += 1;
            }
        }
        asked
    }

    /// Pods that stay bad change no more: what is tolerated for a while counts again at every measurement.
    fn look_again(&mut self) -> Result<()> {
        let bad = |j: &Judge<'_>| j.check().source == sources::PODS && j.status().failures > 0;
        let targets: BTreeSet<usize> = self.judges.iter().filter(|(_, j)| bad(j)).map(|(target, _)| *target).collect();
        for target in targets {
            if let Some(pods) = self.pods_seen[target].clone() {
                self.take(Seen::Pods(target, pods))?;
            }
        }
        Ok(())
    }

    /// When there is something to do by itself, after `now`.
    fn next_look(&self, now: Instant, warm: Option<Instant>, measured: Option<Instant>, still: bool) -> Instant {
        let after = |time: Duration| Some(now + time).filter(|_| !time.is_zero());
        let period = self.params.period.get();
        let hold = self.held_since.map(|since| since + self.params.analysis.no_data.hold.get());
        let looks = [
            warm,
            measured.map(|last| last + self.interval()),
            after(period.saturating_sub(self.elapsed)).filter(|_| !still),
            Some(self.noted + note_every(period)),
            hold,
            Some(now + TICK).filter(|_| self.cx.is_watched()),
        ];
        let first = looks.into_iter().flatten().filter(|at| *at > now).min();
        first.unwrap_or(now + TICK)
    }

    fn interval(&self) -> Duration {
        self.params.analysis.interval.get().max(Duration::from_millis(100))
    }

    /// How long nothing is measured. The pods of a `StatefulSet` keep their names: until a window has passed, a measurement
    /// would look back on what the version before did under them.
    fn warm_up(&self) -> Duration {
        let keeps_names = self.services.iter().any(|service| service.kind == WorkloadKind::StatefulSet);
        let windows = self.judges.iter().map(|(_, judge)| judge.check()).filter(|check| check.source != sources::PODS);
        let longest = windows.map(|check| check.window.get()).max().filter(|_| keeps_names).unwrap_or_default();
        self.params.analysis.warm_up.get().max(longest)
    }

    async fn run(&mut self) -> Result<()> {
        let cx = self.cx;
        let period = self.params.period.get();
        // A breach on the record is one, also if its engine went away before it said so.
        (0..self.judges.len()).try_for_each(|judge| self.breach(judge))?;
        let mut streams = self.streams().boxed().await?;
        // Questions that are not answered yet.
        let mut asked = 0;
        let mut changes = cx.changes();
        let warm_at = Instant::now() + self.warm_up().saturating_sub(self.elapsed);
        let mut measured: Option<Instant> = None;
        let mut wall = cx.clock().now();
        let mut counted = Instant::now();
        let mut look = counted;
        let mut still = true;
        loop {
            let seen = tokio::select! {
                biased;
                () = cx.cancelled().cancelled() => {
                    if mutation::on(Mutation::CancelledBakeIsSuccess) {
                        return Ok(());
                    }
                    return Err(Error::new(ErrorKind::Cancelled, "analysis", "watch the new version", "stopped before its time"));
                }
                seen = streams.next(), if !streams.is_empty() => match seen {
                    Some(seen) => Some(seen),
                    None => return Err(Error::new(ErrorKind::Unavailable, "analysis", "watch the new version", "every watch ended")),
                },
                _ = changes.changed() => None,
                () = sleep_until(look) => None,
            };
            if cx.answers().skipped.is_some() {
                return Ok(());
            }
            if let Some(seen) = seen {
                let seen = seen?;
                asked -= usize::from(matches!(seen, Seen::Sample(..)));
                self.take(seen)?;
            }
            let now = Instant::now();
            // A process that was stopped for a while has not watched meanwhile.
            if !still {
                let watched = (now - counted).min(look.saturating_duration_since(counted) + TICK);
                let by_wall = mutation::on(Mutation::BakeByWallClock);
                let watched = if by_wall { clock::since(wall, cx.clock().now()) } else { watched };
                self.elapsed = (self.elapsed + watched).min(period);
            }
            let warm = now >= warm_at;
            if warm && asked == 0 && measured.is_none_or(|last| now - last >= self.interval()) {
                measured = Some(now);
                asked = self.measure(&mut streams);
                self.look_again()?;
            }
            let ending = self.elapsed >= period;
            let blind = if warm { self.standstill(ending, asked == 0) } else { None };
            self.hold(blind.as_ref()).boxed().await?;
            let pause = cx.is_paused().then(|| "paused".to_owned());
            let standing_still = blind.or(pause);
            still = standing_still.is_some();
            cx.progress(ProgressKind::Bake {
                weight: self.params.weight,
                elapsed: Period::from(self.elapsed),
                total: self.params.period,
                standing_still,
                metrics: self.status(),
            });
            if ending && !still && self.judges.iter().all(|(_, j)| j.content()) {
                return Ok(());
            }
            if self.failures() != self.failures || now - self.noted >= note_every(period) {
                self.note().boxed().await?;
            }
            // Nobody watched while the journal was written.
            counted = Instant::now();
            wall = cx.clock().now();
            look = self.next_look(counted, Some(warm_at), measured, still);
        }
    }
}

#[async_trait]
impl Action for Bake {
    type Params = BakeParams;
    type Output = Vec<MetricStatus>;

    fn has_effects(&self) -> bool {
        false
    }

    fn deadline(&self, _: &BakeParams) -> Option<Duration> {
        // It ends by its period, a breach, or the longest hold.
        None
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &BakeParams) -> Result<(), Vec<Error>> {
        check(cx, &params.services)?;
        let mut problems = Vec::new();
        for target in planned(&params.services, cx.plan).map_err(|e| vec![e])? {
            for check in &params.analysis.metrics {
                if check.source == sources::PODS {
                    problems.extend(cx.backends.diagnostics().err());
                    if pod_sample(&check.name, &Vec::new()).is_none() {
                        let message = format!("pods have no metric {:?}", check.name);
                        problems.push(Error::new(ErrorKind::Unsupported, "analysis", "check a metric", message));
                    }
                    continue;
                }
                let guess = format!("{}-canary", target.service.workload);
                let asked = cx.backends.metric_source(&check.source);
                let checked = asked.and_then(|source| source.check(&query(check, &target, &guess, cx.plan)));
                problems.extend(checked.err());
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    async fn execute(&self, cx: &StepContext, params: &BakeParams) -> Result<Vec<MetricStatus>> {
        let mut watch = Watch::begin(cx, params)?;
        let before = watch.elapsed;
        let result = watch.run().await;
        if result.is_err() && watch.elapsed > before {
            watch.note().boxed().await?;
        }
        result.map(|()| watch.status())
    }

    async fn observe(&self, _: &StepContext, _: &BakeParams) -> Result<Observed<Vec<MetricStatus>>> {
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, _: &BakeParams, _: Option<&Vec<MetricStatus>>) -> Result<()> {
        Ok(())
    }
}
