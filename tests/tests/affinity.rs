//! Sessions that stay with the version that they have met, where the routing object of a service says so: moodify leaves
//! that as it is, and moves weights beneath it. Through a real Traefik, whose cookie is what keeps a session.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use moodify_tests::rig::{PROMPT, Rig};
use moodify_tests::routes::{entrance, others};
use moodify_tests::scene::Scene;
use moodify_tests::wall_clock;
use reqwest::header::{COOKIE, HOST, SET_COOKIE};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A new session begins so often.
const BIRTHS: Duration = Duration::from_millis(40);
/// A session asks so often.
const PAUSE: Duration = Duration::from_millis(500);

/// What one visitor has met, in order: when it asked, and which version answered.
type Session = Vec<(Timestamp, bool)>;

/// One visitor, who keeps the cookie that is set.
async fn visit(client: reqwest::Client, address: SocketAddr, end: CancellationToken) -> Session {
    let (mut cookie, mut met) = (None::<String>, Session::new());
    while !end.is_cancelled() {
        let mut request = client.get(format!("http://{address}/")).header(HOST, "backend");
        if let Some(cookie) = &cookie {
            request = request.header(COOKIE, cookie);
        }
        let asked = wall_clock();
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        if let Some(set) = answer.headers().get(SET_COOKIE) {
            cookie = set.to_str().unwrap().split(';').next().map(str::to_owned);
        }
        let body = answer.text().await.unwrap();
        met.push((asked, body.contains("v2")));
        sleep(PAUSE).await;
    }
    met
}

/// Visitors come all the time, until it ends.
async fn visitors(address: SocketAddr, end: CancellationToken) -> Vec<Session> {
    let client = reqwest::Client::builder().retry(reqwest::retry::never()).build().unwrap();
    let all = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    while !end.is_cancelled() {
        let (client, end, all) = (client.clone(), end.clone(), all.clone());
        tasks.spawn(async move {
            let met = visit(client, address, end).await;
            all.lock().unwrap().push(met);
        });
        sleep(BIRTHS).await;
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    std::mem::take(&mut all.lock().unwrap())
}

/// When this first happened to a step.
fn when(events: &[Value], event: &str, step: &str) -> Timestamp {
    let found = events.iter().find(|e| e["event"] == event && e["step"] == step);
    found.unwrap_or_else(|| panic!("no {event} of {step}"))["time"].as_str().unwrap().parse().unwrap()
}

/// Releases a version while visitors come, and says what they met and what happened.
async fn release(name: &str, after: &str, outcome: &str) -> Option<(Vec<Session>, Vec<Value>)> {
    let rig = Rig::own().await?;
    let namespace = rig.namespace(name).await.quiet();
    let traefik = namespace.traefik(PROMPT).await?;
    others(&namespace).await;
    namespace.apply(&entrance("backend").to_string()).await;
    let mut scene = Scene::over(&namespace, "v1", &[("backend", after)], "traefik").await?;
    let sticky = json!({"spec": {"weighted": {"sticky": {"cookie": {"name": "track"}}}}}).to_string();
    let service = "traefikservices.traefik.io/backend";
    namespace.kubectl(&["patch", service, "--type", "merge", "--patch", &sticky]).await;
    scene.canary()["analysis"]["metrics"][1]["fail"] = "> 200ms".into();
    scene.canary()["bake"] = json!(["10s", if outcome == "completed" { "5s" } else { "60s" }, "5s"]);
    scene.canary()["ready-deadline"] = "4m".into();
    traefik.serves("backend").await;
    let before = scene.routing("traefik", "backend").await;

    let end = CancellationToken::new();
    let visitors = tokio::spawn(visitors(traefik.address(), end.clone()));
    let finished = scene.release().await;
    sleep(2 * PAUSE).await;
    end.cancel();
    let sessions = visitors.await.unwrap();
    finished.ended(outcome);
    assert_eq!(scene.routing("traefik", "backend").await, before, "the route is as it was, cookie and all");
    println!("{name}: {} sessions", sessions.len());
    Some((sessions, finished.events.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_with_its_version_while_both_serve() {
    let Some((sessions, events)) = release("affinity", "v2", "completed").await else { return };
    let from_10 = when(&events, "step-started", "rollout-bake-10");
    let until_10 = when(&events, "step-finished", "rollout-bake-10");
    let all_to_new = when(&events, "step-started", "rollout-shift-100");
    for session in &sessions {
        let flips: Vec<_> = session.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1]).collect();
        match flips[..] {
            [] => {}
            [(at, to_new)] => assert!(to_new && at >= all_to_new, "it moved at {at}: {session:?}"),
            _ => panic!("it went to and fro: {session:?}"),
        }
        assert!(session.last().is_some_and(|(_, new)| *new), "in the end all are at the new version");
    }
    // Whoever comes while 10 % stand is divided so: by turns, so that chance has no part in it.
    let born = sessions.iter().filter_map(|session| session.first()).filter(|(at, _)| *at > from_10 && *at < until_10);
    let (all, new) = born.fold((0, 0), |(all, new), (_, is_new)| (all + 1, new + usize::from(*is_new)));
    println!("  {new} of {all} new sessions at 10 %");
    assert!(all >= 100, "too few came: {all}");
    assert!((5 * all..=15 * all).contains(&(100 * new)), "{new} of {all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_left_at_a_version_that_goes_back() {
    let Some((sessions, events)) = release("affinity-back", "v2-slow300after15s-when3", "rolled-back").await else {
        return;
    };
    let back = when(&events, "undo-finished", "rollout-shift-10");
    let at_new = sessions.iter().filter(|session| session.iter().any(|(_, new)| *new)).count();
    println!("  {at_new} had met the new version");
    assert!(at_new > 20, "only {at_new} had met the new version");
    for session in &sessions {
        let late = session.iter().find(|(at, new)| *new && *at > back);
        assert!(late.is_none(), "it met the new version after all was back at {back}: {session:?}");
    }
}
