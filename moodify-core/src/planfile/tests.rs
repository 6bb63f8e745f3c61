use proptest::prelude::*;

use super::*;
use crate::backend::Audience;
use crate::strategy::Bake;

const RELEASE: &str = include_str!("../../../examples/plans/moodify-release.yaml");
const MINIMAL: &str = include_str!("../../../examples/plans/minimal.yaml");
const BLUE_GREEN: &str = include_str!("../../../examples/plans/blue-green.yaml");
const VERIFIED: &str = include_str!("../../../examples/plans/verified.yaml");
const ROLLBACK: &str = include_str!("../../../examples/plans/database-rollback.yaml");
const MINIMAL_JSON: &str = include_str!("../../../examples/plans/minimal.json");

/// The first lines of the problems with the minimal plan after `from` was replaced by `to` in it.
fn complaints(from: &str, to: &str) -> Vec<String> {
    assert!(MINIMAL.contains(from), "{from}");
    complaints_of(&MINIMAL.replacen(from, to, 1))
}

fn complaints_of(text: &str) -> Vec<String> {
    let errors = read(text, "p.yaml").unwrap_err();
    errors.problems().iter().map(|problem| problem.to_string().lines().next().unwrap().to_owned()).collect()
}

#[test]
fn the_examples_are_good_and_the_json_twin_is_the_same_plan() {
    let (release, _) = read(RELEASE, "moodify-release.yaml").unwrap_or_else(|e| panic!("{e}"));
    let (minimal, _) = read(MINIMAL, "minimal.yaml").unwrap_or_else(|e| panic!("{e}"));
    let (twin, _) = read(MINIMAL_JSON, "minimal.json").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(minimal, twin);
    let canary = |plan: &PlanFile, index: usize| match &plan.phases[index].content {
        PhaseContent::Strategy(StrategySpec::Canary(canary)) => canary.clone(),
        _ => panic!("phase {index} is no canary"),
    };
    assert_eq!(canary(&minimal, 0), Canary::default());
    assert_eq!(canary(&release, 1), Canary::default(), "the release writes the defaults out");
    assert_eq!(release.release.services.len(), 2);
    assert_eq!(release.environment.namespace, "moodify-production");
}

#[test]
fn a_plan_survives_being_written_and_read_again() {
    let (plan, _) = read(RELEASE, "p.yaml").unwrap();
    let written = serde_json::to_string(&plan).unwrap();
    assert_eq!(read(&written, "p.json").unwrap().0, plan);
}

