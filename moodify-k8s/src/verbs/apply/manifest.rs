//! Manifests as they are written: many documents in a file, many files in a directory. Pure, but for reading files.

use std::fmt;
use std::path::Path;

use moodify_core::{Error, ErrorKind, Result};
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::error::BACKEND;

/// One object of a manifest, and where it stands.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Manifest {
    /// The file's name.
    pub file: String,
    /// The line in which its document begins.
    pub line: usize,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The object.
    pub object: Value,
}

impl Manifest {
    pub(super) fn text(&self, key: &str) -> &str {
        self.object[key].as_str().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// An error about this object, with its place.
    pub(super) fn error(&self, kind: ErrorKind, message: impl fmt::Display) -> Error {
        Error::new(kind, BACKEND, "read the manifest", message.to_string()).on(self.to_string())
    }
}

impl fmt::Debug for Manifest {
    /// Only the place: the object may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({self})")
    }
}

impl fmt::Display for Manifest {
    /// `web.yaml:12 (document 2, Deployment web)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (document {}", self.file, self.line, self.document)?;
        if !self.text("kind").is_empty() {
            write!(f, ", {} {}", self.text("kind"), self.name())?;
        }
        f.write_str(")")
    }
}

/// Objects that are to be, in the order in which they are written.
///
/// Read as kubectl reads them: YAML 1.1 (`yes` is true and `0644` is 420) or JSON, many documents, Lists.
///
/// ```
/// use moodify_k8s::verbs::Manifests;
/// let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\n";
/// let error = Manifests::read(text, "web.yaml").unwrap_err();
/// assert!(error.to_string().contains("web.yaml:4 (document 2"), "{error}");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    objects: Vec<Manifest>,
}

/// How deep a document may nest: definitions of resources hold schemas that nest far.
const DEEPEST: usize = 200;
/// What parsing so deep takes of the stack, unoptimised.
const STACK: usize = 64 << 20;

impl Manifests {
    /// Reads a text; `file` is its name for messages.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for what is no YAML, or no object with `apiVersion`, `kind` and a name; with all
    /// problems at once, each with file, line and document.
    pub fn read(text: &str, file: &str) -> Result<Self> {
        // Documents that nest far need more stack than a thread of a runtime may have left.
        let parsed = std::thread::scope(|scope| {
            let parse = || documents(text, file);
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse);
            thread.map(|thread| thread.join())
        });
        let (objects, problems) = match parsed {
            Ok(Ok(parsed)) => parsed,
            _ => {
                let message = "the text could not be read: no thread to read it in";
                return Err(Error::new(ErrorKind::Internal, BACKEND, "read the manifest", message).on(file));
            }
        };
        if problems.is_empty() {
            return Ok(Self { objects });
        }
        let hint = "mend these places; nothing was changed";
        Err(Error::new(ErrorKind::Invalid, BACKEND, "read the manifest", problems.join("; ")).on(file).hint(hint))
    }

    /// Reads a file, or all files of a directory that end in `.yaml`, `.yml` or `.json` in the order of their names,
    /// but not the directories in it: `kubectl apply -f`. Reads files, so it blocks.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`NotFound`](ErrorKind::NotFound) if there is nothing to read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |path: &Path, e: std::io::Error| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Invalid };
            Error::new(kind, BACKEND, "read the manifest", format!("it cannot be read: {e}"))
                .on(path.display().to_string())
                .with_source(e)
        };
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|e| failed(path, e))?;
            let paths: std::io::Result<Vec<_>> = entries.map(|entry| entry.map(|e| e.path())).collect();
            files = paths.map_err(|e| failed(path, e))?;
            let manifest = |p: &Path| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            files.retain(|p| p.is_file() && manifest(p));
            files.sort();
            if files.is_empty() {
                let message = "the directory has no file that ends in .yaml, .yml or .json";
                let on = path.display().to_string();
                return Err(Error::new(ErrorKind::NotFound, BACKEND, "read the manifest", message).on(on));
            }
        }
        let mut all = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|e| failed(&file, e))?;
            all.objects.extend(Self::read(&text, &file.display().to_string())?.objects);
        }
        Ok(all)
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> &[Manifest] {
        &self.objects
    }
}

/// All objects of a text, and what is wrong with it.
fn documents(text: &str, file: &str) -> (Vec<Manifest>, Vec<String>) {
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for (index, (line, part)) in split(text).into_iter().enumerate() {
        let mut manifest = Manifest { file: file.to_owned(), line, document: index + 1, object: Value::Null };
        match serde_saphyr::from_str_with_options::<Value>(part, options()) {
            Ok(value) => manifest.object = value,
            Err(e) => {
                let place = e.location().and_then(|l| usize::try_from(l.line()).ok()).unwrap_or(1);
                let told = e.to_string();
                let why = told.split(" at line ").next().unwrap_or(&told).trim().to_owned();
                manifest.line = line + place.saturating_sub(1);
                problems.push(format!("{manifest}: {why}"));
                continue;
            }
        }
        if manifest.object.is_null() {
            continue;
        }
        let kind = manifest.text("kind");
        let list = kind == "List" || (kind.ends_with("List") && manifest.name().is_empty());
        let parts = match manifest.object["items"].as_array() {
            Some(items) if list => items.iter().map(|i| Manifest { object: i.clone(), ..manifest.clone() }).collect(),
            _ => vec![manifest],
        };
        for part in parts {
            problems.extend(problem(&part).map(|problem| format!("{part}: {problem}")));
            objects.push(part);
        }
    }
    (objects, problems)
}

