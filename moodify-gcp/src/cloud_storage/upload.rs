use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::HeaderMap;
use moodify_core::backend::{Artifact, Checkpoint, Content, Progress, PutRequest, Sum};
use moodify_core::secret;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use reqwest::Client;
use serde_json::json;
use uuid::Uuid;

use super::object::{FIELDS, Object, encoded};
use super::{CloudStorage, PUT};
use crate::client::{Answer, Ask, Connection, absent};

/// What is sent at once. The API wants a multiple of 256 KiB, and advises 8 MiB.
const CHUNK: usize = 8 << 20;

/// A content that is cut into chunks, and what has been read of it.
pub(super) struct Source {
    content: Content,
    /// Read, but not in a chunk yet.
    rest: Bytes,
    sum: Sum,
}

impl Source {
    pub(super) fn new(content: Content) -> Self {
        Self { content, rest: Bytes::new(), sum: Sum::default() }
    }

    /// What the chunks so far add up to.
    pub(super) fn sum(&self) -> Sum {
        self.sum
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

    /// The next chunk, and whether it is the last one. All but the last are full.
    async fn chunk(&mut self) -> Result<(Bytes, bool)> {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK && self.fill().await? {
            let piece = self.rest.split_to(self.rest.len().min(CHUNK - chunk.len()));
            chunk.extend_from_slice(&piece);
        }
        self.sum.add(&chunk);
        let last = !self.fill().await?;
        Ok((chunk.freeze(), last))
    }

    /// The same within its context. A content that is not what was announced fails with its last chunk, or as soon as it is too
    /// long.
    async fn next(&mut self, cx: &CallContext, request: &PutRequest, target: &str) -> Result<(Bytes, bool)> {
        let read = cx.run(PUT.backend, PUT.operation, self.chunk()).await;
        let (chunk, last) = read.map_err(|e| e.effect(Effect::None).on(target))?;
        let too_long = request.size.is_some_and(|size| self.sum.bytes > size);
        match request.contradicts(self.sum).filter(|_| last || too_long) {
            Some(wrong) => Err(PUT.fail(ErrorKind::Invalid, format!("{wrong}; nothing was put")).on(target)),
            None => Ok((chunk, last)),
        }
    }

    /// Reads what is left, for its sum.
    pub(super) async fn finish(&mut self, cx: &CallContext, request: &PutRequest, target: &str) -> Result<()> {
        while !self.next(cx, request, target).await?.1 {}
        Ok(())
    }
}

impl CloudStorage {
    /// Writes a content where the object of that generation is; 0 is one that does not exist.
    pub(super) async fn upload(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        source: &mut Source,
        generation: &str,
    ) -> Result<Artifact> {
        let uri = self.uri(&request.path);
        let (chunk, last) = source.next(cx, request, &uri).await?;
        let answer = if last && request.resume.is_none() {
            self.at_once(cx, request, &chunk, generation).await?
        } else {
            self.in_chunks(cx, request, source, (chunk, last), generation).await?
        };
        let artifact = answer.json::<Object>(PUT)?.artifact(&self.prefix, PUT)?;
        if artifact.crc32c.is_none() || !artifact.is(source.sum()) {
            return Err(self.take_back(cx, &artifact, source.sum()).await);
        }
        request.tell(&Progress::new(artifact.bytes, Some(artifact.bytes)));
        Ok(artifact)
    }

