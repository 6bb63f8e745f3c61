use crate::backend::Backup;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{JournalStore, Outcome, Record};
use crate::model::RunId;

/// The runs of a journal that have not ended, or that need attention, as they are when it is asked: what such a run made
/// or names, it may still need.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use moodify_core::engine::OpenRuns;
/// use moodify_core::journal::MemoryJournal;
/// assert_eq!(OpenRuns::of(&MemoryJournal::new()).await.unwrap().runs().count(), 0);
/// # });
/// ```
#[derive(Debug)]
pub struct OpenRuns {
    /// Each with all that it has on record, as text.
    runs: Vec<(RunId, String)>,
}

impl OpenRuns {
    /// Reads the journal.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] and [`ErrorKind::Corrupt`]: what a run needs that cannot be read, nobody knows.
    pub async fn of(journal: &dyn JournalStore) -> Result<Self> {
        let over =
            |record: &Record| matches!(record, Record::Ended { outcome, .. } if *outcome != Outcome::NeedsAttention);
        let mut runs = Vec::new();
        for run in journal.list().await? {
            let entries = match journal.load(&run).await {
                // It was removed since.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            if !entries.iter().any(|entry| over(&entry.record)) {
                let text = serde_json::to_string(&entries).map_err(|e| {
                    Error::new(ErrorKind::Internal, "engine", "read the records of a run", e.to_string())
                })?;
                runs.push((run, text));
            }
        }
        Ok(Self { runs })
    }

    /// All of them, oldest first.
    pub fn runs(&self) -> impl Iterator<Item = &RunId> {
        self.runs.iter().map(|(run, _)| run)
    }

    /// Those that may still need this backup: the one that made it, and those that name it.
    pub fn that_need<'a>(&'a self, backup: &'a Backup) -> impl Iterator<Item = &'a RunId> {
        let needs = |(run, text): &&(RunId, String)| backup.run.as_ref() == Some(run) || text.contains(&backup.id);
        self.runs.iter().filter(needs).map(|(run, _)| run)
    }
}
