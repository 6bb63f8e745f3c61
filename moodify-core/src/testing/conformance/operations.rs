use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, fails, good, other};
use crate::backend::{
    Application, Connection, Counts, Endpoint, ExecRequest, Operations, OperationsExt, Repair, WorkloadRef,
};
use crate::error::ErrorKind;

/// What the suite of [`operations`] has to know, and what it asks to be done to the world by somebody else.
#[async_trait]
pub trait OperationsHarness: Send + Sync {
    /// The backend under test.
    fn operations(&self) -> Arc<dyn Operations>;
    /// A namespace with nothing in it but an application that runs: two workloads or more, each with some instances.
    fn namespace(&self) -> String;
    /// Connections of that application, each pointing to a database with a port.
    fn connections(&self) -> Vec<Connection>;
    /// A connection of it whose whole value is where the database is, such as its template `{{endpoint}}` says.
    fn whole(&self) -> Connection;
    /// A connection that is not there.
    fn missing(&self) -> Connection;
    /// A command that succeeds in a workload of the application, and one that fails with the code 3 if there is one.
    fn commands(&self) -> (ExecRequest, Option<ExecRequest>);
    /// How long the application may take to stop or to start.
    fn patience(&self) -> Duration;
    /// Somebody else sets the number of instances of a workload.
    async fn scale(&self, workload: &WorkloadRef, replicas: u32);
    /// Somebody else points a connection elsewhere.
    async fn point(&self, connection: &Connection, to: &Endpoint);
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("endpoints in source code are valid")
}

/// Puts an [`Operations`] to its contract. In the end the application runs as before, on the database that it had.
///
/// # Panics
/// If it is not kept.
pub async fn operations(harness: &impl OperationsHarness) {
    let counts = stops_and_starts(harness).await;
    leaves_what_others_scale(harness, &counts).await;
    for connection in harness.connections() {
        switches(harness, &connection).await;
        leaves_what_others_write(harness, &connection).await;
    }
    takes_a_name(harness).await;
    let (cx, namespace) = (context("missing", harness.patience()), harness.namespace());
    let (operations, missing) = (harness.operations(), harness.missing());
    let none = operations.endpoint(&cx, &namespace, &missing).await;
    fails("there is no such connection", ErrorKind::NotFound, none);
    let to = endpoint("conformance.invalid");
    fails("it is not made", ErrorKind::NotFound, operations.switch(&cx, &namespace, &missing, &to).await);
    executes(harness).await;
    ends_with_its_context(harness.patience(), async |cx| {
        operations.counts(&cx, &Application::all_of(&harness.namespace())).await
    })
    .await;
}

