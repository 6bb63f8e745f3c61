//! Watches: what objects are, and every change of them.

use std::future::ready;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http::Request;
use kube::api::{Api, DynamicObject};
use kube::client::Body;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use moodify_core::{CallContext, Result};

use super::{Kind, Kube, Object};
use crate::error::{self, Access, Ask};

impl Kube {
    /// What the chosen objects are and how they change, in one watch, until the context ends. Of all namespaces if the
    /// name is empty.
    ///
    /// Absences of the server are waited out. The first error ends the stream: we may not watch, or there is no such
    /// kind of object, and that several times in a row (a server that just started refuses what it will allow soon).
    pub(crate) fn watch(
        &self,
        cx: &CallContext,
        kind: Kind,
        namespace: &str,
        config: watcher::Config,
    ) -> impl Stream<Item = Result<Event<DynamicObject>>> + Send + 'static {
        const REFUSALS: u32 = 4;
        let ask = Ask::new(Access::Read, format!("watch {}", kind.plural), namespace);
        let client = self.inner.client.clone();
        let api = match namespace {
            "" => Api::all_with(client, &kind.resource()),
            _ => Api::namespaced_with(client, namespace, &kind.resource()),
        };
        // In its turn, so that no thousand lists are asked for at once; but none is kept, as whoever reads them asks too.
        let turn = self.turns.clone().acquire_owned();
        let inner = self.inner.clone();
        let events = stream::once(turn).flat_map(move |_| {
            let config = config.clone().timeout(60);
            let listed = watcher(api.clone(), config.clone());
            if !inner.whole_watches.load(Ordering::Relaxed) {
                return listed.boxed();
            }
            let inner = inner.clone();
            let whole = watcher(api.clone(), config.streaming_lists()).take_while(move |event| {
                let refused = is_unknown(event);
                if refused {
                    inner.whole_watches.store(false, Ordering::Relaxed);
                }
                ready(!refused)
            });
            whole.chain(listed).boxed()
        });
        let events = begun(events).backoff(Pause::default());
        let mut refusals = 0;
        let events = events.filter_map(move |event| {
            let item = match event {
                Ok(event) => {
                    refusals = 0;
                    Some(Ok(event))
                }
                Err(e) => {
                    tracing::debug!(operation = %ask.operation, object = %ask.object, error = %e, "watch interrupted");
                    let refused = error::hopeless(&ask, &e);
                    refusals = if refused.is_some() { refusals + 1 } else { 0 };
                    refused.filter(|_| refusals >= REFUSALS).map(Err)
                }
            };
            ready(item)
        });
        until_error(events).take_until(end_of(cx))
    }

    /// One object now and after every change; `None` while there is none.
    pub(crate) fn watch_object(
        &self,
        cx: &CallContext,
        object: &Object,
    ) -> impl Stream<Item = Result<Option<DynamicObject>>> + Send + 'static {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", object.name));
        let mut there = None;
        self.watch(cx, object.kind, &object.namespace, config).filter_map(move |event| {
            ready(match event {
                Ok(Event::Init) => {
                    there = None;
                    None
                }
                // What a watch begins with may be old until all of it was told.
                Ok(Event::InitApply(found)) => {
                    there = Some(found);
                    None
                }
                Ok(Event::InitDone) => Some(Ok(there.take())),
                Ok(Event::Apply(changed)) => Some(Ok(Some(changed))),
                Ok(Event::Delete(_)) => Some(Ok(None)),
                Err(e) => Some(Err(e)),
            })
        })
    }
}

/// A watch that begins with what is there would be content with what a cache holds (`resourceVersion=0`). What is decided
/// by it has to be as new as what a list says: then no version is named.
pub(super) fn as_new_as_a_list(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().to_string();
    if uri.contains("&sendInitialEvents=true")
        && let Ok(uri) = uri.replace("&resourceVersion=0", "&resourceVersion=").parse()
    {
        *request.uri_mut() = uri;
    }
    request
}

