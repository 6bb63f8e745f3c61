//! A secret is planted wherever one can be, every server repeats it, and everything that can be printed is searched.

use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use moodify_core::backend::{
    IncidentStatus, IncidentUpdate, MetricSource, Notification, Notifier, Probe, ProbeRequest, StatusPage,
};
use moodify_core::{Backends, Error};
use moodify_http::{
    AlertmanagerSilence, AtlassianStatuspage, CachetPage, HttpConfig, HttpProbe, JsonMetric, JsonMetricConfig,
    JsonSource, NotifierConfig, NotifierKind, OpsgenieNotifier, PagerDutyNotifier, PrometheusConfig, PrometheusSource,
    RunbookStatusPage, SlackNotifier, StatusPageConfig, TeamsNotifier, WebhookNotifier,
};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::{client, cx, cx_for, query};

const PLANTED: &str = "xoxb-planted-31337";

fn told(all: &mut String, error: &Error) {
    write!(all, "{error}\n{error:?}\n{:?}\n", error.to_record()).unwrap();
    let mut source = error.source();
    while let Some(inner) = source {
        write!(all, "{inner}\n{inner:?}\n").unwrap();
        source = inner.source();
    }
}

/// Everything that the backends can say about a server at `base`.
async fn everything(base: &str, timeout: Duration) -> String {
    let cx = cx_for(timeout);
    let with_userinfo = base.replacen("://", &format!("://me:{PLANTED}@"), 1);
    let in_query = format!("{with_userinfo}/metrics?api_key={PLANTED}");
    let hook = format!("{base}/services/{PLANTED}").into();
    let prometheus = PrometheusSource::new(client(), &with_userinfo).unwrap().with_token(PLANTED.into());
    let json = JsonSource::new(client())
        .with_metric("error-rate", JsonMetric::new(&in_query).mixed(true).with_token(PLANTED.into()));
    let statuspage = AtlassianStatuspage::new(client(), "p4ge", PLANTED.into()).unwrap().at(base).unwrap();
    let matchers = vec!["namespace=shop".parse().unwrap()];
    let pages: [Box<dyn StatusPage>; 4] = [
        Box::new(RunbookStatusPage::new(client(), base, PLANTED.into()).unwrap()),
        Box::new(statuspage.with_interval(Duration::ZERO)),
        Box::new(CachetPage::new(client(), base, PLANTED.into()).unwrap()),
        Box::new(AlertmanagerSilence::new(client(), base, matchers).unwrap().with_token(PLANTED.into())),
    ];
    let webhook = WebhookNotifier::new(client(), &hook).unwrap();
    let notifiers: [Box<dyn Notifier>; 5] = [
        Box::new(SlackNotifier::new(client(), &hook).unwrap()),
        Box::new(TeamsNotifier::new(client(), &hook).unwrap()),
        Box::new(webhook.with_token(PLANTED.into()).with_secret(PLANTED.into())),
        Box::new(PagerDutyNotifier::new(client(), PLANTED.into()).unwrap().at(base).unwrap()),
        Box::new(OpsgenieNotifier::new(client(), PLANTED.into()).unwrap().at(base).unwrap()),
    ];
    let probe = HttpProbe::new(client());

    let mut all = format!("{prometheus:?}{json:?}{pages:?}{notifiers:?}{probe:?}");
    let note = Notification::new("t").with_body("b");
    let update = IncidentUpdate { status: IncidentStatus::Resolved, message: "m".into() };
    told(&mut all, &prometheus.query(&cx, &query("error-rate")).await.unwrap_err());
    told(&mut all, &json.query(&cx, &query("error-rate")).await.unwrap_err());
    for page in pages {
        told(&mut all, &page.open(&cx, &update).await.unwrap_err());
        told(&mut all, &page.update(&cx, "1", &update).await.unwrap_err());
    }
    for notifier in notifiers {
        told(&mut all, &notifier.notify(&cx, &note).await.unwrap_err());
    }
    write!(all, "{:?}", probe.probe(&cx, &ProbeRequest::get(&in_query)).await).unwrap();
    all
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_secret() {
    let mut all = everything("http://127.0.0.1:1", Duration::from_secs(20)).await;
    all += &everything("http://127.0.0.1:1", Duration::ZERO).await;
    for status in [307, 400, 401, 403, 422, 500] {
        let server = MockServer::start().await;
        let answer = ResponseTemplate::new(status)
            .insert_header("location", format!("http://127.0.0.1:1/x?session={PLANTED}"))
            .set_body_string(format!("{{\"error\": \"what is {PLANTED}? you sent\n{PLANTED}\""));
        Mock::given(any()).respond_with(answer).mount(&server).await;
        all += &everything(&server.uri(), Duration::from_secs(20)).await;
    }
    assert!(!all.contains(PLANTED), "{all}");
    assert!(all.contains("what is ...? you sent ..."), "the servers' own words are told: {all}");
}

#[tokio::test]
async fn a_good_answer_that_is_not_understood_holds_no_secret_either() {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_json(PLANTED);
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let source = PrometheusSource::new(client(), &server.uri()).unwrap().with_token(PLANTED.into());
    let mut all = String::new();
    told(&mut all, &source.query(&cx(), &query("error-rate")).await.unwrap_err());
    assert!(!all.contains(PLANTED) && all.contains("cannot be understood"), "{all}");
}

#[test]
fn configuration_and_its_problems_hold_no_secret() {
    let mut json = JsonMetricConfig::new("https://api.example/{{version}}");
    json.token_env = Some(PLANTED.to_owned());
    let config = HttpConfig::default()
        .with_prometheus(PrometheusConfig::new(&format!("https://me:{PLANTED}@prometheus.example")))
        .with_json_metric("error-rate", json)
        .with_status_page(StatusPageConfig::new("https://status.example", "STATUS_TOKEN"))
        .with_notifier("team", NotifierConfig::new(NotifierKind::Slack, "SLACK"));
    let lookup = |name: &str| (name == "SLACK").then(|| format!("no address: {PLANTED}"));
    let problems = config.install_with(&mut Backends::default(), &lookup).unwrap_err();
    assert_eq!(problems.len(), 4, "{problems:?}");
    let mut all = String::new();
    problems.iter().for_each(|problem| told(&mut all, problem));
    assert!(!all.contains(PLANTED), "{all}");

    let good = HttpConfig::default()
        .with_status_page(StatusPageConfig::new("https://status.example", "TOKEN"))
        .with_notifier("team", NotifierConfig::new(NotifierKind::Webhook, "HOOK"));
    let mut backends = Backends::default();
    let lookup =
        |name: &str| Some(if name == "HOOK" { format!("https://hook.example/{PLANTED}") } else { PLANTED.into() });
    good.install_with(&mut backends, &lookup).unwrap();
    assert!(!format!("{good:?}{backends:?}").contains(PLANTED));
}