async fn stops_and_starts(harness: &impl OperationsHarness) -> Counts {
    let (operations, patience) = (harness.operations(), harness.patience());
    let (cx, application) = (context("stop", patience), Application::all_of(&harness.namespace()));
    let counts = good("an application can be counted", operations.counts(&cx, &application).await);
    assert!(counts.workloads.len() >= 2 && counts.workloads.iter().all(|of| of.replicas > 0), "it runs: {counts:?}");
    let first = &counts.workloads[0].workload;
    let one = application.clone().workloads(std::slice::from_ref(first));
    let one = good("one workload can be counted", operations.counts(&cx, &one).await);
    assert_eq!(one.workloads, counts.workloads[..1]);
    let rest = application.clone().except(std::slice::from_ref(first));
    let rest = good("one can be excepted", operations.counts(&cx, &rest).await);
    assert_eq!(rest.workloads, counts.workloads[1..]);
    let missing = application.clone().workloads(&[WorkloadRef::deployment("conformance-none")]);
    fails("it is not there", ErrorKind::NotFound, operations.counts(&cx, &missing).await);

    good("what runs is waited for", operations.wait_started(&cx, &counts, &|_| ()).await);
    good("starting what runs is fine", operations.start(&cx, &counts).await);
    // Half of it, and then all: as after a crash.
    good("a part can be stopped", operations.stop(&cx, &one).await);
    good("the rest can be stopped", operations.stop(&cx, &counts).await);
    good("stopping again is fine", operations.stop(&cx, &counts).await);
    good("it is stopped in time", operations.wait_stopped(&cx, &counts, &|_| ()).await);
    let now = good("what this run stopped is counted as before", operations.counts(&cx, &application).await);
    assert_eq!(now, counts);
    fails(
        "another run keeps away from it",
        ErrorKind::AlreadyExists,
        operations.counts(&other(patience), &application).await,
    );
    let commands = [Repair::Start(counts.clone()), Repair::Stop(counts.clone())].map(|r| operations.by_hand(&r));
    assert!(commands.iter().all(|commands| !commands.is_empty()), "a person is told what to do");
    let short = context("stop", Duration::from_secs(2));
    let late = operations.wait_started(&short, &counts, &|_| ()).await;
    let late = fails("it does not run", ErrorKind::Timeout, late);
    assert!(late.message().contains("0 of"), "what is missing is told: {late}");

    good("a part can be started", operations.start(&cx, &one).await);
    good("it can be stopped again", operations.stop(&cx, &one).await);
    good("all can be started", operations.start(&cx, &counts).await);
    good("starting again is fine", operations.start(&cx, &counts).await);
    good("it runs in time", operations.wait_started(&cx, &counts, &|_| ()).await);
    let again = good("it can be counted", operations.counts(&other(patience), &application).await);
    assert_eq!(again, counts, "nothing is left that says that it was stopped");
    counts
}

async fn leaves_what_others_scale(harness: &impl OperationsHarness, counts: &Counts) {
    let (operations, cx) = (harness.operations(), context("stop", harness.patience()));
    let (first, replicas) = (&counts.workloads[0].workload, counts.workloads[0].replicas);
    harness.scale(first, replicas + 1).await;
    fails("what somebody scaled is not stopped", ErrorKind::Drift, operations.stop(&cx, counts).await);
    harness.scale(first, replicas).await;
    good("the others are", operations.stop(&cx, counts).await);
    good("all are stopped in time", operations.wait_stopped(&cx, counts, &|_| ()).await);
    harness.scale(first, replicas + 1).await;
    fails("what somebody started is left to them", ErrorKind::Drift, operations.start(&cx, counts).await);
    harness.scale(first, 0).await;
    good("all can be started", operations.start(&cx, counts).await);
    good("all run in time", operations.wait_started(&cx, counts, &|_| ()).await);
}

async fn switches(harness: &impl OperationsHarness, connection: &Connection) {
    let (operations, namespace) = (harness.operations(), harness.namespace());
    let (cx, stranger) = (context("switch", harness.patience()), other(harness.patience()));
    let now = async || good("it tells where it points to", operations.endpoint(&cx, &namespace, connection).await);
    let before = now().await;
    let to = endpoint("restored.conformance.invalid:27018");
    good("what was not switched is reverted", operations.revert(&cx, &namespace, connection, &to).await);
    assert_eq!(now().await, before, "and stays as it is");
    for promise in ["it can be switched", "switching again is fine"] {
        good(promise, operations.switch(&cx, &namespace, connection, &to).await);
        assert_eq!(now().await.as_ref(), Some(&to));
    }
    let theirs = operations.switch(&stranger, &namespace, connection, &to).await;
    fails("another run keeps away from it", ErrorKind::AlreadyExists, theirs);
    let theirs = operations.revert(&stranger, &namespace, connection, &to).await;
    fails("and does not revert it", ErrorKind::AlreadyExists, theirs);
    for promise in ["it can be reverted", "reverting again is fine"] {
        good(promise, operations.revert(&cx, &namespace, connection, &to).await);
        assert_eq!(now().await, before, "it is as it was");
    }
    let repair = Repair::Revert { namespace: namespace.clone(), connection: connection.clone() };
    assert!(!operations.by_hand(&repair).is_empty(), "a person is told what to do");

    good("it can be switched once more", operations.switch(&cx, &namespace, connection, &to).await);
    for promise in ["what was before can be forgotten", "forgetting again is fine"] {
        good(promise, operations.forget(&cx, &namespace, connection).await);
    }
    good("there is nothing to revert then", operations.revert(&cx, &namespace, connection, &to).await);
    assert_eq!(now().await.as_ref(), Some(&to));
    if let Some(before) = before {
        good("another run may switch it now", operations.switch(&stranger, &namespace, connection, &before).await);
        assert_eq!(now().await, Some(before));
        good("and forget", operations.forget(&stranger, &namespace, connection).await);
    }
}