#[test]
fn audiences_are_names_of_people_with_names_of_notifiers() {
    let with =
        |audiences: &str| MINIMAL.replacen("kind: staging", &format!("kind: staging\n  audiences: {audiences}"), 1);
    let (plan, _) = read(&with("{on-call: [pager, chat], team: [chat]}"), "p.yaml").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(plan.environment.audiences[&Audience::OnCall], ["pager", "chat"]);
    assert_eq!(complaints_of(&with("{teem: [chat]}")), ["p.yaml:8:15: unknown key \"teem\"; did you mean \"team\"?"]);
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let canary = "strategy: {canary: {}}";
    for (from, to, complaint) in [
        (canary, "strategy: {canary: {wieghts: [100]}}", "18:25: unknown key \"wieghts\"; did you mean \"weights\"?"),
        (canary, "strategy: {canary: {weights: [10, 110]}}", "18:39: a weight is 0 to 100 %, not 110"),
        (canary, "strategy: {canary: {weights: [50, 10, 100]}}", "18:39: weights must rise: 10 % comes after 50 %"),
        (canary, "strategy: {canary: {weights: [0, 100]}}", "18:35: a weight of 0 % sends nothing"),
        (
            canary,
            "strategy: {canary: {weights: [-1, 100]}}",
            "18:35: expected a whole number, 0 or more, found the number -1",
        ),
        (canary, "strategy: {canary: {weights: [10, 50]}}", "18:39: the last weight is 50 %"),
        (canary, "strategy: {canary: {weights: []}}", "18:34: no weights"),
        (canary, "strategy: {canary: {weights: 10}}", "18:34: expected a list, found the number 10"),
        (canary, "strategy: {canary: {bake: 15 minuts}}", "18:31: \"15 minuts\" is not a length of time"),
        (canary, "strategy: {canary: {bake: 15}}", "18:31: expected a length of time like 15m, or a list of them"),
        (canary, "strategy: {canary: {bake: [1m, 2m]}}", "18:31: 2 bakes for 3 weights"),
        (canary, "strategy: {canary: {bake: [1m, soon, 2m]}}", "18:36: \"soon\" is not a length of time"),
        (canary, "strategy: {canary: {analysis: {interval: 0s}}}", "18:46: the time between two measurements"),
        (
            canary,
            "strategy: {canary: {analysis: {metrics: [{name: x, fail: '5'}]}}}",
            "18:62: \"5\" is not a condition",
        ),
        (canary, "strategy: {canry: {}}", "18:16: unknown key \"canry\"; did you mean \"canary\"?"),
        (
            canary,
            "strategy: {}",
            "18:15: expected exactly one of canary, blue-green, rolling, recreate, database-rollback, found 0 keys",
        ),
        (canary, "strategy: canary", "18:15: expected settings below it, found only the name"),
        (canary, "steps: []", "18:12: no steps"),
        (canary, "steps: [{name: a}]", "18:13: the key \"action\" is missing"),
        (
            canary,
            "steps: [{name: a, action: b, with: {services: [backend, frontnd]}}]",
            "18:61: unknown service \"frontnd\"",
        ),
        (canary, "steps: [{name: a, action: b, retry: {attempts: 0}}]", "18:52: must be at least 1"),
        (
            canary,
            "steps: [{name: a, action: b}]\n    strategy: {canary: {}}",
            "17:5: phase \"rollout\" has steps and a strategy",
        ),
        ("    strategy: {canary: {}}\n", "", "17:5: phase \"rollout\" has neither steps nor a strategy"),
        ("phases:\n  - name: rollout\n    strategy: {canary: {}}\n", "phases: []\n", "16:9: no phases"),
        (
            "phases:\n  - name: rollout\n    strategy: {canary: {}}\n",
            "phases:\n",
            "16:7: expected a list, found nothing",
        ),
        ("name: minimal\n", "", "4:1: the key \"name\" is missing"),
        ("name: minimal\n", "name: ''\n", "4:7: must not be empty"),
        ("kind: staging", "kind: prodction", "7:9: unknown value \"prodction\"; did you mean \"production\"?"),
        (
            "kind: staging",
            "kind: staging\n  audiences: {team: []}",
            "8:21: an audience without a notifier hears nothing",
        ),
        ("version: v1.2.3", "version: 1.2", "10:12: expected a text, found the number 1.2; put it in quotes"),
        ("namespace: moodify-staging", "namespace: Moodify_Staging", "8:14: \"Moodify_Staging\" is not a valid name"),
        ("backend:v1.2.3", "backend", "14:14: \"registry.example/moodify/backend\" is not an image"),
        ("router: replica-ratio", "router: http-route", "15:16: the router http-route needs `route`"),
        (
            "router: replica-ratio",
            "router: istio",
            "15:16: the router istio needs `route`, the name of the VirtualService",
        ),
        ("kind: staging", "kind: staging\n  name: again", "8:3: the key \"name\" is there twice"),
        ("  kind: staging", "\tkind: staging", "7:1: while scanning a plain scalar, found a tab; indent with spaces"),
        ("{router:", "[router:", "15:16: "),
        ("kind: staging", "kind: *staging", "7:9: alias references unknown anchor"),
        ("name: minimal", "name: !secret minimal", "4:15: unsupported tag"),
        (
            "release:\n",
            "release:\n\tversion: 2\n",
            "10:1: tabs disallowed within this context (block indentation); indent",
        ),
        ("name: minimal", "name: minimal\n1: 2", "5:1: unknown key \"1\""),
        ("name: minimal", "name: minimal\n[1]: 2", "5:1: a key must be a text"),
        ("name: minimal", "name: .inf", "4:7: .inf is not a number"),
        ("name: minimal", "name: minimal\n---", "6:1: a second document begins here"),
    ] {
        let complaints = complaints(from, to);
        let expected = format!("p.yaml:{complaint}");
        assert!(complaints[0].starts_with(&expected), "{to}\n  expected {expected}\n  found    {complaints:#?}");
        assert_eq!(complaints.len(), 1, "{to}: {complaints:#?}");
    }
}

