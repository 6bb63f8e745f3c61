//! A case that broke a promise, for people.

use std::fmt::Write as _;
use std::time::Duration;

use moodify_core::journal::Record;

use super::case::Case;
use super::drive::Trace;
use super::invariants::Violation;
use super::journal::Logged;

/// Calls that are shown at most.
const CALLS: usize = 60;

fn secs(time: Duration) -> String {
    format!("{:>9.3}", time.as_secs_f64())
}

/// A text in which nothing differs from run to run of the same case.
#[must_use]
pub fn same_every_time(text: &str, trace: &Trace) -> String {
    let created = |logged: &Logged| match &logged.entry.record {
        Record::Created { run, .. } => Some(run.clone()),
        _ => None,
    };
    let undo = trace.undone.as_ref().and_then(|undone| undone.log.first().and_then(created));
    let names = [(trace.run.clone(), "RUN"), (undo, "UNDO")];
    let all = names.into_iter().filter_map(|(run, name)| Some((run?, name)));
    all.fold(text.to_owned(), |text, (run, name)| text.replace(run.as_str(), name))
}

/// A case, as lines.
#[must_use]
pub fn scenario(case: &Case) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() && value != "[]" && value != "None" {
            let _ = writeln!(text, "  {name:<11} {value}");
        }
    };
    let services = case.services.iter().enumerate().map(|(index, service)| {
        let router = if service.by_ratio { "replica-ratio" } else { "http-route" };
        format!("{} ({router}, {} instances)", Case::service_name(index), service.replicas)
    });
    line("services", services.collect::<Vec<_>>().join(", "));
    let weights = case.weights.iter().map(|(weight, seconds)| format!("{weight} % for {seconds} s"));
    line("weights", weights.collect::<Vec<_>>().join(", "));
    let metrics = case.analysis.metrics.iter().map(|metric| format!("{metric:?}"));
    line("metrics", metrics.collect::<Vec<_>>().join("\n              "));
    line(
        "analysis",
        format!("every {} ms, after {} ms; {:?}", case.analysis.interval, case.analysis.warm_up, case.analysis.no_data),
    );
    line("steps", case.plan().steps().map(|(_, step)| step.name.clone()).collect::<Vec<_>>().join(", "));
    line("retries", format!("{:?}", case.retry));
    line("gates", format!("{:?}", case.gates));
    line("flaw", format!("{:?}", case.flaw));
    line("pod start", format!("{} ms", case.pod_start));
    line("journal", format!("{} ms a record", case.journal_time));
    line("behaviours", format!("{:?}", case.behaviours));
    line("edits", format!("{:?}", case.edits));
    line("outage", format!("{:?}", case.outage));
    line("NaN", format!("{:?}", case.not_a_number));
    for rule in &case.rules {
        line("fault", format!("{rule:?}"));
    }
    for partition in &case.partitions {
        line("unreachable", format!("{partition:?}"));
    }
    for (number, life) in case.lives.iter().enumerate() {
        line(&format!("engine-{number}"), format!("{life:?}"));
    }
    line("commands", format!("{:?}", case.commands));
    line("clock jumps", format!("{:?}", case.jumps));
    line("undo", format!("{:?}", case.undo));
    text
}

/// All that happened, as lines in the order of time: records, writes, calls that went wrong or wrote, flows.
#[must_use]
pub fn history(trace: &Trace) -> String {
    let mut lines: Vec<(Duration, String)> = Vec::new();
    let undone = trace.undone.as_ref();
    for logged in trace.log.iter().chain(undone.iter().flat_map(|undone| &undone.log)) {
        let entry = &logged.entry;
        let record = match &entry.record {
            Record::Created { by, .. } => format!("created by {by}"),
            other => serde_json::to_string(other).unwrap_or_default(),
        };
        lines.push((logged.at, format!("journal  {:>3} engine-{} {record}", entry.seq, logged.life)));
    }
    let reads = ["read", "watch", "observe", "query", "find", "pods", "watch_pods", "probe"];
    let calls = trace.calls.iter().chain(undone.iter().flat_map(|undone| &undone.calls)).filter(|call| {
        !reads.contains(&call.operation) || call.fault.is_some() || call.outcome.is_none_or(|outcome| outcome.is_err())
    });
    let calls: Vec<_> = calls.collect();
    let shown = calls.len().min(CALLS);
    for call in &calls[calls.len() - shown..] {
        let fault = call.fault.map(|fault| format!(" {fault:?}")).unwrap_or_default();
        let outcome = match call.outcome {
            Some(Ok(())) => "ok".to_owned(),
            Some(Err(kind)) => format!("{kind:?}"),
            None => "no answer".to_owned(),
        };
        let who = format!("{} {} {} {}", call.by, call.backend, call.operation, call.subject);
        lines.push((call.at, format!("call         {who}:{fault} {outcome}")));
    }
    for write in trace.writes.iter().chain(undone.iter().flat_map(|undone| &undone.writes)) {
        lines.push((write.at, format!("written      {} by {}", write.what, write.by)));
    }
    for flow in &trace.flows {
        let shares = flow.shares.iter().map(|(image, share)| format!("{image} {:.1} %", share * 100.0));
        let shares = shares.collect::<Vec<_>>().join(", ");
        lines.push((flow.at, format!("traffic      {}: {shares}; {:.1} % nowhere", flow.service, flow.lost * 100.0)));
    }
    for (life, at) in &trace.taken {
        lines.push((*at, format!("taken        by engine-{life}")));
    }
    for (number, life) in trace.lives.iter().enumerate() {
        lines.push((life.over, format!("engine-{number}     {:?}, hit: {}", life.death, life.hit)));
    }
    lines.sort_by_key(|line| line.0);
    let text: String = lines.iter().map(|(at, line)| format!("  {} {line}\n", secs(*at))).collect();
    same_every_time(&text, trace)
}

/// Everything that a person needs who looks for the defect.
#[must_use]
pub fn failure(seed: u64, case: &Case, trace: &Trace, violation: &Violation) -> String {
    format!(
        "{}\nreplay: cargo run --release -p moodify-tests --no-default-features --bin sweep -- --seed {seed} --runs 1\n\
         the smallest case of it:\n{}what happened:\n{}it ended: {}\n",
        same_every_time(&violation.to_string(), trace),
        scenario(case),
        history(trace),
        same_every_time(
            &format!("{:?} {:?} {:?}", trace.ended, trace.refused, trace.undone.as_ref().map(|undone| &undone.ended)),
            trace
        ),
    )
}
