use moodify_core::Backends;
use moodify_http::{HttpConfig, NotifierKind, PrometheusConfig};
use serde_json::json;

fn nothing_set(_: &str) -> Option<String> {
    None
}

#[test]
fn a_whole_configuration_becomes_backends() {
    let config: HttpConfig = serde_json::from_value(json!({
        "prometheus": {"url": "http://127.0.0.1:9090/base/", "token-env": "PROM", "queries": {"mine": "vector(1)"}},
        "json": {"metrics": {"error-rate": {
            "url": "https://api.moodify.com/metrics/error-rate", "pointer": "/a", "unit": "percent", "mixed": true,
        }}},
        "status-page": {"url": "https://status.moodify.com", "token-env": "STATUS"},
        "notifiers": {
            "team": {"kind": "slack", "url-env": "SLACK"},
            "audit": {"kind": "webhook", "url-env": "HOOK", "token-env": "HOOK_TOKEN"},
        },
        "probe": {"timeout": "10s"},
    }))
    .unwrap();
    let again: HttpConfig = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
    assert_eq!(again, config);

    let mut backends = Backends::default();
    config.install_with(&mut backends, &|name| Some(format!("https://{name}.example/\n"))).unwrap();
    assert_eq!(backends.metrics.keys().collect::<Vec<_>>(), ["json", "prometheus"]);
    assert_eq!(backends.notifiers.keys().collect::<Vec<_>>(), ["audit", "team"]);
    assert!(backends.probe.is_some() && backends.status_page.is_some());
}

#[test]
fn nothing_configured_is_a_probe() {
    let mut backends = Backends::default();
    HttpConfig::default().install_with(&mut backends, &nothing_set).unwrap();
    assert!(backends.probe.is_some() && backends.metrics.is_empty() && backends.status_page.is_none());
}

#[test]
fn all_problems_are_told_at_once_each_with_its_place() {
    let config: HttpConfig = serde_json::from_value(json!({
        "ca-file": "/nowhere/ca.pem",
        "prometheus": {"url": "prometheus:9090", "token-env": "UNSET", "queries": {"mine": " "}},
        "json": {"metrics": {"m": {"url": "{{service}}", "pointer": "a"}}},
        "status-page": {"url": "", "token-env": ""},
        "notifiers": {"team": {"kind": "slack", "url-env": "UNSET", "token-env": "UNSET"}},
        "probe": {"timeout": "0s"},
    }))
    .unwrap();
    let mut backends = Backends::default();
    let problems = config.install_with(&mut backends, &nothing_set).unwrap_err();
    let places: Vec<&str> = problems.iter().map(moodify_core::Error::target).collect();
    for place in [
        "/nowhere/ca.pem",
        "prometheus.url",
        "prometheus.token-env",
        "prometheus.queries.mine",
        "json.metrics.m.url",
        "json.metrics.m.pointer",
        "status-page.url",
        "status-page.token-env",
        "notifiers.team.url-env",
        "notifiers.team.token-env",
        "probe.timeout",
    ] {
        assert!(places.contains(&place), "{place}: {problems:#?}");
    }
    assert!(backends.probe.is_none(), "nothing is installed by halves");
}

#[test]
fn every_kind_of_page_and_notifier_can_be_configured() {
    let config: HttpConfig = serde_json::from_value(json!({
        "status-page": {"kind": "statuspage", "page": "p4ge", "token-env": "KEY", "title": "moodify", "components": ["c"]},
        "status-pages": {
            "cachet": {"kind": "cachet", "url": "https://status.example", "token-env": "TOKEN", "title": "moodify"},
            "alerts": {"kind": "alertmanager", "url": "http://am:9093", "matchers": ["namespace=shop"], "lasts": "3h"},
        },
        "notifiers": {
            "teams": {"kind": "teams", "url-env": "HOOK"},
            "audit": {"kind": "webhook", "url-env": "HOOK", "secret-env": "SECRET"},
            "pager": {"kind": "pagerduty", "token-env": "KEY", "url": "https://pager.example/v2/enqueue", "source": "shop"},
            "other": {"kind": "opsgenie", "token-env": "KEY", "url": "https://api.eu.opsgenie.com"},
            "mail": {"kind": "mail", "token-env": "PASSWORD", "mail": {
                "server": "mail.example", "security": "starttls", "from": "a@example.com", "to": ["b@example.com"], "user": "u",
            }},
        },
    }))
    .unwrap();
    let again: HttpConfig = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let mut backends = Backends::default();
    config.install_with(&mut backends, &|name| Some(format!("https://{name}.example/"))).unwrap();
    assert_eq!(backends.notifiers.len(), 5);
    assert!(backends.status_page.unwrap().capabilities().maintenance);
}

