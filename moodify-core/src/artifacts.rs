//! Artifacts in a directory of this machine: [`ArtifactDirectory`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use uuid::Uuid;

use crate::backend::{
    Artifact, ArtifactStore, Checkpoint, Chunk, Chunks, Content, Origin, Progress, PutRequest, Sum, check_path, checked,
};
use crate::context::CallContext;
use crate::error::{Effect, Error, ErrorKind, Result};

const BACKEND: &str = "artifact directory";
/// Where what is not whole yet lies. No artifact is called so.
const UPLOADS: &str = ".uploads";
/// What is written at once, and then synced if somebody could go on from there.
const CHUNK: usize = 8 << 20;
/// What is read at once.
const PIECE: usize = 256 << 10;
/// How long an upload is kept that nobody goes on with; as long as Cloud Storage does.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// The attribute of a file that keeps the CRC32C of its content, as eight hexadecimal digits.
const CRC32C: &str = "user.moodify.crc32c";

/// Keeps artifacts as files of a local directory, one each, under the path of the artifact.
///
/// It needs nothing but the standard library: a crate for object stores hides the sync of file and directory, without
/// which what was put may be gone after a power failure.
///
/// - A content is written beside the artifacts, synced, and then given its name in one step, which is synced too. Two
///   that put the same path at once do not overwrite each other, unless asked to.
/// - The CRC32C is an extended attribute of the file, so it appears with the content. Where the file system keeps no
///   such attributes, an artifact has no checksum: damage on the disk is not noticed then.
/// - The progress of an upload has a [`Checkpoint`], up to which everything is synced. What nobody goes on with within a
///   week is removed by a later put.
/// - Files are readable by this user only. Other files in there, if they are regular ones, are artifacts as well.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use moodify_core::CallContext;
/// use moodify_core::artifacts::ArtifactDirectory;
/// use moodify_core::backend::{ArtifactStore, ArtifactStoreExt};
///
/// let dir = tempfile::tempdir()?;
/// let store = ArtifactDirectory::open(dir.path())?;
/// let cx = CallContext::by_hand("report", Duration::from_secs(60));
/// store.write(&cx, "2026-11-24/report.txt", "all is well".into()).await?;
/// assert_eq!(std::fs::read_to_string(dir.path().join("2026-11-24/report.txt"))?, "all is well");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct ArtifactDirectory {
    root: PathBuf,
}

