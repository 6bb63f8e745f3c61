use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{AsyncBufReadExt as _, FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::subresource::LogParams;
use moodify_core::{CallContext, ErrorKind, Result, secret};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{Select, Verbs, Workload};
use crate::client::{Object, POD, typed};
use crate::diagnostics::selector_text;
use crate::error::{self, Access, BACKEND};

/// Whose logs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogSource {
    /// One pod, by name.
    Pod(String),
    /// All pods of a workload. (`kubectl logs deployment/NAME` takes one of them, and all with `--all-pods`.)
    Workload(Workload),
    /// All pods with these labels.
    Selector(String),
}

/// Which containers of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogContainers {
    /// The one that the annotation `kubectl.kubernetes.io/default-container` names, or the first one.
    #[default]
    Default,
    /// This one.
    Named(String),
    /// All of them, those that initialise first.
    All,
}

/// Which lines.
///
/// ```
/// use std::time::Duration;
/// use moodify_k8s::verbs::LogOptions;
/// let recent = LogOptions::new().tail(100).since(Duration::from_secs(600)).follow();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    tail: Option<u32>,
    since: Option<Duration>,
    since_time: Option<Timestamp>,
    previous: bool,
    follow: bool,
    containers: LogContainers,
}

impl LogOptions {
    /// All lines that there are, of the default containers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many lines from the end of each container's log: `--tail`.
    #[must_use]
    pub fn tail(mut self, lines: u32) -> Self {
        self.tail = Some(lines);
        self
    }

    /// Only lines that are not older: `--since`. Whole seconds count.
    #[must_use]
    pub fn since(mut self, age: Duration) -> Self {
        self.since = Some(age);
        self
    }

    /// Only lines from then on: `--since-time`. Wins over [`since`](Self::since).
    #[must_use]
    pub fn since_time(mut self, time: Timestamp) -> Self {
        self.since_time = Some(time);
        self
    }

    /// Of the run before the last restart: `--previous`.
    #[must_use]
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Goes on with what is written from now on: `--follow`. The lines of a container end when it ends.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Of which containers: `--container`, `--all-containers`.
    #[must_use]
    pub fn containers(mut self, containers: LogContainers) -> Self {
        self.containers = containers;
        self
    }

    fn params(&self, container: &str) -> LogParams {
        let seconds = self.since.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX).max(1));
        LogParams {
            container: Some(container.to_owned()),
            follow: self.follow,
            previous: self.previous,
            since_seconds: seconds.filter(|_| self.since_time.is_none()),
            since_time: self.since_time,
            tail_lines: self.tail.map(i64::from),
            timestamps: true,
            ..LogParams::default()
        }
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogLine {
    /// The pod that wrote it.
    pub pod: String,
    /// The container that wrote it.
    pub container: String,
    /// When, by the clock of its node; none if the node did not say.
    pub at: Option<Timestamp>,
    /// What, without the end of the line. Secrets that the process knows of are [taken out](moodify_core::secret).
    pub text: String,
}

/// How long a line is held back for older ones of other containers, once all that was there has been read.
const HOLD: Duration = Duration::from_millis(500);
/// How many pods' logs are asked for at most, as a kubelet is asked for each.
const MOST: usize = 200;

impl Verbs {
    /// The lines of logs as they are read, those of many containers in the order of their times. While they are
    /// followed, a line that comes from its node more than half a second late is out of that order.
    ///
    /// The stream ends when all logs are read or, if they are followed, when all containers or the context have ended;
    /// or with the first error. A container that has not started has no lines, unless it is the only one that was asked
    /// for. Only pods that are there at the beginning are read. Dropping the stream ends all.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is no such pod or workload, [`Invalid`](ErrorKind::Invalid) for a
    /// container that there is not or that has no previous run.
    pub async fn logs(
        &self,
        cx: &CallContext,
        source: &LogSource,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let pods = self.pods_of(cx, source).await?;
        let mut places = Vec::new();
        for pod in &pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            for container in self.containers(pod, &name, &options.containers)? {
                places.push((name.clone(), container));
            }
        }
        if places.len() > MOST {
            let ask = Object::new(POD, &self.namespace, "all").ask(Access::Read, "read the logs of");
            let message = format!("that would be the logs of {} containers at once; {MOST} are the most", places.len());
            return Err(ask.error(ErrorKind::Invalid, message).hint("choose fewer pods by their labels"));
        }
        let only = places.len() == 1;
        let opened = places.into_iter().map(|(pod, container)| self.open_log(cx, pod, container, options, only));
        // A few at a time: the API server asks a kubelet for each.
        let opened: Vec<Result<Lines>> = futures::stream::iter(opened).buffered(8).collect().await;
        let lines: Vec<Lines> = opened.into_iter().collect::<Result<_>>()?;
        let (deadline, cancel) = (cx.deadline(), cx.cancel().clone());
        let end = async move {
            tokio::select! {
                () = cancel.cancelled_owned() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        };
        Ok(merged(lines, options.follow).take_until(end).boxed())
    }

