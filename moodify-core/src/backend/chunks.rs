use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::artifact_store::{Artifact, Content, Origin, PutRequest, Sum};
use crate::context::CallContext;
use crate::error::{Effect, Error, ErrorKind, Result};

/// A content that is put, cut into chunks of one size, and what has been read of it. For stores.
pub struct Chunks<'a> {
    request: &'a PutRequest,
    content: Content,
    size: usize,
    origin: Origin,
    /// What errors are told on.
    target: String,
    /// Read, but not in a chunk yet.
    rest: Bytes,
    sum: Sum,
}

impl std::fmt::Debug for Chunks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("target", &self.target).field("sum", &self.sum).finish_non_exhaustive()
    }
}

impl<'a> Chunks<'a> {
    /// The content of a request, in chunks of `size` bytes; errors are told on `target`.
    ///
    /// # Panics
    /// If `size` is 0.
    #[must_use]
    pub fn new(request: &'a PutRequest, content: Content, size: usize, origin: Origin, target: String) -> Self {
        assert!(size > 0, "a chunk has a size");
        Self { request, content, size, origin, target, rest: Bytes::new(), sum: Sum::default() }
    }

    /// What the chunks so far add up to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// The next chunk, and whether it is the last one. All but the last are full.
    ///
    /// # Errors
    /// The content's; that of its context; and [`ErrorKind::Invalid`] with its last chunk if it is not what was
    /// announced, or as soon as it is too long.
    pub async fn next(&mut self, cx: &CallContext) -> Result<(Bytes, bool)> {
        let Origin { backend, operation } = self.origin;
        let read = cx.run(backend, operation, self.chunk()).await;
        let (chunk, last) = read.map_err(|e| e.effect(Effect::None).on(self.target.as_str()))?;
        let too_long = self.request.size.is_some_and(|size| self.sum.bytes > size);
        match self.request.contradicts(self.sum).filter(|_| last || too_long) {
            Some(wrong) => Err(self.fail(ErrorKind::Invalid, format!("{wrong}; nothing was put"))),
            None => Ok((chunk, last)),
        }
    }

    /// Reads what is left, for its sum.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn finish(&mut self, cx: &CallContext) -> Result<()> {
        while !self.next(cx).await?.1 {}
        Ok(())
    }

    /// What the answer to a put is when this is there already: success if it is the same content, which must have been
    /// read to its end.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if it is another.
    pub fn settle(&self, there: Artifact) -> Result<Artifact> {
        if there.is(self.sum) {
            return Ok(there);
        }
        let why = format!("there is another content, which was left as it is: {there}");
        Err(self.fail(ErrorKind::AlreadyExists, why).hint("choose another path, or say that it may be replaced"))
    }

    /// That an upload goes on with another content than it was begun with.
    #[must_use]
    pub fn other_content(&self) -> Error {
        let why = "it is not the content with which the upload was begun; nothing was put";
        self.fail(ErrorKind::Invalid, why).hint("put it without the checkpoint")
    }

    fn fail(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        let Origin { backend, operation } = self.origin;
        Error::new(kind, backend, operation, message).effect(Effect::None).on(self.target.as_str())
    }

    /// Whether there is anything left.
    async fn fill(&mut self) -> Result<bool> {
        while self.rest.is_empty() {
            match self.content.try_next().await? {
                Some(piece) => self.rest = piece,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn chunk(&mut self) -> Result<(Bytes, bool)> {
        let mut chunk = BytesMut::new();
        while chunk.len() < self.size && self.fill().await? {
            let piece = self.rest.split_to(self.rest.len().min(self.size - chunk.len()));
            chunk.extend_from_slice(&piece);
        }
        self.sum.add(&chunk);
        let last = !self.fill().await?;
        Ok((chunk.freeze(), last))
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    const CHUNK: usize = 10;

    #[tokio::test]
    async fn contents_are_cut_into_full_chunks_and_a_last_one() {
        for (pieces, chunks) in [
            (vec![], vec![0]),
            (vec![0, 0], vec![0]),
            (vec![1, 0, 2], vec![3]),
            (vec![CHUNK], vec![CHUNK]),
            (vec![CHUNK, 0], vec![CHUNK]),
            (vec![CHUNK - 1, 2], vec![CHUNK, 1]),
            (vec![2 * CHUNK + 1], vec![CHUNK, CHUNK, 1]),
        ] {
            let pieces = pieces.into_iter().map(|length| Ok(vec![7; length].into()));
            let content = stream::iter(pieces.collect::<Vec<_>>()).boxed();
            let (request, origin) = (PutRequest::new("x"), Origin { backend: "test", operation: "put" });
            let mut source = Chunks::new(&request, content, CHUNK, origin, "x".to_owned());
            let mut cut = Vec::new();
            loop {
                let (chunk, last) = source.chunk().await.unwrap();
                cut.push(chunk.len());
                if last {
                    break;
                }
            }
            assert_eq!(cut, chunks);
            assert_eq!(source.sum(), Sum::of(&vec![7; chunks.iter().sum()]));
        }
    }
}
