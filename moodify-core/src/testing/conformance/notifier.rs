use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, good, run};
use crate::backend::{Link, Notification, Notifier, Urgency};

/// What the suite of a [`Notifier`] needs.
#[async_trait]
pub trait NotifierHarness: Send + Sync {
    /// The one under test.
    fn notifier(&self) -> Arc<dyn Notifier>;

    /// Every message that has arrived, the oldest first: all that people can read of it, or the whole of what was sent,
    /// its markup taken off.
    async fn received(&self) -> Vec<String>;

    /// The keys by which the receiver can tell messages apart, in the order of [`received`](Self::received); `None` where the
    /// channel has no place for them.
    async fn keys(&self) -> Option<Vec<String>>;

    /// The alerts that are open, by name; `None` where the channel has none.
    async fn alerts(&self) -> Option<Vec<String>>;

    /// Lets the channel refuse everything from now on.
    async fn refuse(&self);

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts a [`Notifier`] to its contract. Its channel refuses everything at the end.
///
/// # Panics
/// If it is not kept.
pub async fn notifier(harness: &dyn NotifierHarness) {
    let (notifier, patience) = (harness.notifier(), harness.patience());
    let send =
        async |key: &str, notification: &Notification| notifier.notify(&context(key, patience), notification).await;
    let received = async || harness.received().await;
    let before = received().await.len();

    let link = Link::new("https://grafana.example/d/release?var-run=r1").expect("an address");
    let whole =
        Notification::new("conformance: 5xx > 5 % & rising").with_body("two\nlines, für alle").with_link(link.clone());
    good("a message can be sent", send("one", &whole).await);
    let all = received().await;
    assert_eq!(all.len(), before + 1, "one message arrives once: {all:?}");
    let last = all.last().expect("it arrived");
    for part in [whole.title.as_str(), "two", "lines, für alle", link.as_str()] {
        assert!(last.contains(part), "{part:?} arrives whole: {last:?}");
    }

    let urgent = Notification::new("conformance: urgent").with_urgency(Urgency::Critical);
    good("an urgent one can be sent", send("two", &urgent).await);
    good("one that is not can be sent", send("three", &Notification::new("conformance: urgent")).await);
    let all = received().await;
    assert_ne!(all[before + 1], all[before + 2], "one can tell how much it matters");

    good("a message can be sent again", send("three", &Notification::new("conformance: urgent")).await);
    if let Some(keys) = harness.keys().await {
        let keys = &keys[before..];
        assert_eq!(keys.last(), keys.get(2), "the same key goes with the same message: {keys:?}");
        assert!(keys[0] != keys[1] && keys[1] != keys[2], "and another one with another: {keys:?}");
    }

    let long = Notification::new("conformance: long").with_body("ä\u{1f6a8} ".repeat(50_000));
    good("a long message can be sent", send("long", &long).await);
    let all = received().await;
    assert!(all.last().is_some_and(|text| text.contains(&long.title)), "its title is whole");

    for (key, marked) in [("markup", "<!channel> *[x](y)* & `z`\u{7}"), ("header", "one\r\nBcc: all@example.com")] {
        good("markup in a title is text", send(key, &Notification::new(format!("conformance: {marked}"))).await);
    }
    alerts(harness, &send).await;

    harness.refuse().await;
    let refused = send("refused", &urgent).await;
    assert!(refused.is_err(), "what the channel refuses is an error");
    ends_with_its_context(patience, async |cx| notifier.notify(&cx, &urgent).await).await;
}

/// All that a run says on one topic is one alert, until it is resolved.
async fn alerts(harness: &dyn NotifierHarness, send: &impl AsyncFn(&str, &Notification) -> crate::Result<()>) {
    let on_topic = |title: &str| Notification::new(title).with_urgency(Urgency::Critical).on_topic("release");
    let before = harness.alerts().await;
    good("an alert can be opened", send("alert", &on_topic("conformance: it burns")).await);
    good("and added to", send("alert-again", &on_topic("conformance: it burns on")).await);
    if let (Some(before), Some(now)) = (&before, harness.alerts().await) {
        assert_eq!(now.len(), before.len() + 1, "one topic is one alert: {now:?}");
        let name = format!("{}/release", run());
        assert!(now.contains(&name), "it bears the names of run and topic: {now:?}");
    }
    good("it can be closed", send("alert-over", &on_topic("conformance: it is over").resolved()).await);
    assert_eq!(harness.alerts().await, before, "a resolved topic has no alert");
}