impl ArtifactDirectory {
    /// The artifacts of that directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let uploads = root.join(UPLOADS);
        make_dirs(&root, &uploads).map_err(|e| failed("open", &root, e))?;
        // Whether it can be written, a directory says only when it is tried.
        let probe = uploads.join(Uuid::now_v7().simple().to_string());
        create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|e| failed("open", &root, e))?;
        Ok(Self { root })
    }

    /// The artifacts of that directory, which the first put makes if it is not there. Nothing is looked at until then.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn file(&self, operation: &'static str, path: &str) -> Result<PathBuf> {
        check_path(path, origin(operation))?;
        if path.split('/').next() == Some(UPLOADS) {
            let message = format!("{path:?} is not a path of an artifact: {UPLOADS} is where unfinished ones lie");
            return Err(Error::new(ErrorKind::Invalid, BACKEND, operation, message));
        }
        Ok(self.root.join(path))
    }

    async fn find(&self, cx: &CallContext, operation: &'static str, path: &str) -> Result<Option<Artifact>> {
        let (file, path) = (self.file(operation, path)?, path.to_owned());
        blocking(cx, operation, move || {
            let found = open(&file).and_then(|file| file.map(|file| describe(&file, &path)).transpose());
            found.map_err(|e| failed(operation, &file, e))
        })
        .await
    }

    /// The sum of an artifact that is there: what its attribute says, or else its content.
    async fn sum(&self, cx: &CallContext, there: &Artifact) -> Result<Sum> {
        match there.crc32c {
            Some(crc32c) => Ok(Sum { bytes: there.bytes, crc32c }),
            None => {
                let file = self.file("put", &there.path)?;
                blocking(cx, "put", move || {
                    File::open(&file).and_then(|file| sum_of(&file, u64::MAX)).map_err(|e| failed("put", &file, e))
                })
                .await
            }
        }
    }

    /// The upload of a checkpoint, if all of it is still there, or else a new one.
    async fn upload(&self, cx: &CallContext, request: &PutRequest) -> Result<Upload> {
        let (root, uploads) = (self.root.clone(), self.root.join(UPLOADS));
        let (resume, keep) = (request.resume.clone(), request.is_watched());
        blocking(cx, "put", move || {
            make_dirs(&root, &uploads).map_err(|e| failed("put", &root, e))?;
            remove_old(&uploads);
            if let Some(checkpoint) = resume
                && let Ok(id) = checkpoint.upload.parse::<Uuid>()
            {
                let path = uploads.join(id.simple().to_string());
                let file = OpenOptions::new().read(true).write(true).open(&path);
                if let Ok(file) = file
                    && sum_of(&file, checkpoint.stored.bytes).is_ok_and(|sum| sum == checkpoint.stored)
                {
                    let cut = file.set_len(checkpoint.stored.bytes).and_then(|()| seek_to_end(&file));
                    cut.map_err(|e| failed("put", &path, e))?;
                    return Ok(Upload { id, path, file, stored: checkpoint.stored, keep });
                }
            }
            let id = Uuid::now_v7();
            let path = uploads.join(id.simple().to_string());
            let file = create(&path).map_err(|e| failed("put", &path, e))?;
            Ok(Upload { id, path, file, stored: Sum::default(), keep })
        })
        .await
    }

    /// Writes a content into an upload, from where that is.
    async fn fill(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        chunks: &mut Chunks<'_>,
        mut upload: Upload,
    ) -> Result<Upload> {
        let resumed = upload.stored;
        loop {
            let next = chunks.next(cx).await;
            let chunk = next.inspect_err(|error| upload.keep &= error.is_transient())?;
            let (end, last) = (chunks.sum(), chunk.is_last());
            if end.bytes == resumed.bytes && end != resumed || last && end.bytes < resumed.bytes {
                upload.keep = false;
                return Err(chunks.other_content());
            }
            if end.bytes > resumed.bytes {
                upload = blocking(cx, "put", move || upload.append(&chunk, end)).await?;
                request.tell(&Progress::new(end.bytes, request.size).with_checkpoint(upload.checkpoint()));
            }
            if last {
                return Ok(upload);
            }
        }
    }
}

#[async_trait]
impl ArtifactStore for ArtifactDirectory {
    async fn put(&self, cx: &CallContext, request: &PutRequest, content: Content) -> Result<Artifact> {
        let file = self.file("put", &request.path)?;
        let mut chunks = Chunks::new(request, content, CHUNK, origin("put"), file.display().to_string());
        if let Some(mut there) = self.find(cx, "put", &request.path).await? {
            if request.size.is_none_or(|size| size == there.bytes) {
                there.crc32c = Some(self.sum(cx, &there).await?.crc32c);
            }
            if request.known_sum().is_some_and(|sum| there.crc32c.is_some() && there.is(sum)) {
                return Ok(there);
            }
            if !request.replace {
                chunks.finish(cx).await?;
                return chunks.settle(there);
            }
        }
        let upload = self.upload(cx, request).await?;
        let upload = self.fill(cx, request, &mut chunks, upload).await?;
        let (root, path, replace) = (self.root.clone(), request.path.clone(), request.replace);
        let published = blocking(cx, "put", move || upload.publish(&root, &path, &file, replace)).await;
        match published.map_err(|e| e.on(request.path.as_str()))? {
            Published::Written(artifact) => {
                request.tell(&Progress::new(artifact.bytes, Some(artifact.bytes)));
                Ok(artifact)
            }
            // Somebody put it meanwhile.
            Published::TakenBy(mut there) => {
                there.crc32c = Some(self.sum(cx, &there).await?.crc32c);
                chunks.settle(there)
            }
        }
    }