    /// One request with name, checksum and content.
    async fn at_once(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        content: &Bytes,
        generation: &str,
    ) -> Result<Answer> {
        const TYPE: &str = "Content-Type: application/octet-stream\r\n\r\n";
        let sum = Sum::of(content);
        let metadata = json!({"name": self.name(&request.path), "crc32c": encoded(sum.crc32c)});
        // Nobody who made the content could know it.
        let boundary = Uuid::now_v7().simple();
        let head =
            format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n--{boundary}\r\n{TYPE}");
        let mut body = BytesMut::from(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let body = body.freeze();
        let ask = |connection: &Connection| {
            let url = connection.url(&["upload", "storage", "v1", "b", &self.bucket, "o"])?;
            let post = connection.http.post(url).body(body.clone());
            let post = post.header(http::header::CONTENT_TYPE, format!("multipart/related; boundary={boundary}"));
            Ok(post.query(&[("uploadType", "multipart"), ("ifGenerationMatch", generation), ("fields", FIELDS)]))
        };
        self.api.ask(cx, PUT, &self.uri(&request.path), Ask::Api(&ask), &[]).await.map_err(if_corrupt)
    }

    /// A resumable upload, from where an earlier one broke off.
    async fn in_chunks(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        source: &mut Source,
        first: (Bytes, bool),
        generation: &str,
    ) -> Result<Answer> {
        let uri = self.uri(&request.path);
        let (session, mut stored) = match self.resumed(cx, request, &uri).await? {
            Some((_, Stored::All(answer))) => {
                source.finish(cx, request, &uri).await?;
                let there = answer.json::<Object>(PUT)?.artifact(&self.prefix, PUT)?;
                return if there.is(source.sum) { Ok(answer) } else { Err(other_content(&uri)) };
            }
            Some((session, Stored::Part(bytes))) => (session, bytes),
            None => (self.begin(cx, request, generation).await?, 0),
        };
        let (mut chunk, mut last) = first;
        loop {
            let end = source.sum.bytes;
            let begin = end - chunk.len() as u64;
            if let Some(checkpoint) = &request.resume
                && (checkpoint.stored.bytes == end && checkpoint.stored != source.sum || last && stored > end)
            {
                return Err(other_content(&uri));
            }
            while stored < end || last {
                let from = usize::try_from(stored.saturating_sub(begin)).unwrap_or(chunk.len()).min(chunk.len());
                let part =
                    Part { at: begin + from as u64, content: chunk.slice(from..), whole: last.then_some(source.sum) };
                match self.send(cx, &session, &uri, &part).await? {
                    Stored::All(answer) => return Ok(answer),
                    Stored::Part(bytes) if bytes > stored && bytes <= end => stored = bytes,
                    Stored::Part(bytes) => {
                        let why =
                            format!("the server has {bytes} bytes of it after {stored} of {end}, and takes no more");
                        let error = PUT.fail(ErrorKind::Unavailable, why).on(uri).effect(Effect::Unknown);
                        return Err(error.hint("put it again, with the last checkpoint"));
                    }
                }
            }
            if stored == end {
                let checkpoint = Checkpoint { upload: session.clone(), stored: source.sum };
                request.tell(&Progress::new(end, request.size).with_checkpoint(checkpoint));
            }
            (chunk, last) = match source.next(cx, request, &uri).await {
                Ok(next) => next,
                Err(error) => {
                    if error.kind() == ErrorKind::Invalid {
                        self.give_up(cx, &session, &uri).await;
                    }
                    return Err(error);
                }
            };
        }
    }

    /// Begins an upload session; returns its address.
    async fn begin(&self, cx: &CallContext, request: &PutRequest, generation: &str) -> Result<String> {
        let uri = self.uri(&request.path);
        let mut metadata = json!({"name": self.name(&request.path)});
        if let Some(crc32c) = request.crc32c {
            metadata["crc32c"] = json!(encoded(crc32c));
        }
        let ask = |connection: &Connection| {
            let url = connection.url(&["upload", "storage", "v1", "b", &self.bucket, "o"])?;
            let query = [("uploadType", "resumable"), ("ifGenerationMatch", generation), ("fields", FIELDS)];
            Ok(connection.http.post(url).query(&query).json(&metadata))
        };
        let answer = self.api.ask(cx, PUT, &uri, Ask::Api(&ask), &[]).await;
        // A session without content is nothing yet.
        let answer = answer.map_err(|e| e.effect(Effect::None))?;
        let session = answer.headers.get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let session =
            session.ok_or_else(|| PUT.fail(ErrorKind::Internal, "the answer has no upload session").on(uri))?;
        secret::remember(session);
        Ok(session.to_owned())
    }

    /// The session of the request's checkpoint and what the server has of it; `None` if there is none any more.
    async fn resumed(&self, cx: &CallContext, request: &PutRequest, uri: &str) -> Result<Option<(String, Stored)>> {
        let Some(checkpoint) = &request.resume else { return Ok(None) };
        secret::remember(&checkpoint.upload);
        let session = &checkpoint.upload;
        let ask = |http: &Client| {
            let put = http.put(session).header(http::header::CONTENT_RANGE, "bytes */*");
            put.header(http::header::CONTENT_LENGTH, 0)
        };
        let answer = self.api.ask(cx, PUT, uri, Ask::Session(&ask), &[308]).await;
        let Some(answer) = absent(answer.map_err(|e| e.effect(Effect::None)))? else { return Ok(None) };
        if answer.status != 308 {
            // It was completed; but what became of it since is another question.
            let made = answer.json::<Object>(PUT)?.artifact(&self.prefix, PUT)?;
            let there = self.find(cx, PUT, &request.path).await?;
            if there.is_none_or(|there| there.version != made.version) {
                return Ok(None);
            }
        }
        Ok(Some((session.clone(), stored(answer, uri)?)))
    }

    /// Sends a part of a chunk; returns what the server has then.
    async fn send(&self, cx: &CallContext, session: &str, uri: &str, part: &Part) -> Result<Stored> {
        let range = part.range();
        let ask = |http: &Client| {
            let put = http.put(session).header(http::header::CONTENT_RANGE, &range).body(part.content.clone());
            let put = put.header(http::header::CONTENT_LENGTH, part.content.len());
            match part.whole {
                Some(sum) => put.header("x-goog-hash", format!("crc32c={}", encoded(sum.crc32c))),
                None => put,
            }
        };
        match self.api.ask(cx, PUT, uri, Ask::Session(&ask), &[308]).await {
            Ok(answer) => stored(answer, uri),
            // Only with its last part can an object appear.
            Err(error) if part.whole.is_none() => Err(error.effect(Effect::None)),
            Err(error) => Err(if_corrupt(error)),
        }
    }

    /// Ends a session whose content is not to be put. If it fails, the server forgets the session by itself.
    async fn give_up(&self, cx: &CallContext, session: &str, uri: &str) {
        let ask = |http: &Client| http.delete(session).header(http::header::CONTENT_LENGTH, 0);
        drop(self.api.ask(cx, PUT, uri, Ask::Session(&ask), &[499]).await);
    }

    /// The server has taken something else than what was sent: it must not stay.
    async fn take_back(&self, cx: &CallContext, artifact: &Artifact, sum: Sum) -> Error {
        let uri = self.uri(&artifact.path);
        let generation = artifact.version.clone().unwrap_or_default();
        let ask = |connection: &Connection| {
            let delete = self.object(connection, reqwest::Method::DELETE, &artifact.path)?;
            Ok(delete.query(&[("ifGenerationMatch", &generation)]))
        };
        let deleted = absent(self.api.ask(cx, PUT, &uri, Ask::Api(&ask), &[]).await);
        let message = format!("the store says it has {artifact}, but {sum} were sent");
        let error = |rest: &str| PUT.fail(ErrorKind::Unhealthy, format!("{message}; {rest}")).on(uri.as_str());
        match deleted {
            Ok(_) => error("it was deleted again").hint("put it again"),
            Err(e) => error(&format!("it could not be deleted: {}", e.message()))
                .effect(Effect::Unknown)
                .hint("delete the object by hand, then put it again"),
        }
    }
}

/// A part of a content, as it is sent.
struct Part {
    at: u64,
    content: Bytes,
    /// The sum of the whole content, with its last part.
    whole: Option<Sum>,
}

impl Part {
    fn range(&self) -> String {
        let whole = self.whole.map_or_else(|| "*".to_owned(), |sum| sum.bytes.to_string());
        match self.content.len() as u64 {
            0 => format!("bytes */{whole}"),
            length => format!("bytes {}-{}/{whole}", self.at, self.at + length - 1),
        }
    }
}

/// What the server has of an upload.
enum Stored {
    Part(u64),
    All(Answer),
}

fn stored(answer: Answer, uri: &str) -> Result<Stored> {
    if answer.status != 308 {
        return Ok(Stored::All(answer));
    }
    let unclear = || PUT.fail(ErrorKind::Internal, "the answer does not say what the server has of it").on(uri);
    range_end(&answer.headers).map(Stored::Part).ok_or_else(unclear)
}

/// Without a range it has nothing; `bytes=0-9` are ten bytes.
fn range_end(headers: &HeaderMap) -> Option<u64> {
    let Some(range) = headers.get(http::header::RANGE) else { return Some(0) };
    let last = range.to_str().ok()?.strip_prefix("bytes=0-")?;
    last.parse::<u64>().ok()?.checked_add(1)
}

fn other_content(uri: &str) -> Error {
    let why = "it is not the content with which the upload was begun; nothing was put";
    PUT.fail(ErrorKind::Invalid, why).on(uri).hint("put it without the checkpoint")
}

/// The server compares the checksum, and says so in its message only.
fn if_corrupt(error: Error) -> Error {
    let said = error.message().to_ascii_lowercase();
    let hash = ["crc32c", "checksum", "x-goog-hash"].iter().any(|word| said.contains(word));
    if error.kind() != ErrorKind::Invalid || !hash {
        return error;
    }
    let message = format!("what arrived was not what was sent, and was not put: {}", error.message());
    PUT.fail(ErrorKind::Unhealthy, message).on(error.target()).hint("put it again").with_source(error)
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

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
            let mut source = Source::new(stream::iter(pieces.collect::<Vec<_>>()).boxed());
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

    #[test]
    fn ranges_are_written_and_read_as_the_api_wants_them() {
        let sum = Sum { bytes: 12, crc32c: 0 };
        for (at, length, whole, range) in
            [(0, 10, None, "bytes 0-9/*"), (10, 2, Some(sum), "bytes 10-11/12"), (12, 0, Some(sum), "bytes */12")]
        {
            assert_eq!(Part { at, content: vec![0; length].into(), whole }.range(), range);
        }
        for (text, end) in [("bytes=0-9", Some(10)), ("bytes=1-9", None), ("bytes=0-x", None), ("0-9", None)] {
            let headers = HeaderMap::from_iter([(http::header::RANGE, text.parse().unwrap())]);
            assert_eq!(range_end(&headers), end, "{text}");
        }
        assert_eq!(range_end(&HeaderMap::new()), Some(0));
    }
}
