//! Actions in the annotations of an `Ingress` of the AWS Load Balancer Controller. Pure.

use std::ops::Range;

use serde_json::Value;

use super::list::{self, Destination};
use super::rule::{Edit, Kind, Rule, Services, remembered};
use super::testers;
use crate::patch;

/// An `Ingress` whose paths name an action (`use-annotation`) that forwards to target groups. What the load balancer
/// does is not told in the cluster.
///
/// An action is text, and everything in it but two weights and the canary's target group stays as somebody typed it.
#[derive(Debug)]
pub(super) struct Alb;

pub(super) const ACTIONS: &str = "alb.ingress.kubernetes.io/actions.";
/// The name of the port in a path that leads to an action and not to a Service.
pub(super) const BY_ACTION: &str = "use-annotation";

impl Destination for Alb {
    fn leads_to(&self, group: &Value, service: &str, _: &str) -> bool {
        *field(group, "serviceName") == service
    }

    fn weight(&self, group: &Value, _: usize) -> u64 {
        field(group, "weight").as_u64().unwrap_or(1)
    }

    fn name(&self, group: &Value) -> String {
        let names = ["serviceName", "targetGroupARN", "targetGroupName"].into_iter();
        names.filter_map(|name| field(group, name).as_str()).next().unwrap_or("?").to_owned()
    }
}

/// The controller reads names whatever their case.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    let found = object.as_object().and_then(|fields| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
    found.map_or(&Value::Null, |(_, value)| value)
}

impl Kind for Alb {
    fn rules(&self, object: &Value, services: &Services) -> Vec<Rule> {
        let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
        let of_testers = testers::made(object);
        let actions = annotations.filter_map(|(key, value)| Some((key, key.strip_prefix(ACTIONS)?, value)));
        let actions = actions.filter(|(_, action, _)| !of_testers.iter().any(|name| name == action));
        let divided = actions.filter_map(|(key, action, value)| {
            let parsed: Value = serde_json::from_str(value.as_str()?).ok()?;
            let groups = field(field(&parsed, "forwardConfig"), "targetGroups").as_array()?;
            let path = patch::annotation(key);
            let mut rule = list::rule(self, format!("the action {action}"), path, groups, services)?;
            let own = rule.stable.filter(|_| rule.canary.is_none()).map(|place| &groups[place.index]);
            rule.original = own.and_then(|group| field(group, "weight").as_u64());
            rule.value = value.clone();
            Some(rule)
        });
        let mut rules: Vec<Rule> = divided.collect();
        let before = remembered(object, rules.len());
        let divided = rules.iter_mut().zip(before).filter(|(rule, _)| rule.canary.is_some());
        divided.for_each(|(rule, before)| rule.original = before);
        rules
    }