    async fn get(&self, cx: &CallContext, path: &str) -> Result<Option<(Artifact, Content)>> {
        let (file, name) = (self.file("get", path)?, path.to_owned());
        let found = blocking(cx, "get", move || {
            let found = open(&file).and_then(|found| {
                let Some(found) = found else { return Ok(None) };
                describe(&found, &name).map(|artifact| Some((artifact, found)))
            });
            found.map_err(|e| failed("get", &file, e))
        });
        Ok(found.await?.map(|(artifact, file)| {
            let content = checked(pieces(file, cx), cx, &artifact, origin("get"));
            (artifact, content)
        }))
    }

    async fn head(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>> {
        self.find(cx, "head", path).await
    }

    async fn list(&self, cx: &CallContext, prefix: &str) -> Result<Vec<Artifact>> {
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        blocking(cx, "list", move || {
            let mut all = Vec::new();
            walk(&root, "", &prefix, &mut all).map_err(|e| failed("list", &root, e))?;
            all.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(all)
        })
        .await
    }

    async fn delete(&self, cx: &CallContext, path: &str) -> Result<()> {
        let (file, root) = (self.file("delete", path)?, self.root.clone());
        blocking(cx, "delete", move || {
            match fs::remove_file(&file) {
                Err(e) if is_absent(&e) => return Ok(()),
                result => result.map_err(|e| failed("delete", &file, e))?,
            }
            let mut dir = file.parent();
            while let Some(parent) = dir.filter(|dir| *dir != root) {
                sync_dir(parent).map_err(|e| failed("delete", &file, e).effect(Effect::Unknown))?;
                // One that is not empty stays.
                if fs::remove_dir(parent).is_err() {
                    return Ok(());
                }
                dir = parent.parent();
            }
            sync_dir(&root).map_err(|e| failed("delete", &file, e).effect(Effect::Unknown))
        })
        .await
    }
}

/// A content that is not whole yet. Its file is removed with it, unless somebody may go on with it.
struct Upload {
    id: Uuid,
    path: PathBuf,
    file: File,
    stored: Sum,
    keep: bool,
}

enum Published {
    Written(Artifact),
    TakenBy(Artifact),
}

impl Upload {
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { upload: self.id.to_string(), stored: self.stored }
    }

    fn append(mut self, chunk: &Chunk, end: Sum) -> Result<Self> {
        let written = chunk.pieces().iter().try_for_each(|piece| self.file.write_all(piece));
        let written = written.and_then(|()| if self.keep { self.file.sync_data() } else { Ok(()) });
        written.map_err(|e| failed("put", &self.path, e))?;
        self.stored = end;
        Ok(self)
    }

    /// Gives the content its name.
    fn publish(mut self, root: &Path, path: &str, target: &Path, replace: bool) -> Result<Published> {
        let crc32c = format!("{:08x}", self.stored.crc32c);
        match fsetxattr(&self.file, CRC32C, crc32c.as_bytes(), XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(failed("put", &self.path, e.into())),
        }
        self.file.sync_all().map_err(|e| failed("put", &self.path, e))?;
        let artifact = describe(&self.file, path).map_err(|e| failed("put", &self.path, e))?;
        let parent = target.parent().unwrap_or(root);
        loop {
            make_dirs(root, parent).map_err(|e| failed("put", parent, e))?;
            let named = if replace { fs::rename(&self.path, target) } else { fs::hard_link(&self.path, target) };
            match named {
                Ok(()) => break,
                // The directory was empty, and removed, just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.path.is_file() => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    self.keep = false;
                    let there = open(target).and_then(|file| file.map(|file| describe(&file, path)).transpose());
                    match there.map_err(|e| failed("put", target, e))? {
                        Some(there) => return Ok(Published::TakenBy(there)),
                        None => return Err(failed("put", target, e)),
                    }
                }
                Err(e) => return Err(failed("put", target, e)),
            }
        }
        self.keep = false;
        sync_dir(parent).map_err(|e| failed("put", target, e).effect(Effect::Unknown))?;
        Ok(Published::Written(artifact))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn origin(operation: &'static str) -> Origin {
    Origin { backend: BACKEND, operation }
}

/// Work on files, within its context. It ends even if nobody waits any more.
async fn blocking<T: Send + 'static>(
    cx: &CallContext,
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = async {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, BACKEND, operation, e.to_string())))
    };
    cx.run(BACKEND, operation, done).await
}

