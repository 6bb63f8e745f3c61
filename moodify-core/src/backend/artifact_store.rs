use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::context::CallContext;
use crate::error::{Effect, Error, ErrorKind, Result};

/// The content of an artifact, piece by piece; an error is the last item.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// The longest path that every store takes, in bytes.
const LONGEST_PATH: usize = 900;
/// How much is read at once from a reader.
const PIECE: usize = 64 << 10;

/// An artifact, as its store describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Where it is in the store.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The CRC32C of its content, if the store says.
    pub crc32c: Option<u32>,
    /// When it was written, if the store says.
    pub updated: Option<Timestamp>,
    /// Which writing of the path this is, in the store's words; another with each.
    pub version: Option<String>,
}

impl Artifact {
    /// Whether its content is of this size and checksum, as far as the store says.
    #[must_use]
    pub fn is(&self, sum: Sum) -> bool {
        self.bytes == sum.bytes && self.crc32c.is_none_or(|crc32c| crc32c == sum.crc32c)
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes", self.path, self.bytes)?;
        self.crc32c.map_or(Ok(()), |crc32c| write!(f, ", CRC32C {crc32c:08x}"))
    }
}

/// Size and CRC32C of a content, or of its beginning.
///
/// ```
/// use moodify_core::backend::Sum;
/// let mut sum = Sum::default();
/// sum.add(b"12345");
/// sum.add(b"6789");
/// assert_eq!(sum, Sum::of(b"123456789"));
/// assert_eq!((sum.bytes, sum.crc32c), (9, 0xE306_9283));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// The size in bytes.
    pub bytes: u64,
    /// The CRC32C.
    pub crc32c: u32,
}

impl Sum {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.add(bytes);
        sum
    }

    /// Goes on with these bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
    }

    /// That of what this is the sum of, followed by what `next` is the sum of.
    ///
    /// ```
    /// use moodify_core::backend::Sum;
    /// assert_eq!(Sum::of(b"12345").then(Sum::of(b"6789")), Sum::of(b"123456789"));
    /// ```
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let length = usize::try_from(next.bytes).unwrap_or(usize::MAX);
        let crc32c = crc32c::crc32c_combine(self.crc32c, next.crc32c, length);
        Self { bytes: self.bytes + next.bytes, crc32c }
    }

    /// That of a whole content, which is read to its end.
    ///
    /// # Errors
    /// The content's.
    pub async fn of_content(mut content: Content) -> Result<Self> {
        let mut sum = Self::default();
        while let Some(piece) = content.try_next().await? {
            sum.add(&piece);
        }
        Ok(sum)
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, CRC32C {:08x}", self.bytes, self.crc32c)
    }
}

/// From where an upload that broke off can go on: kept by the caller, also in a file, and given to the next
/// [`PutRequest`] for the same path.
///
/// Whoever has it can go on with the upload, so keep it like a secret. It ends with the upload; Cloud Storage forgets
/// it after a week.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The store's name of the upload.
    pub upload: String,
    /// What the store has of it.
    pub stored: Sum,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("stored", &self.stored).finish_non_exhaustive()
    }
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many bytes the store has.
    pub stored: u64,
    /// How many there will be, if that is known.
    pub size: Option<u64>,
    /// From where the upload can go on if it breaks off now, if the store can do that.
    pub checkpoint: Option<Checkpoint>,
}

impl Progress {
    /// The store has so many bytes of so many.
    #[must_use]
    pub fn new(stored: u64, size: Option<u64>) -> Self {
        Self { stored, size, checkpoint: None }
    }

    /// The same, with a point from which it can go on.
    #[must_use]
    pub fn with_checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }
}

type Watcher = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Where to put a content, and what is known of it.
#[derive(Clone)]
#[non_exhaustive]
pub struct PutRequest {
    /// Where to put it.
    pub path: String,
    /// Its size in bytes, if known: a content of another size is refused.
    pub size: Option<u64>,
    /// Its CRC32C, if known: a content with another one is refused.
    pub crc32c: Option<u32>,
    /// Whether another content at that path may be replaced.
    pub replace: bool,
    /// Where an earlier upload of the same content broke off.
    pub resume: Option<Checkpoint>,
    watcher: Option<Watcher>,
}

