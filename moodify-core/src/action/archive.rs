use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, CheckContext, Observed, StepContext};
use crate::artifacts::{pieces, sum_of};
use crate::backend::{Artifact, ArtifactStoreExt, Origin, PutRequest, Sum, check_path};
use crate::error::{Error, ErrorKind, Result};

/// How long an upload or a download may take if the plan does not say.
const LONG: Duration = Duration::from_secs(2 * 3600);
/// The plan of a run, among its artifacts.
const PLAN: &str = "plan.json";
/// How much is stored between two lines that tell how far it is.
const TOLD: u64 = 64 << 20;

/// Puts the plan and files of the machine that drives the run (manifests, a dump) into an artifact store, under the id of
/// the run. Undone, they are kept: they take nothing from what serves.
#[derive(Debug)]
pub(super) struct Archive;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// The artifact store, by its name among the backends.
    store: String,
    /// What is put beside the plan.
    #[serde(default)]
    files: Vec<FileToArchive>,
}

/// A file that is archived.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileToArchive {
    /// Where it is on the machine that drives the run.
    file: PathBuf,
    /// What it is called among the artifacts of the run; left out, as the file.
    #[serde(rename = "as")]
    name: Option<String>,
}

impl FileToArchive {
    fn name(&self) -> String {
        let file = || self.file.file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or_else(file).unwrap_or_default()
    }
}

/// What an `archive` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The store that has it.
    pub store: String,
    /// The artifacts, the plan first.
    pub artifacts: Vec<Artifact>,
}

fn invalid(step: &str, message: String) -> Error {
    Error::new(ErrorKind::Invalid, "engine", "check the step", message).on(step)
}

fn unreadable(file: &Path, e: &std::io::Error) -> Error {
    let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Unavailable };
    let error = Error::new(kind, "engine", "read the file", e.to_string()).on(file.display().to_string());
    error.hint("it is looked for on the machine that drives the run")
}

/// Work on files, off the threads that others wait on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "engine", "work on files", e.to_string())))
}

async fn sum(file: PathBuf) -> Result<Sum> {
    let read = move || {
        let sum = File::open(&file).and_then(|open| sum_of(&open, u64::MAX));
        sum.map_err(|e| unreadable(&file, &e))
    };
    blocking(read).await
}

async fn open(file: PathBuf) -> Result<File> {
    blocking(move || File::open(&file).map_err(|e| unreadable(&file, &e))).await
}

#[async_trait]
impl Action for Archive {
    type Params = Params;
    type Output = Archived;

    fn deadline(&self, _: &Params) -> Option<Duration> {
        Some(LONG)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Params) -> Result<(), Vec<Error>> {
        let mut wrong: Vec<Error> = cx.backends.artifact_store(&params.store).err().into_iter().collect();
        let mut names = BTreeSet::from([PLAN.to_owned()]);
        for name in params.files.iter().map(FileToArchive::name) {
            let origin = Origin { backend: "engine", operation: "check the step" };
            wrong.extend(check_path(&name, origin).err().map(|e| e.on(cx.step.name.as_str())));
            if !names.insert(name.clone()) {
                let message = format!("two artifacts would be called {name:?}: say with `as` what to call them");
                wrong.push(invalid(&cx.step.name, message));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Params) -> Result<Archived> {
        let store = cx.backends().artifact_store(&params.store)?;
        let place = |name: &str| format!("runs/{}/{}/{name}", cx.run_id(), cx.step().name);
        let plan = serde_json::to_vec_pretty(cx.plan())
            .map_err(|e| Error::new(ErrorKind::Internal, "engine", "write the plan", e.to_string()))?;
        let mut artifacts = vec![store.write(&cx.call()?, &place(PLAN), plan.into()).await?];
        for file in &params.files {
            let (name, sum) = (file.name(), sum(file.file.clone()).await?);
            let (tell, mut told) = tokio::sync::watch::channel(0);
            let request = PutRequest::new(place(&name)).sum(sum).watched(move |progress| {
                tell.send_replace(progress.stored);
            });
            let call = cx.call()?;
            let content = pieces(open(file.file.clone()).await?, &call);
            let put = store.put(&call, &request, content);
            tokio::pin!(put);
            let mut next = TOLD;
            let artifact = loop {
                tokio::select! {
                    done = &mut put => break done?,
                    Ok(()) = told.changed() => {
                        let stored = *told.borrow_and_update();
                        if stored >= next {
                            cx.note(format!("{name}: {} of {} MiB", stored >> 20, sum.bytes >> 20));
                            next = stored + TOLD;
                        }
                    }
                }
            };
            cx.note(artifact.to_string());
            artifacts.push(artifact);
        }
        Ok(Archived { store: params.store.clone(), artifacts })
    }

    async fn observe(&self, _: &StepContext, _: &Params) -> Result<Observed<Archived>> {
        // What the store has is not put again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, cx: &StepContext, _: &Params, output: Option<&Archived>) -> Result<()> {
        if let Some(made) = output {
            cx.note(format!("{} artifacts are kept", made.artifacts.len()));
        }
        Ok(())
    }
}

/// Gets an artifact into a file of the machine that drives the run, whole and verified, or not at all. Undone, a file that
/// this step made is removed.
#[derive(Debug)]
pub(super) struct FetchArtifact;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fetch {
    /// The artifact store, by its name among the backends.
    store: String,
    /// Where the artifact is in there.
    path: String,
    /// The file. No other may be there.
    file: PathBuf,
}

/// What a `fetch-artifact` step gives to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedArtifact {
    /// The file.
    pub file: PathBuf,
    /// Its size in bytes and its CRC32C.
    pub sum: Sum,
    /// Whether this step made it: it was not there as it should be.
    pub made: bool,
}

#[async_trait]
impl Action for FetchArtifact {
    type Params = Fetch;
    type Output = FetchedArtifact;