#[test]
fn mistakes_in_a_database_rollback_are_told_with_their_place() {
    let line = |text: &str| ROLLBACK.lines().position(|line| line.contains(text)).unwrap() + 1;
    for (from, to, on, complaint) in [
        ("from: latest #", "from: newest #", "from: latest", "unknown value \"newest\""),
        ("approvals: 2\n", "approvals: 0\n", "        approvals: 2", "must be at least 1"),
        ("target: moodify-production-restored", "target: ' '", "target:", "must not be empty"),
        ("key: MONGODB_URI}", "kye: MONGODB_URI}", "- secret:", "unknown key \"kye\""),
        ("\"{{endpoint}}\"", "host", "- config-map:", "the template has no {{endpoint}}"),
        (
            "workload: backend-deployment\n              command",
            "workload: pod/x\n              command",
            "exec:",
            "\"pod/x\" is no workload",
        ),
    ] {
        let text = ROLLBACK.replacen(from, to, 1);
        assert_ne!(text, ROLLBACK, "{from}");
        let found = complaints_of(&text);
        let at = if on == "exec:" { line(on) + 1 } else { line(on) };
        let is_it = |told: &String| told.starts_with(&format!("p.yaml:{at}:")) && told.contains(complaint);
        assert!(found.iter().any(is_it), "{to}, line {at}: {found:#?}");
    }
}

#[test]
fn many_mistakes_are_told_at_once_and_no_echo_of_them() {
    let text = MINIMAL
        .replace("namespace:", "namspace:")
        .replace("kind: staging", "kind: stage")
        .replace("backend:v1.2.3", "backend")
        .replace("{canary: {}}", "{canary: {weights: [10, 110], bake: soon}}");
    let found = complaints_of(&text);
    assert_eq!(found.len(), 5, "{found:#?}");
    let lines: Vec<&str> = found.iter().map(|line| line.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["7", "8", "14", "18", "18"], "in the order of the text");

    // Behind an unknown key the rest is checked as well.
    let text = MINIMAL.replace("name: minimal", "name: minimal\nowner: me").replace("moodify-staging", "Big");
    let found = complaints_of(&text);
    assert!(found[0].contains("unknown key \"owner\"") && found[1].contains("\"Big\""), "{found:#?}");
}

#[test]
fn a_problem_looks_like_a_compilers() {
    let text = MINIMAL.replace("{canary: {}}", "{canary: {wieghts: [100]}}");
    let expected = "\
p.yaml:18:25: unknown key \"wieghts\"; did you mean \"weights\"?
   |
18 |     strategy: {canary: {wieghts: [100]}}
   |                         ^
   = known here: weights, bake, analysis, ready-deadline, testers, mirror";
    assert_eq!(read(&text, "p.yaml").unwrap_err().to_string(), expected);
}

#[test]
fn two_of_a_name_are_told_with_both_places() {
    let text = MINIMAL.replace(
        "    strategy: {canary: {}}",
        "    steps:\n      - {name: tell, action: notify}\n      - {name: tell, action: notify}",
    );
    let shown = read(&text, "p.yaml").unwrap_err().to_string();
    assert!(shown.starts_with("p.yaml:20:16: step \"tell\" is there already"), "{shown}");
    assert!(shown.ends_with("= first at p.yaml:19:16"), "{shown}");

    let shown = read("name: a\nname: b\n", "p.yaml").unwrap_err().to_string();
    assert!(shown.contains("p.yaml:2:1: the key \"name\" is there twice"), "{shown}");
    assert!(shown.contains("= first at p.yaml:1:1"), "{shown}");
}

#[test]
fn json_has_places_too_also_in_one_long_line() {
    let line: String = MINIMAL_JSON.lines().map(str::trim).collect();
    let shown = read(&line.replace("canary", "canry"), "p.json").unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let column = line.find("\"canary\"").unwrap() + 1;
    assert!(lines[0].starts_with(&format!("p.json:1:{column}: unknown key \"canry\"")), "{shown}");
    assert!(lines.iter().all(|line| line.chars().count() < 120), "{shown}");
    let caret = lines[3].find('^').unwrap();
    assert!(lines[2][caret..].starts_with("\"canry\""), "{shown}");
    let tabs = MINIMAL_JSON.replace("  ", "\t");
    assert!(read(&tabs, "p.json").is_ok(), "JSON may be indented with tabs");
}