async fn takes_a_name(harness: &impl OperationsHarness) {
    let (operations, namespace, connection) = (harness.operations(), harness.namespace(), harness.whole());
    let cx = context("switch", harness.patience());
    let now = async || good("it tells where it points to", operations.endpoint(&cx, &namespace, &connection).await);
    let (before, to) = (now().await, endpoint("projects/conformance/databases/restored"));
    for promise in ["it can be pointed to a name", "again too"] {
        good(promise, operations.switch(&cx, &namespace, &connection, &to).await);
        assert_eq!(now().await.as_ref(), Some(&to));
    }
    for promise in ["it can be reverted", "reverting again is fine"] {
        good(promise, operations.revert(&cx, &namespace, &connection, &to).await);
        assert_eq!(now().await, before, "it is as it was");
    }
    for connection in harness.connections() {
        let refused = operations.switch(&cx, &namespace, &connection, &to).await;
        fails("a name is not put where a host is", ErrorKind::Invalid, refused);
    }
}

async fn leaves_what_others_write(harness: &impl OperationsHarness, connection: &Connection) {
    let (operations, namespace) = (harness.operations(), harness.namespace());
    let cx = context("switch", harness.patience());
    let before = good("it tells where it points to", operations.endpoint(&cx, &namespace, connection).await);
    let (to, theirs) = (endpoint("restored.conformance.invalid:27018"), endpoint("theirs.conformance.invalid:27019"));
    good("it can be switched", operations.switch(&cx, &namespace, connection, &to).await);
    harness.point(connection, &theirs).await;
    let again = operations.switch(&cx, &namespace, connection, &to).await;
    fails("what somebody else wrote is not overwritten", ErrorKind::Drift, again);
    let back = operations.revert(&cx, &namespace, connection, &to).await;
    fails("not on the way back either", ErrorKind::Drift, back);
    let now = good("it tells where it points to", operations.endpoint(&cx, &namespace, connection).await);
    assert_eq!(now, Some(theirs), "it is theirs");
    harness.point(connection, &to).await;
    good("it can be reverted", operations.revert(&cx, &namespace, connection, &to).await);
    assert_eq!(good("it is as it was", operations.endpoint(&cx, &namespace, connection).await), before);
}

async fn executes(harness: &impl OperationsHarness) {
    let (operations, namespace) = (harness.operations(), harness.namespace());
    let cx = context("exec", harness.patience());
    let (succeeds, fails_with_3) = harness.commands();
    let result = good("a command can be run", operations.exec(&cx, &namespace, &succeeds).await);
    assert_eq!(result.code, 0, "{result:?}");
    assert!(!result.pod.is_empty());
    if let Some(request) = fails_with_3 {
        let result = good("one that fails is no error", operations.exec(&cx, &namespace, &request).await);
        assert_eq!(result.code, 3, "{result:?}");
    }
    let nowhere = ExecRequest { workload: WorkloadRef::deployment("conformance-none"), ..succeeds };
    fails("there is no such workload", ErrorKind::NotFound, operations.exec(&cx, &namespace, &nowhere).await);
}