impl PutRequest {
    /// Put a content, of which nothing is known, where nothing else is.
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), size: None, crc32c: None, replace: false, resume: None, watcher: None }
    }

    /// The same, with the size of the content in bytes.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// The same, with size and checksum of the content. Then a store that has it already need not read it.
    #[must_use]
    pub fn sum(mut self, sum: Sum) -> Self {
        (self.size, self.crc32c) = (Some(sum.bytes), Some(sum.crc32c));
        self
    }

    /// The same; what is at the path already is replaced.
    #[must_use]
    pub fn replace(mut self) -> Self {
        self.replace = true;
        self
    }

    /// The same, going on where an earlier upload of the same content broke off. The content is given whole again.
    #[must_use]
    pub fn resume(mut self, checkpoint: Checkpoint) -> Self {
        self.resume = Some(checkpoint);
        self
    }

    /// The same; `watcher` is told whenever the store has more of it. It must not block.
    #[must_use]
    pub fn watched(mut self, watcher: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Arc::new(watcher));
        self
    }

    /// Tells the watcher, if there is one. For stores.
    pub fn tell(&self, progress: &Progress) {
        if let Some(watcher) = &self.watcher {
            watcher(progress);
        }
    }

    /// Whether anybody is told, and so may go on with an upload that broke off. For stores.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watcher.is_some()
    }

    /// The sum of the content, if both parts of it are known.
    #[must_use]
    pub fn known_sum(&self) -> Option<Sum> {
        Some(Sum { bytes: self.size?, crc32c: self.crc32c? })
    }

    /// Why a content of this sum is not what was announced, if it is not. For stores.
    #[must_use]
    pub fn contradicts(&self, sum: Sum) -> Option<String> {
        let size = self.size.filter(|size| *size != sum.bytes);
        let crc32c = self.crc32c.filter(|crc32c| *crc32c != sum.crc32c);
        size.map(|size| format!("it has {} bytes, and {size} were announced", sum.bytes)).or_else(|| {
            crc32c.map(|crc32c| format!("its CRC32C is {:08x}, and {crc32c:08x} was announced", sum.crc32c))
        })
    }
}

impl fmt::Debug for PutRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutRequest")
            .field("path", &self.path)
            .field("size", &self.size)
            .field("crc32c", &self.crc32c)
            .field("replace", &self.replace)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// A content that is in memory.
#[must_use]
pub fn content_of(bytes: impl Into<Bytes>) -> Content {
    stream::iter([Ok(bytes.into())]).boxed()
}

/// A content that is read from a file, a pipe or the like, a piece of it in memory at a time.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use moodify_core::backend::{Sum, content_from};
/// let content = content_from(&b"123456789"[..]);
/// assert_eq!(Sum::of_content(content).await.unwrap(), Sum::of(b"123456789"));
/// # });
/// ```
#[must_use]
pub fn content_from(reader: impl AsyncRead + Send + 'static) -> Content {
    let failed = |e: std::io::Error| {
        let message = format!("the content could not be read: {e}");
        Error::new(ErrorKind::Unavailable, "moodify", "read content", message).with_source(e)
    };
    ReaderStream::with_capacity(reader, PIECE).map_err(failed).boxed()
}

/// Where a content comes from that is passed on, for the errors of [`checked`].
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The backend.
    pub backend: &'static str,
    /// What is being done.
    pub operation: &'static str,
}

/// The same content, which fails at its end unless it is that of `artifact`, and ends with its context. For stores.
#[must_use]
pub fn checked(content: Content, cx: &CallContext, artifact: &Artifact, origin: Origin) -> Content {
    let (cx, artifact) = (cx.clone(), artifact.clone());
    stream::try_unfold((content, Sum::default()), move |(mut content, mut sum)| {
        let (cx, artifact) = (cx.clone(), artifact.clone());
        async move {
            let next = cx.run(origin.backend, origin.operation, content.try_next()).await;
            match next.map_err(|e| e.effect(Effect::None).on(artifact.path.as_str()))? {
                Some(piece) => {
                    sum.add(&piece);
                    Ok(Some((piece, (content, sum))))
                }
                None if artifact.is(sum) => Ok(None),
                None => {
                    let message = format!("what arrived is not what was written: {sum}, but the store says {artifact}");
                    Err(Error::new(ErrorKind::Unhealthy, origin.backend, origin.operation, message)
                        .on(artifact.path.as_str())
                        .hint("read it again; if that fails too, it is damaged in the store"))
                }
            }
        }
    })
    .boxed()
}

/// Whether every store takes this path: parts between slashes, none of them empty, `.` or `..`, no control characters,
/// 900 bytes at most. For stores.
///
/// # Errors
/// [`ErrorKind::Invalid`] if not.
pub fn check_path(path: &str, origin: Origin) -> Result<()> {
    let bad_part = path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if bad_part || path.len() > LONGEST_PATH || path.chars().any(|c| c.is_control() || c == '\\') {
        let message = format!("{path:?} is not a path of an artifact");
        let error = Error::new(ErrorKind::Invalid, origin.backend, origin.operation, message);
        return Err(error.hint("a path is like 2026-11-24/export.json: no empty part, no . and .., 900 bytes at most"));
    }
    Ok(())
}