    async fn pods_of(&self, cx: &CallContext, source: &LogSource) -> Result<Vec<Pod>> {
        let selector = match source {
            LogSource::Pod(name) => {
                let pod = self.read_object(cx, &Object::new(POD, &self.namespace, name)).await?;
                let ask = Object::new(POD, &self.namespace, name).ask(Access::Read, "get");
                return Ok(vec![typed(&ask, pod)?]);
            }
            LogSource::Workload(workload) => self.selector_of(cx, workload).await?,
            LogSource::Selector(selector) => selector.clone(),
        };
        self.list(cx, POD, &Select::all().labels(selector)).await
    }

    /// The labels of a workload's pods.
    pub(super) async fn selector_of(&self, cx: &CallContext, workload: &Workload) -> Result<String> {
        let object = workload.object(&self.namespace);
        selector_in(&object, &self.read_object(cx, &object).await?)
    }

    fn containers(&self, pod: &Pod, name: &str, which: &LogContainers) -> Result<Vec<String>> {
        let Some(spec) = pod.spec.as_ref() else { return Ok(Vec::new()) };
        let init = spec.init_containers.iter().flatten().map(|c| c.name.clone());
        let short_lived = spec.ephemeral_containers.iter().flatten().map(|c| c.name.clone());
        let all: Vec<String> = init.chain(spec.containers.iter().map(|c| c.name.clone())).chain(short_lived).collect();
        match which {
            LogContainers::All => Ok(all),
            LogContainers::Named(container) if all.contains(container) => Ok(vec![container.clone()]),
            LogContainers::Named(container) => {
                let ask = Object::new(POD, &self.namespace, name).ask(Access::Read, "read the log of");
                let message = format!("it has no container {container:?}; there are: {}", all.join(", "));
                Err(ask.error(ErrorKind::Invalid, message))
            }
            LogContainers::Default => {
                let key = "kubectl.kubernetes.io/default-container";
                let named = pod.metadata.annotations.as_ref().and_then(|a| a.get(key)).filter(|c| all.contains(c));
                Ok(named.or(spec.containers.first().map(|c| &c.name)).cloned().into_iter().collect())
            }
        }
    }

    async fn open_log(
        &self,
        cx: &CallContext,
        pod: String,
        container: String,
        options: &LogOptions,
        only: bool,
    ) -> Result<Lines> {
        let object = Object::new(POD, &self.namespace, &pod);
        let ask = object.ask(Access::Read, "read the log of");
        let request = object.request(&ask)?.logs(&pod, &options.params(&container));
        let request = request.map_err(|e| error::from_client(&ask, kube::Error::BuildRequest(e)))?;
        let call = async {
            let answer = self.kube.client().request_stream(request).await;
            answer.map(|read| read.lines().boxed()).map_err(|e| error::from_client(&ask, e))
        };
        // The answer must begin in time; how long it lasts is the context's to say.
        let begun = cx.at_most(self.kube.timeout()).run(BACKEND, "request", call).await;
        let lines = match begun.map_err(|e| error::given_up(&ask, e, self.kube.timeout())) {
            Ok(lines) => lines,
            Err(e) if !only && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {
                tracing::debug!(%pod, %container, error = %e, "it has no log yet");
                futures::stream::empty().boxed()
            }
            Err(e) => return Err(e),
        };
        let line = move |line: std::io::Result<String>| {
            let text = line.map_err(|e| {
                ask.error(ErrorKind::Unavailable, format!("the log broke off: {e}")).transient(true).with_source(e)
            })?;
            Ok(parsed(&pod, &container, &text))
        };
        Ok(lines.map(line).boxed())
    }
}

/// The labels of the pods of a workload that was read.
pub(super) fn selector_in(object: &Object, read: &Value) -> Result<String> {
    let selector: LabelSelector = typed(&object.ask(Access::Read, "get"), read["spec"]["selector"].clone())?;
    Ok(selector_text(&selector))
}

