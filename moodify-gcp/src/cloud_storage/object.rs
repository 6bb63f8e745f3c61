use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use moodify_core::backend::Artifact;
use moodify_core::{ErrorKind, Result};
use serde::Deserialize;

use crate::error::Call;

/// The fields of an object that are asked for.
pub(super) const FIELDS: &str = "name,size,generation,crc32c,updated";

/// What the JSON API says of an object; numbers of 64 bits are text in it.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    name: String,
    size: String,
    generation: String,
    crc32c: Option<String>,
    updated: Option<String>,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    #[serde(default)]
    pub(super) items: Vec<Object>,
    pub(super) next_page_token: Option<String>,
}

impl Object {
    /// As an artifact, whose path lacks the prefix of the store.
    pub(super) fn artifact(self, prefix: &str, call: Call) -> Result<Artifact> {
        let broken = |field: &str| {
            call.fail(ErrorKind::Internal, format!("the answer has no usable {field}")).effect(call.unanswered())
        };
        if self.generation.parse::<i64>().is_err() {
            return Err(broken("generation"));
        }
        Ok(Artifact {
            path: self.name.strip_prefix(prefix).ok_or_else(|| broken("name"))?.to_owned(),
            bytes: self.size.parse().map_err(|_| broken("size"))?,
            crc32c: self.crc32c.map(|text| decoded(&text).ok_or_else(|| broken("crc32c"))).transpose()?,
            updated: self.updated.map(|text| text.parse().map_err(|_| broken("updated"))).transpose()?,
            version: Some(self.generation),
        })
    }
}

/// A CRC32C as the API writes it.
pub(super) fn encoded(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

fn decoded(text: &str) -> Option<u32> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_the_api_writes_it() {
        let call = Call::read("test", "head");
        let text = r#"{"kind": "storage#object", "name": "p/x", "size": "9", "generation": "1764000000000000",
            "crc32c": "4waSgw==", "updated": "2026-11-24T15:00:00.123Z"}"#;
        let read = |text: &str| serde_json::from_str::<Object>(text).unwrap().artifact("p/", call);
        let artifact = read(text).unwrap();
        assert_eq!((artifact.path.as_str(), artifact.bytes, artifact.crc32c), ("x", 9, Some(0xE306_9283)));
        assert_eq!(artifact.version.as_deref(), Some("1764000000000000"));
        assert_eq!(artifact.updated.unwrap().to_string(), "2026-11-24T15:00:00.123Z");
        assert_eq!(encoded(0xE306_9283), "4waSgw==");
        for (from, to, broken) in [
            ("\"size\": \"9\"", "\"size\": \"-9\"", "size"),
            ("1764000000000000", "x", "generation"),
            ("4waSgw==", "4waSgwAA", "crc32c"),
            ("2026-11-24", "yesterday", "updated"),
            ("p/x", "q/x", "name"),
        ] {
            let error = read(&text.replace(from, to)).unwrap_err();
            assert!(error.message().contains(&format!("no usable {broken}")), "{error}");
        }
    }
}