#[test]
fn where_the_data_plane_is_asked_is_checked() {
    let with = |verify: &str| {
        let traffic = format!("service: backend-service, verify: {{{verify}}}}}");
        complaints_of(&MINIMAL.replacen("service: backend-service}", &traffic, 1))
    };
    for (verify, complaint) in [
        ("url: shop.example, version-header: x-version", "a link begins with https:// or http://"),
        ("url: \"http://u:p@shop.example/\", version-header: x-version", "a link holds no user and no password"),
        ("url: \"http://shop.example/\", version-header: x version", "\"x version\" is not the name of a header"),
        ("url: \"http://shop.example/\", version-header: x, host: a/b", "\"a/b\" is not a host"),
        ("url: \"http://shop.example/\", version-header: x, requests: 0", "0 is not a number from 1 to 10000"),
    ] {
        let found = with(verify);
        assert!(found.len() == 1 && found[0].contains(complaint), "{verify}: {found:#?}");
    }
    let (plan, _) = read(VERIFIED, "verified.yaml").unwrap_or_else(|e| panic!("{e}"));
    let plane = plan.release.services[0].traffic.verify.clone().unwrap();
    assert_eq!((plane.url.as_str(), plane.host.as_deref()), ("http://127.0.0.1:80/ready", Some("shop.example")));
    assert_eq!((plane.requests, plane.within), (200, crate::model::Period::from_mins(1)), "the defaults, written out");
}

#[test]
fn a_bomb_of_aliases_is_refused_soon() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
    }
    let found = complaints_of(&bomb);
    assert!(found[0].contains("the aliases repeat too much"), "{found:#?}");
    assert!(complaints_of("a: &a [*a]")[0].contains("an alias stands inside of what it stands for"));
}

#[test]
fn nothing_is_nested_so_deeply_that_the_stack_ends() {
    let mut aliases = "a0: &a0 [x]\n".to_owned();
    for level in 1..60 {
        aliases += &format!("a{level}: &a{level} {}*a{}{}\n", "[".repeat(20), level - 1, "]".repeat(20));
    }
    for text in ["- ".repeat(1_000), "[".repeat(200) + &"]".repeat(200), "{a: ".repeat(100) + &"}".repeat(100), aliases]
    {
        assert!(complaints_of(&text)[0].contains("nested too deeply"), "{text}");
    }
    assert_eq!(complaints_of(&"[".repeat(100_000)).len(), 1);
}

#[test]
fn mistakes_in_the_whole_release() {
    for (from, to, complaint) in [
        ("\"10:00\"", "10", "18:60: expected a time string, found the number 10"),
        ("\"10:00\"", "\"15:00\"", "18:73: the window ends before it begins"),
        ("America/New_York}", "America/New_Yrk}", "18:88: \"America/New_Yrk\" is not a known time zone"),
        ("wednesday", "wedesday", "18:32: unknown value \"wedesday\"; did you mean \"wednesday\"?"),
        ("2026-11-30", "2026-11-20", "20:77: the freeze ends before it begins"),
        ("- window:", "- windw:", "18:7: unknown key \"windw\"; did you mean \"window\"?"),
        ("attempts: 3", "attempts: 5000000000", "58:27: expected a whole number from 0 to 4294967295"),
        ("deadline: 2m", "deadline: -2m", "57:19: \"-2m\" is negative"),
        ("fail: \"> 5s\", ", "", "73:15: neither `pass` nor `fail`"),
        ("      - name: report", "      - name: announce", "79:15: step \"announce\" is there already"),
        ("    - name: frontend\n", "    - name: backend\n", "35:13: service \"backend\" is there already"),
        ("strategy:", "startegy:", "61:5: unknown key \"startegy\"; did you mean \"strategy\"?"),
        ("name: backend\n", "nam: backend\n", "27:7: unknown key \"nam\"; did you mean \"name\"?"),
        ("weights: [10, 50, 100]", "weights: [10, 50, 100", "64:13: a key is not possible here; perhaps a bracket"),
        ("title: Release", "title: Release: moodify", "55:25: a key is not possible here; a text with \": \""),
    ] {
        assert!(RELEASE.contains(from), "{from}");
        let complaints = complaints_of(&RELEASE.replacen(from, to, 1));
        let expected = format!("p.yaml:{complaint}");
        assert!(complaints[0].starts_with(&expected), "{to}\n  expected {expected}\n  found    {complaints:#?}");
        assert_eq!(complaints.len(), 1, "{to}: {complaints:#?}");
    }
}