/// What a file holds, a piece of it in memory at a time.
pub(crate) fn pieces(file: File, cx: &CallContext) -> Content {
    let cx = cx.clone();
    stream::try_unfold(file, move |mut file| {
        let cx = cx.clone();
        async move {
            let read = move || {
                let mut piece = vec![0; PIECE];
                let read = file.read(&mut piece).map_err(|e| failed("get", Path::new(""), e))?;
                piece.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(piece), file)))
            };
            blocking(&cx, "get", read).await
        }
    })
    .boxed()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

/// A regular file; `None` if there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn describe(file: &File, path: &str) -> io::Result<Artifact> {
    let meta = file.metadata()?;
    let mut text = [0; 8];
    let crc32c = match fgetxattr(file, CRC32C, &mut text) {
        Ok(8) => std::str::from_utf8(&text).ok().and_then(|text| u32::from_str_radix(text, 16).ok()),
        _ => None,
    };
    Ok(Artifact {
        path: path.to_owned(),
        bytes: meta.len(),
        crc32c,
        updated: Timestamp::try_from(meta.modified()?).ok(),
        version: Some(format!("{}-{}.{:09}", meta.ino(), meta.mtime(), meta.mtime_nsec())),
    })
}

/// The sum of what a file begins with; fewer bytes than `bytes` if it is shorter.
pub(crate) fn sum_of(mut file: &File, bytes: u64) -> io::Result<Sum> {
    let (mut sum, mut piece) = (Sum::default(), vec![0; PIECE]);
    while sum.bytes < bytes {
        let wanted = usize::try_from(bytes - sum.bytes).unwrap_or(usize::MAX).min(piece.len());
        match file.read(&mut piece[..wanted])? {
            0 => break,
            read => sum.add(&piece[..read]),
        }
    }
    Ok(sum)
}

fn seek_to_end(mut file: &File) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0)).map(drop)
}

/// Makes the directories from `root` down to `dir`, each for good.
fn make_dirs(root: &Path, dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|_| dir != root) {
        make_dirs(root, parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).recursive(dir == root).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => dir.parent().map_or(Ok(()), sync_dir),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // The parent of a relative path of one part has no name.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    match File::open(dir) {
        Ok(dir) => dir.sync_all(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes what nobody went on with. If that fails, a later put does it.
fn remove_old(uploads: &Path) {
    for entry in fs::read_dir(uploads).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|modified| modified.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > KEEP)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// All regular files whose path below the root begins with `prefix`.
fn walk(dir: &Path, path: &str, prefix: &str, all: &mut Vec<Artifact>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if is_absent(&e) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // A name that is no text is none of ours.
        let Some(name) = entry.file_name().to_str().map(|name| format!("{path}{name}")) else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() && name != UPLOADS {
            let below = format!("{name}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &below, prefix, all)?;
            }
        } else if kind.is_file()
            && name.starts_with(prefix)
            && let Some(file) = open(&entry.path())?
        {
            all.push(describe(&file, &name)?);
        }
    }
    Ok(())
}

fn failed(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "was the directory removed?"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Forbidden, "let this user write there")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::Unavailable, "make room, then resume"),
        io::ErrorKind::InvalidFilename => (ErrorKind::Invalid, "the parts of a path have 255 bytes at most"),
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
            (ErrorKind::Invalid, "what is an artifact cannot be a directory of others too: choose another path")
        }
        _ => (ErrorKind::Unavailable, "look at the disk"),
    };
    let error = Error::new(kind, BACKEND, operation, error.to_string()).with_source(error);
    error.effect(Effect::None).on(path.display().to_string()).hint(hint)
}