/// Keeps artifacts: exports, reports, logs.
///
/// # Contract
/// - An artifact appears whole or not at all, and who reads it meanwhile reads the one before or the one after.
/// - `put` counts the CRC32C of what it is given and compares it with what the store says: [`ErrorKind::Unhealthy`] if
///   they differ, and nothing bad stays behind. `get` does so again when the last piece was read.
/// - `put` of the content that is there already uploads nothing, so repeating it is fine, after a crash too; with
///   `replace` that may need the sum of the content in the request. Another content is [`ErrorKind::AlreadyExists`], and what is there stays, unless the request says `replace`.
/// - A content is in memory a few MiB at a time, however large it is.
/// - A content of another size or checksum than announced is [`ErrorKind::Invalid`], and is not put.
/// - A path as [`check_path`] refuses it is [`ErrorKind::Invalid`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # use moodify_core::testing::{Scenario, Simulator};
/// # let backends = Simulator::new(&[], Scenario::default()).backends();
/// use std::time::Duration;
/// use moodify_core::CallContext;
/// use moodify_core::backend::{ArtifactStoreExt, PutRequest, content_from};
///
/// let store = backends.artifact_store("simulated")?;
/// let cx = CallContext::by_hand("report", Duration::from_secs(60));
/// let request = PutRequest::new("2026-11-24/report.txt").watched(|p| println!("{} bytes are stored", p.stored));
/// let artifact = store.put(&cx, &request, content_from(&b"all is well"[..])).await?;
/// assert_eq!(artifact.to_string(), "2026-11-24/report.txt: 11 bytes, CRC32C 088d8009");
/// assert_eq!(store.read(&cx, &artifact.path).await?.unwrap(), "all is well");
/// # Ok::<(), moodify_core::Error>(())
/// # }).unwrap();
/// ```
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait ArtifactStore: Send + Sync + fmt::Debug {
    /// Writes an artifact, and returns it as the store has it then.
    ///
    /// # Errors
    /// As in the contract; the content's; and when the store refuses.
    async fn put(&self, cx: &CallContext, request: &PutRequest, content: Content) -> Result<Artifact>;

    /// Begins to read an artifact; `None` if there is none. The content ends with the context, too.
    ///
    /// # Errors
    /// When the store cannot be asked. The content's last item is [`ErrorKind::Unhealthy`] if it is damaged.
    async fn get(&self, cx: &CallContext, path: &str) -> Result<Option<(Artifact, Content)>>;

    /// Describes an artifact; `None` if there is none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn head(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>>;

    /// All artifacts whose path begins with `prefix`, which need not end at a slash, by path.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn list(&self, cx: &CallContext, prefix: &str) -> Result<Vec<Artifact>>;

    /// Deletes an artifact. Fine if it is gone.
    ///
    /// # Errors
    /// When the store refuses.
    async fn delete(&self, cx: &CallContext, path: &str) -> Result<()>;
}

/// Comfort on top of any [`ArtifactStore`].
#[async_trait]
pub trait ArtifactStoreExt {
    /// Reads an artifact whole; `None` if there is none.
    ///
    /// # Errors
    /// As [`ArtifactStore::get`].
    async fn read(&self, cx: &CallContext, path: &str) -> Result<Option<Bytes>>;

    /// Writes an artifact that is in memory.
    ///
    /// # Errors
    /// As [`ArtifactStore::put`].
    async fn write(&self, cx: &CallContext, path: &str, bytes: Bytes) -> Result<Artifact>;

    /// Reads an artifact to its end, and so verifies it; `None` if there is none.
    ///
    /// # Errors
    /// As [`ArtifactStore::get`].
    async fn verify(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>>;
}

#[async_trait]
impl<S: ArtifactStore + ?Sized> ArtifactStoreExt for S {
    async fn read(&self, cx: &CallContext, path: &str) -> Result<Option<Bytes>> {
        let Some((_, mut content)) = self.get(cx, path).await? else { return Ok(None) };
        let mut whole = Vec::new();
        while let Some(piece) = content.try_next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.into()))
    }

    async fn write(&self, cx: &CallContext, path: &str, bytes: Bytes) -> Result<Artifact> {
        let request = PutRequest::new(path).sum(Sum::of(&bytes));
        self.put(cx, &request, content_of(bytes)).await
    }

    async fn verify(&self, cx: &CallContext, path: &str) -> Result<Option<Artifact>> {
        let Some((artifact, content)) = self.get(cx, path).await? else { return Ok(None) };
        Sum::of_content(content).await?;
        Ok(Some(artifact))
    }
}
