use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::future::{Either, select};
use tokio::task;

use super::artifact_store::{Artifact, Content, Origin, PutRequest, Sum};
use crate::context::CallContext;
use crate::error::{Effect, Error, ErrorKind, Result};

/// Pieces below this size are copied together, so that a chunk is a short list of them, in bytes.
const SMALL: usize = 16 << 10;
/// How much room the copies of small pieces get at once, in bytes.
const ROOM: usize = 64 << 10;
/// How much is read before other tasks have a turn, in bytes.
const TURN: usize = 256 << 10;

/// A part of a content, as the pieces in which it was read. They are not copied, so it is cheap to clone.
#[derive(Clone, Default)]
pub struct Chunk {
    pieces: Vec<Bytes>,
    sum: Sum,
    last: bool,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk").field("sum", &self.sum).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Chunk {
    /// Its pieces, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Its pieces without its first `bytes`, none of them copied.
    #[must_use]
    pub fn behind(&self, bytes: u64) -> Vec<Bytes> {
        let mut skip = usize::try_from(bytes).unwrap_or(usize::MAX);
        let rest = self.pieces.iter().filter_map(|piece| {
            let cut = skip.min(piece.len());
            skip -= cut;
            (cut < piece.len()).then(|| piece.slice(cut..))
        });
        rest.collect()
    }