fn problem(manifest: &Manifest) -> Option<String> {
    if !manifest.object.is_object() {
        return Some("this is no object of Kubernetes, but a plain value".to_owned());
    }
    if let Some(key) = ["apiVersion", "kind"].into_iter().find(|key| manifest.text(key).is_empty()) {
        return Some(format!("{key} is not set"));
    }
    if manifest.name().is_empty() {
        let generated = manifest.object["metadata"]["generateName"].is_string();
        let why = if generated { "a generated name cannot be applied, only created" } else { "it has no name" };
        return Some(format!("metadata.name is not set: {why}"));
    }
    // It becomes a part of a path.
    let breaks = |c: char| matches!(c, '/' | '%' | '?' | '#' | '\\') || c.is_whitespace() || c.is_control();
    let names = [manifest.name(), manifest.object["metadata"]["namespace"].as_str().unwrap_or("x")];
    names
        .into_iter()
        .find(|name| name.contains(breaks) || matches!(*name, "." | ".."))
        .map(|name| format!("{name:?} is not a name of an object in Kubernetes"))
}

/// The documents of a text with the lines in which they begin. A marker stands at the beginning of a line, whatever is
/// around it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let marker = |line: &str| {
        ["---", "..."].iter().any(|m| {
            line.strip_prefix(m).is_some_and(|rest| rest.trim_end().is_empty() || rest.starts_with([' ', '\t']))
        })
    };
    let (mut parts, mut begin, mut first) = (Vec::new(), 0, 1);
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if marker(line) && at > begin {
            parts.push((first, &text[begin..at]));
        }
        if marker(line) {
            (begin, first) = (at, index + 1);
        }
        at += line.len();
    }
    parts.push((first, &text[begin..]));
    let holds =
        |part: &str| part.lines().any(|l| !marker(l) && !l.trim().is_empty() && !l.trim_start().starts_with('#'));
    // What follows a marker in its line is a part of the document.
    let inline = |part: &str| part.strip_prefix("--- ").is_some_and(|rest| !rest.trim_start().starts_with(['#', '\n']));
    parts.retain(|(_, part)| holds(part) || inline(part));
    parts
}

/// YAML 1.1, as kubectl reads it.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST, max_events: 2_000_000, max_nodes: 1_000_000 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        strict_booleans: false,
        emit_comments: false,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_told_apart_and_have_places() {
        let text = "# of the team\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: |\n    --- no marker\n\
            --- # next\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n\
            - {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}\n...\n";
        let read = Manifests::read(text, "all.yaml").unwrap();
        let told: Vec<String> = read.objects().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "all.yaml:2 (document 1, ConfigMap a)",
                "all.yaml:12 (document 2, ConfigMap b)",
                "all.yaml:12 (document 2, ConfigMap c)",
            ]
        );
        assert_eq!(read.objects()[0].object["data"]["x"], "--- no marker\n");
    }

    #[test]
    fn it_is_read_as_kubectl_reads_it() {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {mode: 0644, a: yes, b: off, c: 1.5, d: \"0644\", \
                    e: ~, f: 1e3, g: 0x10, h: 12345678901}}";
        let spec = Manifests::read(text, "x").unwrap().objects()[0].object["spec"].clone();
        let expected = json!({"mode": 420, "a": true, "b": false, "c": 1.5, "d": "0644", "e": null, "f": 1000.0, "g": 16,
            "h": 12_345_678_901_u64});
        assert_eq!(spec, expected);
    }

    #[test]
    fn json_may_be_indented_with_tabs() {
        let text =
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t}\n}\n";
        assert_eq!(Manifests::read(text, "a.json").unwrap().objects()[0].name(), "a");
    }

    #[test]
    fn what_is_printed_of_it_is_no_secret() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\nstringData: {a: hunter2}\n";
        let shown = format!("{:?}", Manifests::read(text, "x.yaml").unwrap());
        assert!(shown.contains("Secret key") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn all_problems_have_their_places() {
        let text = "apiVersion: v1\nkind: Pod\n---\nkind: Pod\nmetadata: {name: a}\n---\na: b: c\n---\n- 1\n---\n\
            {apiVersion: v1, kind: Pod, metadata: {name: ../x}}\n---\na: 1\na: 2\n---\n\
            {apiVersion: v1, kind: Pod, metadata: {generateName: x}}\n";
        let error = Manifests::read(text, "bad.yaml").unwrap_err().to_string();
        for told in [
            "bad.yaml:1 (document 1, Pod ): metadata.name is not set: it has no name",
            "bad.yaml:3 (document 2, Pod a): apiVersion is not set",
            "bad.yaml:7 (document 3): ",
            "bad.yaml:8 (document 4): this is no object of Kubernetes, but a plain value",
            "(document 5, Pod ../x): \"../x\" is not a name",
            "bad.yaml:14 (document 6): ",
            "a generated name cannot be applied",
        ] {
            assert!(error.contains(told), "{told}\n in {error}");
        }
    }

    #[test]
    fn a_directory_is_read_in_the_order_of_names() {
        let dir = std::env::temp_dir().join(format!("moodify-manifests-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("inner")).unwrap();
        let config =
            |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        for name in ["b.yaml", "a.json", "c.yml", "inner/d.yaml", "notes.txt"] {
            std::fs::write(dir.join(name), config(&name[..1])).unwrap();
        }
        let read = Manifests::load(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(read.objects().iter().map(Manifest::name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(Manifests::load(&dir).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