/// A line that begins with its time.
fn parsed(pod: &str, container: &str, line: &str) -> LogLine {
    let line = line.trim_end_matches('\r');
    let (time, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (at, text) = match time.parse::<Timestamp>() {
        Ok(at) => (Some(at), rest),
        Err(_) => (None, line),
    };
    LogLine { pod: pod.to_owned(), container: container.to_owned(), at, text: secret::redact(text).into_owned() }
}

type Lines = BoxStream<'static, Result<LogLine>>;

/// Which container, its next line if there is one, and those after it.
type Read = (usize, Option<Result<LogLine>>, Lines);

/// A container's next line, and those after it.
struct Head {
    line: Result<LogLine>,
    seen: Instant,
    rest: Lines,
}

/// The lines of many containers by time.
struct Merge {
    /// Containers whose next line is not there yet.
    waiting: FuturesUnordered<BoxFuture<'static, Read>>,
    /// The next lines of the others, the oldest first.
    heads: BTreeMap<(Option<Timestamp>, usize), Head>,
    follow: bool,
    failed: bool,
}

impl Merge {
    fn wait(&mut self, index: usize, lines: Lines) {
        let next = lines.into_future().map(move |(line, rest)| (index, line, rest));
        self.waiting.push(next.boxed());
    }

    /// The next line: the oldest when the next lines of all are known, or when it was held back for long enough.
    async fn next(&mut self) -> Option<Result<LogLine>> {
        if self.failed {
            return None;
        }
        while !self.waiting.is_empty() {
            let oldest = self.heads.values().next().filter(|_| self.follow).map(|head| head.seen + HOLD);
            let hold = async {
                match oldest {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((index, line, rest)) = self.waiting.next() => {
                    if let Some(line) = line {
                        // An error comes at once: it stands before all times.
                        let at = line.as_ref().ok().and_then(|line| line.at);
                        self.heads.insert((at, index), Head { line, seen: Instant::now(), rest });
                    }
                }
                () = hold => break,
            }
        }
        let ((_, index), head) = self.heads.pop_first()?;
        self.failed = head.line.is_err();
        self.wait(index, head.rest);
        Some(head.line)
    }
}

fn merged(logs: Vec<Lines>, follow: bool) -> BoxStream<'static, Result<LogLine>> {
    let mut merge = Merge { waiting: FuturesUnordered::new(), heads: BTreeMap::new(), follow, failed: false };
    for (index, lines) in logs.into_iter().enumerate() {
        merge.wait(index, lines);
    }
    futures::stream::unfold(merge, |mut merge| async move { merge.next().await.map(|line| (line, merge)) }).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pod: &str, second: u32) -> Result<LogLine> {
        Ok(parsed(pod, "web", &format!("2026-11-24T12:00:{second:02}.5Z line {second}")))
    }

    fn lines(pod: &'static str, seconds: &[u32]) -> Lines {
        futures::stream::iter(seconds.iter().map(|s| line(pod, *s)).collect::<Vec<_>>()).boxed()
    }

    async fn told(stream: BoxStream<'static, Result<LogLine>>) -> Vec<String> {
        stream.map(|l| l.map_or_else(|e| e.message().to_owned(), |l| format!("{} {}", l.pod, l.text))).collect().await
    }

    #[tokio::test]
    async fn lines_of_many_are_in_the_order_of_their_times() {
        let all = merged(vec![lines("a", &[1, 4, 5]), lines("b", &[]), lines("c", &[2, 3, 9])], false);
        assert_eq!(told(all).await, ["a line 1", "c line 2", "c line 3", "a line 4", "a line 5", "c line 9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_holds_the_others_up_for_half_a_second() {
        let begun = Instant::now();
        let silent = futures::stream::pending().boxed();
        let mut all = merged(vec![lines("a", &[1, 2]), silent], true);
        assert_eq!(all.next().await.unwrap().unwrap().text, "line 1");
        assert_eq!(begun.elapsed(), HOLD);
        assert_eq!(all.next().await.unwrap().unwrap().text, "line 2");
    }

    #[tokio::test]
    async fn an_error_ends_it() {
        let ask = Object::new(POD, "shop", "a").ask(Access::Read, "read the log of");
        let broken = futures::stream::iter([line("a", 1), Err(ask.error(ErrorKind::Unavailable, "broke off"))]).boxed();
        let all = merged(vec![broken, lines("b", &[2, 3])], false);
        assert_eq!(told(all).await, ["a line 1", "broke off"]);
    }

    #[test]
    fn a_line_without_a_time_is_whole() {
        let plain = parsed("a", "web", "unable to retrieve the log");
        assert_eq!((plain.at, plain.text.as_str()), (None, "unable to retrieve the log"));
        assert_eq!(parsed("a", "web", "2026-11-24T12:00:00Z ").text, "");
    }
}