/// A server that cannot begin a watch with what is there: older than Kubernetes 1.32, or told not to (feature `WatchList`).
fn is_unknown<K>(event: &watcher::Result<Event<K>>) -> bool {
    matches!(event, Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) if matches!(status.code, 400 | 422))
}

/// The stream up to its first error, and that.
pub(crate) fn until_error<T: Send + 'static>(
    stream: impl Stream<Item = Result<T>> + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    // Nothing is asked any more after it.
    let items = stream::unfold(Some(stream.boxed()), |stream| async {
        let mut stream = stream?;
        let item = stream.next().await?;
        let rest = item.is_ok().then_some(stream);
        Some((item, rest))
    });
    items.boxed()
}

/// The end of the context, and a little later, so that whoever waits under the same context can say why first.
fn end_of(cx: &CallContext) -> impl Future<Output = ()> + Send + 'static {
    let (deadline, cancel) = (cx.deadline(), cx.cancel().clone());
    async move {
        tokio::select! {
            () = cancel.cancelled_owned() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Holds back that a list begins until it has: one that fails again and again would else look like something that goes
/// well in between, and be neither paused nor given up.
fn begun<K: Send>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let mut begins = false;
    events.flat_map(move |event| {
        let is_init = matches!(event, Ok(Event::Init));
        let before = (begins && !is_init && event.is_ok()).then_some(Ok(Event::Init));
        begins = is_init;
        stream::iter(before.into_iter().chain((!is_init).then_some(event)))
    })
}

/// The pause after an error of a watch: from 0.2 to 5 s. Shorter than the client's default, since what is watched
/// decides about a rollback.
#[derive(Debug, Default)]
struct Pause {
    errors: u32,
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(200) * 2u32.pow(self.errors.min(5));
        self.errors += 1;
        Some(pause.min(Duration::from_secs(5)))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.errors = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use moodify_core::ErrorKind;
    use serde_json::json;

    use super::super::DEPLOYMENT;
    use super::*;
    use crate::testing::{cx, kube};

    #[test]
    fn what_a_watch_begins_with_is_not_taken_from_a_cache() {
        let uri = |text: &str| as_new_as_a_list(Request::get(text).body(Body::empty()).unwrap()).uri().to_string();
        assert_eq!(
            uri("/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0"),
            "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion="
        );
        let later = "/api/v1/pods?watch=true&resourceVersion=0";
        assert_eq!(uri(later), later);
    }

    #[tokio::test]
    async fn a_server_that_cannot_begin_a_watch_with_what_is_there_is_asked_in_two_steps() {
        let (mut kube, asked) = kube(|_, path, _| match path {
            _ if path.contains("sendInitialEvents") => {
                (422, json!({"code": 422, "reason": "Invalid", "message": "no"}))
            }
            _ if path.contains("watch=true") => (404, json!({"code": 404, "reason": "NotFound", "message": "over"})),
            _ => (200, json!({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "web"}}]})),
        });
        Arc::get_mut(&mut kube.inner).unwrap().whole_watches = true.into();
        let object = Object::new(DEPLOYMENT, "ns", "web");
        for first in ["sendInitialEvents", "limit="] {
            let found = pin!(kube.watch_object(&cx(), &object)).next().await.unwrap().unwrap().unwrap();
            assert_eq!(found.metadata.name.as_deref(), Some("web"));
            let asked = std::mem::take(&mut *asked.lock().unwrap());
            assert!(asked[0].contains(first), "only the first watch finds out: {asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_refused_again_and_again_ends_with_the_reason() {
        let (kube, asked) = kube(|_, _, _| (401, json!({"code": 401, "reason": "Unauthorized", "message": "no"})));
        let begun = tokio::time::Instant::now();
        let object = Object::new(DEPLOYMENT, "ns", "web");
        let seen: Vec<_> = kube.watch_object(&cx(), &object).collect().await;
        assert!(matches!(seen.as_slice(), [Err(e)] if e.kind() == ErrorKind::Unauthenticated), "{seen:?}");
        assert_eq!(asked.lock().unwrap().len(), 4);
        assert_eq!(begun.elapsed(), Duration::from_millis(200 + 400 + 800), "with longer and longer pauses");
    }
}