#[test]
fn a_plan_without_phases_is_released_by_what_fits_it() {
    let without = MINIMAL.replace("phases:\n  - name: rollout\n    strategy: {canary: {}}\n", "");
    let routed = |router: &str| without.replace("router: replica-ratio", &format!("router: {router}, route: backend"));
    let set = without.replace("      image:", "      kind: stateful-set\n      image:");
    for (text, says) in [
        (without.clone(), "{canary: {}}"),
        (routed("http-route"), "{blue-green: {}}"),
        (routed("istio"), "{blue-green: {}}"),
        (without.replace("replica-ratio", "service-selector"), "{blue-green: {weights: [100]}}"),
        (set.clone(), "{rolling: {}}"),
    ] {
        let said = format!("{text}phases:\n  - name: rollout\n    strategy: {says}\n");
        let read = |text: &str| read(text, "p.yaml").unwrap().0;
        assert_eq!(read(&text), read(&said), "{says}");
        let bare: PlanFile = serde_json::from_value(Source::read(&text, "p.yaml").unwrap().value().clone()).unwrap();
        assert_eq!(bare.expand(), read(&said).expand(), "{says}");
    }
    let another = "    - {name: web, workload: web, image: r/web:v2, traffic: {router: replica-ratio, service: web}}\n";
    assert_eq!(
        complaints_of(&format!("{set}{another}")),
        ["p.yaml:12:5: not the same strategy fits \"backend\" and \"web\": say in phases how each is released"]
    );
}

#[test]
fn aliases_and_yaml_1_1_words_mean_what_they_say() {
    let text = MINIMAL.replace("name: minimal", "name: no").replace(
        "{canary: {}}",
        "{canary: {weights: &w [5, 100], bake: [1m, 2m]}}\n  - name: again\n    strategy: {canary: {weights: *w}}",
    );
    let (plan, source) = read(&text, "p.yaml").unwrap();
    assert_eq!(plan.name, "no");
    let PhaseContent::Strategy(StrategySpec::Canary(canary)) = &plan.phases[0].content else { panic!("no canary") };
    assert_eq!(canary.bake, Bake::Each(vec!["1m".parse().unwrap(), "2m".parse().unwrap()]));
    let (first, second) = ("/phases/0/strategy/canary/weights/1", "/phases/1/strategy/canary/weights/1");
    assert_eq!(source.locate(first), source.locate(second), "an alias is where its anchor is");
}

#[test]
fn parts_that_only_the_application_knows_have_places_as_well() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read into")]
    struct Prometheus {
        url: String,
        timeout: Option<crate::model::Period>,
    }
    let (_, source) = read(RELEASE, "r.yaml").unwrap();
    assert!(source.read_at::<Prometheus>("/backends/prometheus").is_ok());
    let text = RELEASE.replace("url: http", "timeuot: 3s\n    ulr: http");
    let (_, source) = read(&text, "r.yaml").unwrap();
    let errors = source.read_at::<Prometheus>("/backends/prometheus").unwrap_err();
    let found: Vec<String> = errors.problems().iter().map(|p| format!("{} {:?}", p.message, p.hint)).collect();
    assert_eq!(found.len(), 2, "{errors}");
    assert!(found[0].contains("timeout") && found[1].contains("url"), "{errors}");

    let problem = source.problem("/backends/prometheus/none/such", "missing");
    assert_eq!(Some(problem.place), source.locate("/backends/prometheus"), "the nearest that is there");
}

