use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{context, ends_with_its_context, fails, good};
use crate::backend::{ConfigurationFile, ConfigurationFiles, ImportRequest, ImportedConfiguration};
use crate::error::ErrorKind;

/// What the suite of [`ConfigurationFiles`] needs.
#[async_trait]
pub trait FilesHarness: Send + Sync {
    /// What is under test.
    fn files(&self) -> Arc<dyn ConfigurationFiles>;

    /// A namespace that is configured, and an empty one.
    fn namespaces(&self) -> (String, String);

    /// Deletes everything that is configured in the first namespace.
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
    ends_with_its_context(harness.patience(), async |cx| files.export(&cx, &full).await).await;
    let first = good("it can be exported", files.export(&cx, &full).await);
    assert!(!first.files.is_empty(), "there is something");
    assert!(first.files.iter().all(|file| !file.objects.is_empty() && !file.text.is_empty()), "{first:?}");
    assert_eq!(good("again", files.export(&cx, &full).await), first, "two exports of the same are the same");
    let all = u32::try_from(first.files.iter().map(|file| file.objects.len()).sum::<usize>()).unwrap_or(u32::MAX);
    let (created, unchanged) = (
        ImportedConfiguration { created: all, ..ImportedConfiguration::default() },
        ImportedConfiguration { unchanged: all, ..ImportedConfiguration::default() },
    );

    harness.lose().await;
    let lost = good("nothing is exported", files.export(&cx, &full).await);
    assert!(lost.files.is_empty(), "{lost:?}");
    let same = ImportRequest::into_namespace(&full);
    assert_eq!(good("it is made again", files.import(&cx, &same, &first.files).await), created);
    assert_eq!(good("done again, nothing changes", files.import(&cx, &same, &first.files).await), unchanged);
    assert_eq!(good("it can be exported", files.export(&cx, &full).await), first, "all is as it was");

    harness.edit().await;
    let edited = good("it can be exported", files.export(&cx, &full).await);
    assert_ne!(edited, first, "a change is seen");
    fails("another's change stays", ErrorKind::Drift, files.import(&cx, &same, &first.files).await);
    assert_eq!(good("it can be exported", files.export(&cx, &full).await), edited, "it is left as it was");
    let forced = good("unless asked", files.import(&cx, &same.clone().force(), &first.files).await);
    assert_eq!((forced.created, forced.configured), (0, 1), "{forced}");
    assert_eq!(good("it can be exported", files.export(&cx, &full).await), first, "all is as it was");

    let other = ImportRequest::into_namespace(&empty);
    assert_eq!(good("it is made elsewhere", files.import(&cx, &other, &first.files).await), created);
    assert_eq!(good("it can be exported", files.export(&cx, &empty).await), first, "it is the same there");

    let broken = ConfigurationFile { name: "x.yaml".into(), objects: vec!["x".into()], text: "a: b: c".into() };
    fails("no file at all", ErrorKind::Invalid, files.import(&cx, &same, &[broken]).await);
}
