//! The APIs of others as they are published: which fields a request has, which it needs, and what may be in them. The files
//! say where that stands.

use serde_json::Value;

/// What is published of one API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published(&'static str);

pub(crate) const STATUSPAGE: Published = Published(include_str!("../published/statuspage.json"));
pub(crate) const CACHET: Published = Published(include_str!("../published/cachet.json"));
pub(crate) const SLACK: Published = Published(include_str!("../published/slack.json"));
pub(crate) const TEAMS: Published = Published(include_str!("../published/teams.json"));
pub(crate) const PAGERDUTY: Published = Published(include_str!("../published/pagerduty.json"));
pub(crate) const OPSGENIE: Published = Published(include_str!("../published/opsgenie.json"));

impl Published {
    /// What is wrong with a request, by where it is; nothing if it is as published.
    pub(crate) fn judge(self, request: &str, sent: &Value) -> Result<(), String> {
        let published: Value = serde_json::from_str(self.0).unwrap();
        let known = &published["requests"][request];
        assert!(known.is_object(), "{request} is not published");
        judge(known, sent, "")
    }

    /// Of something in an answer, the fields that are published: what this crate reads has to be among them.
    pub(crate) fn shown(self, thing: &str, all: &Value) -> Value {
        let published: Value = serde_json::from_str(self.0).unwrap();
        shown(&published["answers"][thing], all)
    }

    /// The same as `judge` for a fake, which answers with a status.
    pub(crate) fn refuse(self, request: &str, sent: &Value) -> Result<(), (u16, &'static str)> {
        self.judge(request, sent).map_err(|why| {
            println!("{request}: {why}");
            (422, "not as the API is published")
        })
    }
}

fn shown(known: &Value, all: &Value) -> Value {
    match all {
        Value::Object(all) if known["fields"].is_object() => {
            let known = |name: &String| known["fields"].get(name);
            all.iter().filter_map(|(name, value)| Some((name.clone(), shown(known(name)?, value)))).collect()
        }
        Value::Array(all) => all.iter().map(|one| shown(&known["each"], one)).collect(),
        other => other.clone(),
    }
}

fn judge(known: &Value, sent: &Value, at: &str) -> Result<(), String> {
    let within = |name: &str| format!("{at}/{name}");
    let text = || sent.as_str().ok_or(format!("{at}: not a text"));
    if let Some(fields) = known.get("fields") {
        let sent = sent.as_object().ok_or(format!("{at}: not an object"))?;
        for required in known["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            sent.get(required).ok_or(format!("{}: missing", within(required)))?;
        }
        for (name, value) in sent {
            let known = fields.get(name).ok_or(format!("{}: there is no such field", within(name)))?;
            judge(known, value, &within(name))?;
        }
    }
    if let Some(known) = known.get("each") {
        match sent {
            Value::Array(all) => {
                all.iter().enumerate().try_for_each(|(n, v)| judge(known, v, &within(&n.to_string())))?;
            }
            Value::Object(all) => all.iter().try_for_each(|(name, value)| judge(known, value, &within(name)))?,
            _ => return Err(format!("{at}: neither list nor object")),
        }
    }
    if let Some(most) = known["max"].as_u64()
        && text()?.chars().count() as u64 > most
    {
        return Err(format!("{at}: longer than {most} characters"));
    }
    if let Some(words) = known["words"].as_array()
        && !words.contains(sent)
    {
        return Err(format!("{at}: {sent} is none of {words:?}"));
    }
    if known["object"] == true && !sent.is_object() {
        return Err(format!("{at}: not an object"));
    }
    if known["text"] == true {
        text()?;
    }
    Ok(())
}

#[test]
fn what_is_not_published_is_refused_with_its_place() {
    use serde_json::json;
    let all = [
        (
            STATUSPAGE,
            "POST /pages/{page_id}/incidents",
            json!({"incident": {"name": "x", "titel": 1}}),
            "/incident/titel: there is no such",
        ),
        (STATUSPAGE, "POST /pages/{page_id}/incidents", json!({"incident": {}}), "/incident/name: missing"),
        (
            STATUSPAGE,
            "PATCH /pages/{page_id}/incidents/{incident_id}",
            json!({"incident": {"body": "x".repeat(25_001)}}),
            "/incident/body: longer than",
        ),
        (
            STATUSPAGE,
            "PATCH /pages/{page_id}/incidents/{incident_id}",
            json!({"incident": {"metadata": {"a": 1}}}),
            "/incident/metadata/a: not an object",
        ),
        (
            STATUSPAGE,
            "PATCH /pages/{page_id}/incidents/{incident_id}",
            json!({"incident": {"components": {"c": "down"}}}),
            "/incident/components/c: ",
        ),
        (CACHET, "POST /incidents", json!({"name": "x", "status": 5, "message": "m"}), "/status: 5 is none of"),
        (SLACK, "POST webhook", json!({"mrkdwn": "x"}), "/mrkdwn: there is no such"),
        (
            PAGERDUTY,
            "POST /v2/enqueue, trigger",
            json!({"routing_key": "k", "event_action": "trigger"}),
            "/payload: missing",
        ),
        (OPSGENIE, "POST /v2/alerts", json!({"message": "m", "details": {"n": 1}}), "/details/n: not a text"),
        (TEAMS, "POST webhook", json!({"type": "message", "attachments": [{"content": {}}]}), "/attachments/0/content"),
    ];
    for (api, request, sent, says) in all {
        let why = api.judge(request, &sent).unwrap_err();
        assert!(why.starts_with(says), "{why}");
    }
    let incident = json!({"id": "i", "moodify": 1, "incident_updates": [{"body": "b", "at": 1}]});
    assert_eq!(STATUSPAGE.shown("incident", &incident), json!({"id": "i", "incident_updates": [{"body": "b"}]}));
}

/// What no fake asks about would rot unseen.
#[test]
fn each_published_request_is_judged_by_a_fake() {
    let fakes = concat!(include_str!("fakes.rs"), include_str!("people.rs"));
    for api in [STATUSPAGE, CACHET, SLACK, TEAMS, PAGERDUTY, OPSGENIE] {
        let published: Value = serde_json::from_str(api.0).unwrap();
        assert!(published["source"].as_str().unwrap().starts_with("https://") && published["seen"].is_string());
        for request in published["requests"].as_object().unwrap().keys() {
            assert!(fakes.contains(&format!("\"{request}\"")), "{request}");
        }
    }
}