    /// A path that goes to the Service past the actions.
    fn obstacle(&self, object: &Value, services: &Services) -> Option<String> {
        let rules = object["spec"]["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        let paths = rules.iter().flat_map(|rule| rule["http"]["paths"].as_array().into_iter().flatten());
        let backends = paths.map(|path| &path["backend"]).chain([&object["spec"]["defaultBackend"]]);
        let mut direct = backends
            .map(|backend| &backend["service"])
            .filter(|service| service["name"] == *services.stable && service["port"]["name"] != BY_ACTION);
        direct.next().map(|_| {
            let stable = &services.stable;
            format!(
                "one of its paths leads to the Service {stable} itself, where no weights are; lead it to an action that \
                 forwards to {stable}"
            )
        })
    }

    fn edited(&self, rule: &Rule, services: &Services, edit: Edit) -> Value {
        let text = rule.value.as_str().unwrap_or_default();
        edited(text, rule, services, edit).map_or_else(|| rule.value.clone(), Value::from)
    }

    fn by_hand(&self, Services { stable, canary, .. }: &Services) -> String {
        format!(
            "(.metadata.annotations | to_entries[] | select(.key | startswith(\"{ACTIONS}\")) | .key) as $key | \
             .metadata.annotations[$key] |= (fromjson | (.forwardConfig.targetGroups | arrays) |= \
             map(select(.serviceName != \"{canary}\") | if .serviceName == \"{stable}\" then .weight = 1 else . end) \
             | tojson)"
        )
    }
}

/// The text of an action after a change. `None` for what is not there to be changed.
fn edited(text: &str, rule: &Rule, services: &Services, edit: Edit) -> Option<String> {
    let whole = text.find('{')?..text.rfind('}')? + 1;
    let groups = parts(text, &member(text, &member(text, &whole, "forwardConfig")?, "targetGroups")?);
    let group = |index: usize| groups.get(index).map(|group| &text[group.clone()]);
    let (stable, canary) = (rule.stable.map(|place| place.index), rule.canary.map(|place| place.index));
    // Which part of the text becomes what.
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    match (edit, stable, canary) {
        (Edit::Divide { stable: share, canary: rest }, Some(stable), canary) => {
            let mut own = weighed(group(stable)?, Some(share))?;
            match canary {
                Some(canary) => changes.push((groups[canary].clone(), weighed(group(canary)?, Some(rest))?)),
                None => own = format!("{own},{}", redirected(&weighed(group(stable)?, Some(rest))?, &services.canary)?),
            }
            changes.push((groups[stable].clone(), own));
        }
        (Edit::Restore, Some(stable), Some(canary)) => {
            changes.push((groups[stable].clone(), weighed(group(stable)?, rule.original)?));
            changes.push((with_comma(&groups, canary), String::new()));
        }
        // Somebody took the stable one out. An action without target groups is refused.
        (Edit::Restore, None, Some(canary)) => {
            let back = redirected(&weighed(group(canary)?, rule.original)?, &services.stable)?;
            changes.push((groups[canary].clone(), back));
        }
        _ => {}
    }
    // From behind, so that the places before stay what they are.
    changes.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    changes.iter().for_each(|(place, new)| text.replace_range(place.clone(), new));
    Some(text)
}

/// The text of a target group with this weight, which comes last if there was none; without any if it is `None`.
fn weighed(group: &str, weight: Option<u64>) -> Option<String> {
    let whole = 0..group.len();
    let mut group_text = group.to_owned();
    match (member(group, &whole, "weight"), weight) {
        (Some(place), Some(weight)) => group_text.replace_range(place, &weight.to_string()),
        (None, Some(weight)) => {
            let last = parts(group, &whole).last()?.end;
            group_text.insert_str(last, &format!(",\"weight\":{weight}"));
        }
        (Some(place), None) => {
            let parts = parts(group, &whole);
            let index = parts.iter().position(|part| part.end == place.end)?;
            group_text.replace_range(with_comma(&parts, index), "");
        }
        (None, None) => {}
    }
    Some(group_text)
}

/// A part with the comma before it, or else the one behind it.
fn with_comma(parts: &[Range<usize>], index: usize) -> Range<usize> {
    match index.checked_sub(1) {
        Some(before) => parts[before].end..parts[index].end,
        None => parts[0].start..parts.get(1).map_or(parts[0].end, |next| next.start),
    }
}

/// The text of a target group with this Service.
fn redirected(group: &str, service: &str) -> Option<String> {
    let mut text = group.to_owned();
    text.replace_range(member(group, &(0..group.len()), "serviceName")?, &format!("\"{service}\""));
    Some(text)
}

/// Where the value of a member of an object stands in the text.
fn member(text: &str, object: &Range<usize>, name: &str) -> Option<Range<usize>> {
    parts(text, object).into_iter().find_map(|part| {
        let (key, rest) = text[part.clone()].strip_prefix('"')?.split_once('"')?;
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        key.eq_ignore_ascii_case(name).then_some(part.end - value.len()..part.end)
    })
}

/// Where the members of an object or of a list stand in the text: what is between its brackets and commas, without the
/// space around it. The text is known to be JSON.
fn parts(text: &str, whole: &Range<usize>) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (Vec::new(), whole.start + 1);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate().take(whole.end).skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            // The last bracket ends the last part.
            b',' | b'}' | b']' if depth == 0 => {
                let part = &text[start..at];
                let begin = start + part.len() - part.trim_start().len();
                parts.push(begin..begin + part.trim().len());
                start = at + 1;
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rule::testing::{back, patched, services, step, there_and_back, try_step};
    use moodify_core::ErrorKind;
    use serde_json::json;

    const KEY: &str = "alb.ingress.kubernetes.io/actions.web-action";

    fn object(action: &str) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "ns", "annotations": {
                KEY: action, "alb.ingress.kubernetes.io/scheme": "internal",
                "alb.ingress.kubernetes.io/actions.home": r#"{"type":"redirect","redirectConfig":{"path":"/home"}}"#,
                "alb.ingress.kubernetes.io/actions.odd": "not JSON, not ours",
            }},
            "spec": {"rules": [{"http": {"paths": [
                {"path": "/", "pathType": "Prefix",
                 "backend": {"service": {"name": "web-action", "port": {"name": "use-annotation"}}}}]}}]},
        })
    }

    fn groups(groups: &str) -> Value {
        object(&format!(
            "{{\n  \"type\": \"forward\",\n  \"forwardConfig\" : {{\"targetGroups\" : [{groups}],\n    \
            \"targetGroupStickinessConfig\":{{\"enabled\": true ,\"durationSeconds\":200}}}} }}\n"
        ))
    }

    fn action(object: &Value) -> &str {
        object["metadata"]["annotations"][KEY].as_str().unwrap()
    }

    #[test]
    fn there_and_back_leaves_every_byte_as_it_was() {
        for text in [
            r#"{"serviceName":"web","servicePort":80}"#,
            r#"{"serviceName":"web","servicePort":"http","weight":100}"#,
            r#"{ "weight" : 7 , "serviceName" : "web" , "servicePort" : "http, \"quoted\" ]}" }"#,
            "\n    {\"serviceName\": \"web\",\n     \"servicePort\": 80\n    }\n  ",
            r#"{"targetGroupARN":"arn:old","weight":0}, {"serviceName":"web","servicePort":80} , {"serviceName":"x","weight":0}"#,
            r#"{"ServiceName":"web","ServicePort":80,"Weight":999}"#,
        ] {
            there_and_back(&Alb, &groups(text));
        }
    }

    #[test]
    fn only_two_weights_and_the_canary_s_group_change() {
        let before = groups(r#"{"serviceName":"web","servicePort":"http","weight": 1}"#);
        let now = step(&Alb, &before, 10);
        let expected = groups(concat!(
            r#"{"serviceName":"web","servicePort":"http","weight": 90},"#,
            r#"{"serviceName":"web-canary","servicePort":"http","weight": 10}"#
        ));
        assert_eq!(action(&now), action(&expected));
        let now = step(&Alb, &now, 100);
        assert!(
            action(&now).contains(r#""weight": 0},{"serviceName":"web-canary","servicePort":"http","weight": 100}"#)
        );
        assert_eq!(now["spec"], before["spec"]);
    }

    #[test]
    fn what_is_restored_is_there_also_when_the_memory_or_the_stable_group_is_lost() {
        let mut half = step(&Alb, &groups(r#"{"serviceName":"web","servicePort":80,"weight":7}"#), 50);
        half["metadata"]["annotations"].as_object_mut().unwrap().remove(super::super::rule::BEFORE);
        assert_eq!(back(&Alb, &half), groups(r#"{"serviceName":"web","servicePort":80}"#));
        let taken = groups(r#"{"serviceName":"web-canary","servicePort":80,"weight":100}"#);
        assert_eq!(back(&Alb, &taken), groups(r#"{"serviceName":"web","servicePort":80}"#));
        let turned = groups(r#"{"serviceName":"web-canary","weight":1}, {"serviceName":"web","weight":1}"#);
        assert_eq!(back(&Alb, &turned), groups(r#"{"serviceName":"web"}"#));
    }

    #[test]
    fn others_and_ways_around_are_not_ours_to_divide() {
        let shared = groups(r#"{"serviceName":"web"},{"targetGroupARN":"arn:old","weight":5}"#);
        let error = try_step(&Alb, &shared, 10).unwrap_err();
        assert!(error.message().contains("the action web-action sends traffic also to arn:old"), "{error}");
        let mut around = groups(r#"{"serviceName":"web"}"#);
        let path = json!({"path": "/x", "backend": {"service": {"name": "web", "port": {"number": 80}}}});
        around["spec"]["rules"][0]["http"]["paths"].as_array_mut().unwrap().push(path);
        let error = try_step(&Alb, &around, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("leads to the Service web itself"), "{error}");
    }

    #[test]
    fn text_that_is_odd_is_refused() {
        for odd in [
            r#"{"serviceName":"web","weight":1,"Weight":2}"#,
            r#"{"serviceName":"web","weight":1,"weight":2}"#,
            r#"{"service\u004eame":"web","weight":1}"#,
        ] {
            let error = try_step(&Alb, &groups(odd), 10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{odd}");
            assert!(error.message().contains("the action web-action is written in a way"), "{error}");
        }
    }

    #[test]
    fn actions_that_forward_elsewhere_are_none() {
        for action in [
            r#"{"type":"fixed-response","fixedResponseConfig":{"statusCode":"503"}}"#,
            r#"{"type":"forward","targetGroupARN":"arn:web"}"#,
            r#"{"type":"forward","forwardConfig":{"targetGroups":[{"serviceName":"other"}]}}"#,
            "[]",
        ] {
            assert!(Alb.rules(&object(action), &services()).is_empty(), "{action}");
        }
        assert_eq!(patched(object("{}"), &[]), object("{}"));
    }

    #[test]
    fn the_fields_are_told_by_their_names() {
        let rules = Alb.rules(&groups(r#"{"serviceName":"web"}"#), &services());
        assert_eq!(rules[0].fields(), ["f:metadata", "f:annotations", &format!("f:{KEY}")]);
    }
}
