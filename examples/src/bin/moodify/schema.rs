//! The JSON Schema of plan files, with the actions and backends that this application knows.

use moodify_core::action::Registry;
use moodify_core::planfile::PlanFile;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::backends::Settings;

/// The schema.
pub(crate) fn schema() -> Value {
    let registry = Registry::with_builtins();
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let backends = generator.subschema_for::<Settings>();
    let mut names: Vec<&str> = Vec::new();
    let mut rules = Vec::new();
    for name in registry.kinds() {
        let Ok(kind) = registry.get(name) else { continue };
        let params = kind.params_schema(&mut generator);
        names.push(name);
        rules.push(json!({
            "if": {"properties": {"action": {"const": name}}},
            "then": {"properties": {"with": params}},
        }));
    }
    let mut schema = generator.into_root_schema_for::<PlanFile>().to_value();
    if let Some(step) = schema.pointer_mut("/$defs/Step") {
        step["properties"]["action"]["enum"] = json!(names);
        step["allOf"] = Value::Array(rules);
    }
    schema["properties"]["backends"] = json!(backends);
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| walk(value, found));
                }
                _ => {}
            }
        }
        let schema = schema();
        let mut found = Vec::new();
        walk(&schema, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            assert!(schema.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}
