use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{ConfigurationFile, ConfigurationFiles, ExportRequest, ImportRequest, ImportedConfiguration};
use crate::error::ErrorKind;

/// What the suite of [`ConfigurationFiles`] needs.
#[async_trait]
pub trait FilesHarness: Send + Sync {
    /// What is under test.
    fn files(&self) -> Arc<dyn ConfigurationFiles>;

    /// A namespace that is configured, and an empty one.
    fn namespaces(&self) -> (String, String);

    /// A public key whose private one the backend has; and a value of a Secret in the first namespace.
    fn key_and_value(&self) -> (String, String);

    /// Deletes everything that is configured in the first namespace, with its Secrets.
    async fn lose(&self);

    /// Changes a configured object of the first namespace as somebody else, in what the export has.
    async fn edit(&self);

    /// The longest that anything takes.
    fn patience(&self) -> Duration;
}

/// Puts [`ConfigurationFiles`] to their contract. What was configured is so in the end, in both namespaces.
///
/// # Panics
/// If it is not kept.
pub async fn configuration_files(harness: &dyn FilesHarness) {
    let (files, (full, empty)) = (harness.files(), harness.namespaces());
    let cx = context("configuration", harness.patience());
    let (all_of_full, all_of_empty) = (ExportRequest::of_namespace(&full), ExportRequest::of_namespace(&empty));
    let sealed = sealed(harness, &full).await;
    ends_with_its_context(harness.patience(), async |cx| files.export(&cx, &all_of_full).await).await;
    let first = good("it can be exported", files.export(&cx, &all_of_full).await);
    assert!(!first.files.is_empty(), "there is something");
    assert!(first.files.iter().all(|file| !file.objects.is_empty() && !file.text.is_empty()), "{first:?}");
    assert_eq!(good("again", files.export(&cx, &all_of_full).await), first, "two exports of the same are the same");
    let all = u32::try_from(first.files.iter().map(|file| file.objects.len()).sum::<usize>()).unwrap_or(u32::MAX);
    let (created, unchanged) = (
        ImportedConfiguration { created: all, ..ImportedConfiguration::default() },
        ImportedConfiguration { unchanged: all, ..ImportedConfiguration::default() },
    );

    harness.lose().await;
    let lost = good("nothing is exported", files.export(&cx, &all_of_full).await);
    assert!(lost.files.is_empty(), "{lost:?}");
    let same = ImportRequest::into_namespace(&full);
    assert_eq!(good("it is made again", files.import(&cx, &same, &first.files).await), created);
    assert_eq!(good("done again, nothing changes", files.import(&cx, &same, &first.files).await), unchanged);
    assert_eq!(good("it can be exported", files.export(&cx, &all_of_full).await), first, "all is as it was");

    harness.edit().await;
    let edited = good("it can be exported", files.export(&cx, &all_of_full).await);
    assert_ne!(edited, first, "a change is seen");
    fails("another's change stays", ErrorKind::Drift, files.import(&cx, &same, &first.files).await);
    assert_eq!(good("it can be exported", files.export(&cx, &all_of_full).await), edited, "it is left as it was");
    let forced = good("unless asked", files.import(&cx, &same.clone().force(), &first.files).await);
    assert_eq!((forced.created, forced.configured), (0, 1), "{forced}");
    assert_eq!(good("it can be exported", files.export(&cx, &all_of_full).await), first, "all is as it was");

    let other = ImportRequest::into_namespace(&empty);
    assert_eq!(good("it is made elsewhere", files.import(&cx, &other, &first.files).await), created);
    assert_eq!(good("it can be exported", files.export(&cx, &all_of_empty).await), first, "it is the same there");

    let (name, objects, text) = ("x.yaml".into(), vec!["x".into()], "a: b: c".into());
    let broken = ConfigurationFile { name, objects, text, sealed: false };
    fails("no file at all", ErrorKind::Invalid, files.import(&cx, &same, &[broken]).await);

    harness.lose().await;
    let sealed_too = sealed.iter().map(|file| file.objects.len()).sum::<usize>();
    let sealed_too = u32::try_from(sealed_too).unwrap_or(u32::MAX);
    let with_secrets = good("with Secrets", files.import(&cx, &same, &sealed).await);
    assert_eq!(with_secrets, ImportedConfiguration { created: sealed_too, ..ImportedConfiguration::default() });
    let again = good("done again, nothing changes", files.import(&cx, &same, &sealed).await);
    assert_eq!(again, ImportedConfiguration { unchanged: sealed_too, ..ImportedConfiguration::default() });
    assert_eq!(good("it can be exported", files.export(&cx, &all_of_full).await), first, "all is as it was");
}

/// An export with Secrets, of which nobody can read one.
async fn sealed(harness: &dyn FilesHarness, namespace: &str) -> Vec<ConfigurationFile> {
    let (files, (key, value)) = (harness.files(), harness.key_and_value());
    let cx = context("configuration", harness.patience());
    let request = ExportRequest::of_namespace(namespace);
    let plain = good("it can be exported", files.export(&cx, &request).await);
    let wrong = request.clone().encrypt_secrets_to(["no key"]);
    fails("what is no key", ErrorKind::Invalid, files.check_export(&wrong));
    fails("what is no key", ErrorKind::Invalid, files.export(&cx, &wrong).await);
    let request = request.encrypt_secrets_to([key]);
    good("a key", files.check_export(&request));
    let sealed = good("it can be exported", files.export(&cx, &request).await);
    let named = |name: &String| sealed.files.iter().any(|file| file.objects.contains(name));
    let in_none = |name: &&String| !sealed.secrets.contains(name);
    assert!(plain.secrets.iter().any(named), "the Secrets are in it: {sealed:?}");
    assert!(plain.secrets.iter().filter(in_none).all(named), "what is not told is in it: {sealed:?}");
    assert!(sealed.files.iter().any(|file| file.sealed) && !plain.files.iter().any(|file| file.sealed));
    for file in plain.files.iter().chain(&sealed.files) {
        for told in [value.clone(), STANDARD.encode(&value)] {
            assert!(!file.text.contains(&told), "{} tells a Secret", file.name);
        }
    }
    sealed.files
}