    fn deadline(&self, _: &Fetch) -> Option<Duration> {
        Some(LONG)
    }

    async fn check(&self, cx: &CheckContext<'_>, params: &Fetch) -> Result<(), Vec<Error>> {
        let mut wrong: Vec<Error> = cx.backends.artifact_store(&params.store).err().into_iter().collect();
        let origin = Origin { backend: "engine", operation: "check the step" };
        wrong.extend(check_path(&params.path, origin).err().map(|e| e.on(cx.step.name.as_str())));
        if params.file.file_name().is_none() {
            wrong.push(invalid(&cx.step.name, "the file has no name".to_owned()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    async fn execute(&self, cx: &StepContext, params: &Fetch) -> Result<FetchedArtifact> {
        let (store, call) = (cx.backends().artifact_store(&params.store)?, cx.call()?);
        let missing = || {
            let message = format!("there is no such artifact in {:?}", params.store);
            Error::new(ErrorKind::NotFound, "engine", "get the artifact", message).on(params.path.as_str())
        };
        let artifact = store.head(&call, &params.path).await?.ok_or_else(missing)?;
        let file = params.file.clone();
        match sum(file.clone()).await {
            Ok(sum) if artifact.crc32c.is_some() && artifact.is(sum) => {
                return Ok(FetchedArtifact { file, sum, made: false });
            }
            Ok(sum) => {
                let message = format!("there is another file, which was left as it is: {sum}");
                let error = Error::new(ErrorKind::AlreadyExists, "engine", "get the artifact", message);
                return Err(error.on(file.display().to_string()).hint("name another file, or move this one away"));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let (artifact, mut content) = store.get(&call, &params.path).await?.ok_or_else(missing)?;
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = file.with_file_name(name);
        let failed = |file: &Path, e: &std::io::Error| {
            let error = Error::new(ErrorKind::Unavailable, "engine", "write the file", e.to_string());
            error.on(file.display().to_string()).hint("look at the disk of the machine that drives the run")
        };
        let path = part.clone();
        let mut open = blocking(move || File::create(&path).map_err(|e| failed(&path, &e))).await?;
        let mut sum = Sum::default();
        while let Some(piece) = content.try_next().await? {
            sum.add(&piece);
            let path = part.clone();
            let write = move || open.write_all(&piece).map(|()| open).map_err(|e| failed(&path, &e));
            open = blocking(write).await?;
        }
        let target = file.clone();
        let publish = move || {
            let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let done = open.sync_all().and_then(|()| std::fs::hard_link(&part, &target));
            let done = done.and_then(|()| std::fs::remove_file(&part)).and_then(|()| File::open(dir)?.sync_all());
            done.map_err(|e| failed(&target, &e))
        };
        blocking(publish).await?;
        cx.note(format!("{artifact} is in {}", file.display()));
        Ok(FetchedArtifact { file, sum, made: true })
    }

    async fn observe(&self, _: &StepContext, _: &Fetch) -> Result<Observed<FetchedArtifact>> {
        // What is there already is not got again.
        Ok(Observed::NotDone)
    }

    async fn undo(&self, _: &StepContext, params: &Fetch, output: Option<&FetchedArtifact>) -> Result<()> {
        let file = params.file.clone();
        if !output.is_some_and(|fetched| fetched.made) {
            return Ok(());
        }
        let remove = move || match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unreadable(&file, &e)),
            _ => Ok(()),
        };
        blocking(remove).await
    }

    fn by_hand(&self, _: &StepContext, params: &Fetch) -> Vec<String> {
        vec![format!("# remove {}, if this run made it", params.file.display())]
    }
}
