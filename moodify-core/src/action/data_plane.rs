//! Whether the data plane follows, by what it answers.

use std::time::Duration;

use tokio::time::Instant;

use super::StepContext;
use crate::backend::{Sample, SampleRequest};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{DataPlane, Target};

/// How long after one sample the next one is taken.
const PAUSE: Duration = Duration::from_secs(1);
/// What chance is allowed: once in more than a million.
const DEVIATIONS: f64 = 5.0;

/// The standard deviation of the share that one request shows.
fn deviation(share: f64) -> f64 {
    (share * (1.0 - share)).max(0.0).sqrt()
}

/// How many requests tell one share from another, whatever chance does to either; at least so many, at most
/// [`DataPlane::MOST`].
fn enough(least: u32, from: f64, to: f64) -> u32 {
    let apart = (to - from).abs();
    if apart < f64::EPSILON {
        return least;
    }
    let root = DEVIATIONS * (deviation(from) + deviation(to)) / apart;
    // Far above what is clamped away it may be anything.
    let needed = (root * root).min(f64::from(DataPlane::MOST)) as u32 + 1;
    needed.clamp(least, DataPlane::MOST.max(least))
}

/// Whether so many of all may come of a share.
fn agrees(of: u32, all: u32, share: f64) -> bool {
    let (of, count) = (f64::from(of), f64::from(all));
    let expected = share * count;
    match deviation(share) {
        // All or nothing, which no chance blurs.
        d if d < f64::EPSILON => (of - expected).abs() < 0.5,
        d => (of - expected).abs() < DEVIATIONS * d * count.sqrt(),
    }
}

/// What people are told about answers: `v1 180, v2 20`.
fn told(sample: &Sample) -> String {
    let name = |version: &str| if version.is_empty() { "without it" } else { version }.to_owned();
    let mut counts: Vec<String> = sample.answers.iter().map(|(v, n)| format!("{} {n}", name(v))).collect();
    if sample.failed > 0 {
        counts.push(format!("not answered {}", sample.failed));
    }
    counts.join(", ")
}

/// Waits until the new version gives this share of the data plane's answers, which was another one before; at once where
/// the plan does not say whom to ask.
pub(super) async fn follows(cx: &StepContext, call: &CallContext, target: &Target, from: f64, to: f64) -> Result<()> {
    const OPERATION: &str = "ask the data plane";
    let Some(plane) = &target.service.traffic.verify else { return Ok(()) };
    let version = plane.version.as_ref().unwrap_or(&cx.plan().release.version);
    let request = SampleRequest {
        url: plane.url.to_string(),
        host: plane.host.clone(),
        header: plane.version_header.clone(),
        version: version.clone(),
        requests: enough(plane.requests, from, to),
    };
    let probe = cx.backends().probe()?;
    let begun = Instant::now();
    loop {
        let sample = probe.sample(call, &request).await?;
        let (of, all) = (sample.of(version), sample.all());
        let share = format!("{of} of {all} answers are {version}'s");
        // A request without an answer may have been anybody's.
        if sample.failed == 0 && all > 0 && agrees(of, all, to) {
            cx.note(format!("{target}: the data plane follows: {share}"));
            return Ok(());
        }
        cx.note(format!("{target}: the data plane does not follow yet: {share} ({})", told(&sample)));
        if begun.elapsed() >= plane.within.get() {
            let (wanted, header) = (to * 100.0, &plane.version_header);
            let got = if all == 0 { 0.0 } else { f64::from(of) * 100.0 / f64::from(all) };
            let message = format!(
                "the data plane does not follow: of {wanted:.0} % for {version} it gives {got:.1} % after {}, {of} of \
                 {all} answers by {header} ({})",
                plane.within,
                told(&sample)
            );
            let error = Error::new(ErrorKind::Unhealthy, "engine", OPERATION, message).on(target.to_string());
            let why = sample.detail.map(|why| format!("; {why}")).unwrap_or_default();
            return Err(error.hint(format!(
                "look whether the {} has taken the weight over, and whether {} leads through it{why}",
                target.service.traffic.router, plane.url
            )));
        }
        let pause = async {
            tokio::time::sleep(PAUSE).await;
            Ok(())
        };
        call.run("engine", OPERATION, pause).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_tell_a_weight_from_the_one_before() {
        for (from, to) in [(0.0, 0.1), (0.1, 0.5), (0.5, 1.0), (0.0, 0.01), (0.05, 0.1), (0.9, 1.0)] {
            let all = enough(1, from, to);
            let most_of_before = f64::from(all) * from + DEVIATIONS * deviation(from) * f64::from(all).sqrt();
            let unchanged = [from * f64::from(all), most_of_before].map(|of| of.floor() as u32);
            for of in unchanged {
                assert!(!agrees(of, all, to), "{of} of {all} at {from} is not {to}");
            }
            assert!(agrees((to * f64::from(all)).round() as u32, all, to), "{all} at {to}");
        }
        assert_eq!(enough(200, 0.1, 0.5), 200);
        assert_eq!(enough(1, 0.49, 0.5), DataPlane::MOST);
        assert_eq!(enough(200, 1.0, 1.0), 200);
    }

    #[test]
    fn nothing_and_all_are_exact() {
        assert!(agrees(0, 200, 0.0) && !agrees(1, 200, 0.0));
        assert!(agrees(200, 200, 1.0) && !agrees(199, 200, 1.0));
        assert!(agrees(12, 200, 0.1) && agrees(41, 200, 0.1) && !agrees(42, 200, 0.1));
    }
}
