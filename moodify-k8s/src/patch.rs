//! JSON patches (RFC 6902): what several of them are made of. Pure.

use serde_json::{Value, json};

/// A key as a part of a JSON pointer (RFC 6901).
pub(crate) fn part(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Where a label is in an object.
pub(crate) fn label(key: &str) -> String {
    format!("/metadata/labels/{}", part(key))
}

/// Where an annotation is in an object.
pub(crate) fn annotation(key: &str) -> String {
    format!("/metadata/annotations/{}", part(key))
}

/// Sets one key of a map that may not be there.
pub(crate) fn put(operations: &mut Vec<Value>, read: &Value, map: &str, key: &str, value: &str) {
    if read.pointer(map).is_some_and(Value::is_object) {
        operations.push(json!({"op": "add", "path": format!("{map}/{}", part(key)), "value": value}));
        return;
    }
    if map.starts_with("/metadata") {
        // The generation says nothing of who else may just be adding the map.
        let version = &read["metadata"]["resourceVersion"];
        operations.insert(0, json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}));
    }
    operations.push(json!({"op": "add", "path": map, "value": {key: value}}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_is_not_there_is_made_with_its_key() {
        let read = json!({"metadata": {"resourceVersion": "7", "labels": {}}});
        let mut operations = Vec::new();
        put(&mut operations, &read, "/metadata/labels", "a/b~c", "1");
        assert_eq!(operations, [json!({"op": "add", "path": "/metadata/labels/a~1b~0c", "value": "1"})]);
        let mut operations = Vec::new();
        put(&mut operations, &read, "/metadata/annotations", "a/b", "1");
        assert_eq!(
            operations,
            [
                json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"}),
                json!({"op": "add", "path": "/metadata/annotations", "value": {"a/b": "1"}}),
            ]
        );
    }
}