    /// Its own size and CRC32C.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Whether it is the last one.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last
    }
}

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
    /// Small pieces of the chunk, copied together.
    small: BytesMut,
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
        let (rest, small, sum) = (Bytes::new(), BytesMut::new(), Sum::default());
        Self { request, content, size, origin, target, rest, small, sum }
    }

    /// What the chunks so far add up to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// The next chunk. All but the last are full.
    ///
    /// # Errors
    /// The content's; that of its context; and [`ErrorKind::Invalid`] with its last chunk if it is not what was
    /// announced, or as soon as it is too long.
    pub async fn next(&mut self, cx: &CallContext) -> Result<Chunk> {
        let Origin { backend, operation } = self.origin;
        let read = cx.run(backend, operation, self.chunk()).await;
        let chunk = read.map_err(|e| e.effect(Effect::None).on(self.target.as_str()))?;
        let too_long = self.request.size.is_some_and(|size| self.sum.bytes > size);
        match self.request.contradicts(self.sum).filter(|_| chunk.last || too_long) {
            Some(wrong) => Err(self.fail(ErrorKind::Invalid, format!("{wrong}; nothing was put"))),
            None => Ok(chunk),
        }
    }

    /// Sends `chunk` by `sending`, and reads the one behind it meanwhile; `None` if it is the last. What was not sent
    /// does not wait for what is read.
    ///
    /// # Errors
    /// That of `sending`; inside of what is returned, those of [`next`](Self::next).
    pub async fn next_while<T>(
        &mut self,
        cx: &CallContext,
        chunk: &Chunk,
        sending: impl Future<Output = Result<T>>,
    ) -> Result<(T, Result<Option<Chunk>>)> {
        let reading = async { if chunk.last { Ok(None) } else { self.next(cx).await.map(Some) } };
        match select(pin!(sending), pin!(reading)).await {
            Either::Left((sent, reading)) => Ok((sent?, reading.await)),
            Either::Right((next, sending)) => Ok((sending.await?, next)),
        }
    }

    /// Reads what is left, for its sum.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn finish(&mut self, cx: &CallContext) -> Result<()> {
        while !self.next(cx).await?.last {}
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

    async fn chunk(&mut self) -> Result<Chunk> {
        let (mut chunk, mut left, mut turn) = (Chunk::default(), self.size, 0);
        while left > 0 && self.fill().await? {
            let piece = self.rest.split_to(self.rest.len().min(left));
            (left, turn) = (left - piece.len(), turn + piece.len());
            chunk.sum.add(&piece);
            self.gather(piece, &mut chunk.pieces);
            // A source that never waits would keep the connection from sending the chunk before.
            if turn >= TURN {
                turn = 0;
                task::yield_now().await;
            }
        }
        self.flush(&mut chunk.pieces);
        self.sum = self.sum.then(chunk.sum);
        chunk.last = !self.fill().await?;
        Ok(chunk)
    }

    /// Adds a piece to those of a chunk.
    fn gather(&mut self, piece: Bytes, pieces: &mut Vec<Bytes>) {
        if piece.len() >= SMALL {
            self.flush(pieces);
            return pieces.push(piece);
        }
        if self.small.len() + piece.len() > self.small.capacity() {
            self.flush(pieces);
            self.small.reserve(ROOM);
        }
        self.small.extend_from_slice(&piece);
    }

    fn flush(&mut self, pieces: &mut Vec<Bytes>) {
        if !self.small.is_empty() {
            pieces.push(self.small.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use proptest::prelude::*;

    use super::*;

    const CHUNK: usize = 10;

    async fn cut(pieces: Vec<Bytes>, size: usize) -> (Vec<Chunk>, Sum) {
        let content = stream::iter(pieces.into_iter().map(Ok)).boxed();
        let (request, origin) = (PutRequest::new("x"), Origin { backend: "test", operation: "put" });
        let mut source = Chunks::new(&request, content, size, origin, "x".to_owned());
        let mut chunks = Vec::new();
        while chunks.last().is_none_or(|chunk: &Chunk| !chunk.is_last()) {
            chunks.push(source.chunk().await.unwrap());
        }
        (chunks, source.sum())
    }

    #[tokio::test]
    async fn contents_are_cut_into_full_chunks_and_a_last_one() {
        for (pieces, lengths) in [
            (vec![], vec![0]),
            (vec![0, 0], vec![0]),
            (vec![1, 0, 2], vec![3]),
            (vec![CHUNK], vec![CHUNK]),
            (vec![CHUNK, 0], vec![CHUNK]),
            (vec![CHUNK - 1, 2], vec![CHUNK, 1]),
            (vec![2 * CHUNK + 1], vec![CHUNK, CHUNK, 1]),
        ] {
            let pieces = pieces.into_iter().map(|length| vec![7; length].into());
            let (chunks, sum) = cut(pieces.collect(), CHUNK).await;
            assert_eq!(chunks.iter().map(|chunk| chunk.sum().bytes as usize).collect::<Vec<_>>(), lengths);
            assert_eq!(sum, Sum::of(&vec![7; lengths.iter().sum()]));
        }
    }

    #[tokio::test]
    async fn large_pieces_are_not_copied_and_small_ones_make_no_long_lists() {
        const SIZE: usize = 8 << 20;
        let (large, small) = (Bytes::from(vec![1; 64 << 10]), Bytes::from(vec![2; 1 << 10]));
        let (chunks, _) = cut(vec![large.clone(); 2 * SIZE / large.len()], SIZE).await;
        let pieces = chunks.iter().flat_map(Chunk::pieces);
        assert!(pieces.clone().all(|piece| piece.as_ptr() == large.as_ptr() && piece.len() == large.len()));
        assert_eq!(pieces.count(), 2 * SIZE / large.len());

        let (chunks, _) = cut(vec![small.clone(); 2 * SIZE / small.len()], SIZE).await;
        assert!(chunks.iter().all(|chunk| chunk.pieces().len() <= SIZE / ROOM + 1), "{:?}", chunks[0].pieces().len());

        let least = large.slice(..SMALL);
        let turns = (0..SIZE / SMALL).flat_map(|_| [least.clone(), small.slice(..1)]);
        let (chunks, _) = cut(turns.collect(), SIZE).await;
        assert!(chunks[0].pieces().len() <= 2 * SIZE / SMALL);
    }

    /// Contents in pieces of all kinds, none of them alike.
    fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
        let length = prop_oneof![0..3_usize, SMALL - 2..SMALL + 2, Just(ROOM - 1), 0..3 * ROOM];
        prop::collection::vec(length, 0..12).prop_map(|lengths| {
            let mut whole: Bytes = (0..lengths.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
            lengths.into_iter().map(|length| whole.split_to(length)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_the_pieces_and_the_boundaries_nothing_is_lost(pieces in pieces(), size in 1..4 * ROOM, at in any::<prop::sample::Index>()) {
            let whole = pieces.concat();
            // Not a million chunks of a byte.
            let size = size.max(whole.len() / 100 + 1);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (chunks, sum) = runtime.block_on(cut(pieces, size));
            let parts: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.pieces().concat()).collect();
            prop_assert!(parts.concat() == whole);
            prop_assert_eq!(sum, Sum::of(&whole));
            for (n, (chunk, part)) in chunks.iter().zip(&parts).enumerate() {
                prop_assert_eq!(chunk.sum(), Sum::of(part));
                prop_assert_eq!(chunk.is_last(), n + 1 == chunks.len());
                prop_assert!(part.len() == size || chunk.is_last());
                let at = at.index(part.len() + 1);
                let rest = chunk.behind(at as u64);
                prop_assert!(rest.concat() == part[at..] && !rest.iter().any(Bytes::is_empty));
            }
        }
    }

    #[tokio::test]
    async fn a_chunk_can_be_cut_before_each_of_its_bytes() {
        let whole: Bytes = (0..3 * SMALL).map(|n| (n % 251) as u8).collect();
        let pieces = vec![whole.slice(..SMALL + 1), whole.slice(SMALL + 1..SMALL + 3), whole.slice(SMALL + 3..)];
        let (chunks, _) = cut(pieces, whole.len()).await;
        assert_eq!(chunks[0].pieces().len(), 3);
        for at in (0..=whole.len()).step_by(61).chain(SMALL - 2..SMALL + 6).chain([whole.len(), whole.len() + 1]) {
            let rest = chunks[0].behind(at as u64);
            assert!(rest.concat() == whole[at.min(whole.len())..], "{at}");
            assert!(!rest.iter().any(Bytes::is_empty), "{at}");
        }
    }
}