#[test]
fn the_schema_knows_every_key_of_the_examples() {
    let schema = schema();
    assert_eq!(schema["title"], "moodify plan");
    assert_eq!(schema["required"], serde_json::json!(["name", "environment", "release"]));
    assert_eq!(schema["additionalProperties"], false);
    for text in [RELEASE, MINIMAL, MINIMAL_JSON, BLUE_GREEN, ROLLBACK] {
        let source = Source::read(text, "p").unwrap();
        conforms(&schema, &schema, source.value(), "");
    }
    assert_described(&schema, "");
}

/// Whether every key and every type of `value` is in the schema: no validator, but enough to see a schema drift.
fn conforms(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        return conforms(root, target, value, at);
    }
    for choice in ["oneOf", "anyOf"] {
        let Some(options) = schema[choice].as_array() else { continue };
        let fits = |option: &&Value| option.get("$ref").is_some() || fits_roughly(option, value);
        let option = options.iter().find(fits).unwrap_or_else(|| panic!("{at}: {value} fits none of {options:?}"));
        if schema.get("properties").is_none() {
            return conforms(root, option, value, at);
        }
    }
    match value {
        Value::Object(map) if schema.get("properties").is_some() => {
            for key in schema["required"].as_array().into_iter().flatten() {
                assert!(map.contains_key(key.as_str().unwrap()), "{at}: {key} is required");
            }
            for (key, value) in map {
                let property = &schema["properties"][key];
                assert!(!property.is_null(), "{at}/{key} is not in the schema");
                conforms(root, property, value, &format!("{at}/{key}"));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| conforms(root, &schema["items"], item, at)),
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            assert!(fits_roughly(schema, value), "{at}: {value} is not {schema}");
        }
    }
}

fn fits_roughly(schema: &Value, value: &Value) -> bool {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let typed = match &schema["type"] {
        Value::String(one) => one == kind,
        Value::Array(several) => several.iter().any(|one| one == kind),
        _ => true,
    };
    let known = schema["const"].is_null() || schema["const"] == *value;
    let listed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let required = schema["required"].as_array().into_iter().flatten();
    typed && known && listed && required.into_iter().all(|key| value.get(key.as_str().unwrap_or_default()).is_some())
}

/// Editors show the descriptions: every property has one, or refers to what has one.
fn assert_described(schema: &Value, at: &str) {
    if let Some(properties) = schema["properties"].as_object() {
        for (key, property) in properties {
            let described = property.get("description").is_some() || property.get("$ref").is_some();
            assert!(described, "{at}/{key} has no description");
        }
    }
    match schema {
        Value::Object(map) => map.iter().for_each(|(key, value)| assert_described(value, &format!("{at}/{key}"))),
        Value::Array(items) => items.iter().for_each(|item| assert_described(item, at)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_garbled_plan_panics_and_every_problem_is_inside_the_text(
        changes in prop::collection::vec((0..6u8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>()), 1..4),
        which in 0..3usize,
    ) {
        let original = [RELEASE, MINIMAL, MINIMAL_JSON][which];
        let mut lines: Vec<String> = original.lines().map(str::to_owned).collect();
        for (change, line, other, letter) in changes {
            let line = line.index(lines.len());
            let count = lines[line].chars().count().max(1);
            let position = lines[line].char_indices().nth(other.index(count)).map_or(0, |(at, _)| at);
            match change {
                0 => drop(lines.remove(line)),
                1 => lines.insert(line, lines[line].clone()),
                2 => lines[line].insert(position, letter),
                3 => lines[line].truncate(position),
                4 => lines[line].insert(position, ['"', '\t', ':', '[', '{', '}', '&', '*', '#', '-'][position % 10]),
                _ => { let other = other.index(lines.len()); lines.swap(line, other); }
            }
            if lines.is_empty() { break; }
        }
        let text = lines.join("\n");
        if let Err(errors) = read(&text, "p.yaml") {
            prop_assert!(!errors.problems().is_empty());
            for problem in errors.problems() {
                let line = text.lines().nth(problem.place.line - 1).unwrap_or_default();
                prop_assert_eq!(line, &problem.text);
                prop_assert!(problem.place.line <= text.lines().count().max(1));
                prop_assert!((1..=line.chars().count() + 1).contains(&problem.place.column), "{}", problem);
            }
            prop_assert!(errors.to_string().contains("p.yaml:"));
        }
    }
}