#[test]
fn what_a_kind_does_not_have_or_lacks_is_told_with_its_place() {
    let config: HttpConfig = serde_json::from_value(json!({
        "status-page": {"url": "https://status.example", "token-env": "A", "matchers": ["a=b"]},
        "status-pages": {
            "a": {"kind": "statuspage", "lasts": "1h"},
            "b": {"kind": "cachet", "token-env": "A", "components": ["c"]},
            "c": {"kind": "alertmanager", "url": "http://am:9093", "matchers": ["a"], "lasts": "0s"},
            "d": {"kind": "alertmanager", "url": "http://am:9093"},
        },
        "notifiers": {
            "a": {"kind": "slack"},
            "b": {"kind": "pagerduty", "url-env": "A"},
            "c": {"kind": "opsgenie", "token-env": "A", "url": "https://me:planted@host/"},
            "d": {"kind": "mail"},
            "e": {"kind": "mail", "mail": {"server": "s", "from": "nobody", "to": ["b@example.com"], "user": "u"}},
            "f": {"kind": "teams", "url-env": "A", "secret-env": "A"},
        },
    }))
    .unwrap();
    let set = |name: &str| (name == "A").then(|| "https://host.example/".to_owned());
    let problems = config.install_with(&mut Backends::default(), &set).unwrap_err();
    let places: Vec<&str> = problems.iter().map(moodify_core::Error::target).collect();
    let all = [
        "status-page.matchers",
        "status-pages.a.lasts",
        "status-pages.a.page",
        "status-pages.a.token-env",
        "status-pages.b.components",
        "status-pages.b.url",
        "status-pages.c.matchers",
        "status-pages.c.lasts",
        "status-pages.d.matchers",
        "notifiers.a.url-env",
        "notifiers.b.url-env",
        "notifiers.b.token-env",
        "notifiers.c.url",
        "notifiers.d.mail",
        "notifiers.e.mail.user",
        "notifiers.e.mail.from",
        "notifiers.f.secret-env",
    ];
    for place in all {
        assert!(places.contains(&place), "{place}: {problems:#?}");
    }
    assert_eq!(places.len(), all.len(), "{problems:#?}");
    assert!(!format!("{problems:?}").contains("planted"), "{problems:?}");
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    for bad in [
        json!({"prometeus": {}}),
        json!({"prometheus": {"url": "http://a", "token": "secret"}}),
        json!({"json": {"metric": {}}}),
        json!({"json": {"metrics": {"m": {"url": "http://a", "units": "percent"}}}}),
        json!({"status-page": {"url": "http://a", "token-env": "A", "x": 1}}),
        json!({"notifiers": {"n": {"kind": "slack", "url-env": "A", "channel": "#x"}}}),
        json!({"probe": {"timeot": "1s"}}),
    ] {
        assert!(serde_json::from_value::<HttpConfig>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn the_environment_configures_what_is_set() {
    let set = |name: &str| match name {
        "MOODIFY_PROMETHEUS_URL" => Some("http://127.0.0.1:9090".to_owned()),
        "MOODIFY_SLACK_WEBHOOK" => Some("https://hooks.example/x".to_owned()),
        "MOODIFY_STATUS_PAGE_URL" => Some(String::new()),
        _ => None,
    };
    let config = HttpConfig::from_lookup(&set);
    assert_eq!(config.prometheus, Some(PrometheusConfig::new("http://127.0.0.1:9090")));
    assert_eq!(config.notifiers["slack"].kind, NotifierKind::Slack);
    assert_eq!(config.status_page, None, "empty is not set");
    config.install_with(&mut Backends::default(), &set).unwrap();

    let all = HttpConfig::from_lookup(&|_| Some("https://host.example/x".to_owned()));
    assert_eq!(all.notifiers.keys().collect::<Vec<_>>(), ["opsgenie", "pagerduty", "slack", "teams", "webhook"]);
    assert_eq!(all.status_pages.keys().collect::<Vec<_>>(), ["cachet", "statuspage"]);
    assert_eq!(all.notifiers["webhook"].secret_env.as_deref(), Some("MOODIFY_WEBHOOK_SECRET"));
}
