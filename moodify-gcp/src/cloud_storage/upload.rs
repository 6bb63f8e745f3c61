use http::HeaderMap;
use moodify_core::backend::{Artifact, Checkpoint, Chunk, Chunks, Progress, PutRequest, Sum};
use moodify_core::secret;
use moodify_core::{CallContext, Effect, Error, ErrorKind, Result};
use reqwest::Client;
use serde_json::json;
use uuid::Uuid;

use super::body::Pieces;
use super::object::{FIELDS, Object, encoded};
use super::{CloudStorage, PUT};
use crate::client::{Answer, Ask, Connection, absent};

/// What is sent at once. The API wants a multiple of 256 KiB, and advises 8 MiB.
pub(super) const CHUNK: usize = 8 << 20;

impl CloudStorage {
    /// Writes a content where the object of that generation is; 0 is one that does not exist.
    pub(super) async fn upload(
        &self,
        cx: &CallContext,
        request: &PutRequest,
        source: &mut Chunks<'_>,
        generation: &str,
    ) -> Result<Artifact> {
        let chunk = source.next(cx).await?;
        let answer = if chunk.is_last() && request.resume.is_none() {
            self.at_once(cx, request, &chunk, generation).await?
        } else {
            self.in_chunks(cx, request, source, chunk, generation).await?
        };
        let artifact = answer.json::<Object>(PUT)?.artifact(&self.prefix, PUT)?;
        if artifact.crc32c.is_none() || !artifact.is(source.sum()) {
            return Err(self.take_back(cx, &artifact, source.sum()).await);
        }
        request.tell(&Progress::new(artifact.bytes, Some(artifact.bytes)));
        Ok(artifact)
    }

    /// One request with name, checksum and content.
    async fn at_once(&self, cx: &CallContext, request: &PutRequest, chunk: &Chunk, generation: &str) -> Result<Answer> {
        const TYPE: &str = "Content-Type: application/octet-stream\r\n\r\n";
        let metadata = json!({"name": self.name(&request.path), "crc32c": encoded(chunk.sum().crc32c)});
        // Nobody who made the content could know it.
        let boundary = Uuid::now_v7().simple();
        let head =
            format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n--{boundary}\r\n{TYPE}");
        let tail = format!("\r\n--{boundary}--\r\n");
        let content = chunk.pieces().iter().cloned();
        let body: Pieces = [head.into()].into_iter().chain(content).chain([tail.into()]).collect();
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
        source: &mut Chunks<'_>,
        mut chunk: Chunk,
        generation: &str,
    ) -> Result<Answer> {
        let uri = self.uri(&request.path);
        let (session, mut stored) = match self.resumed(cx, request, &uri).await? {
            Some((_, Stored::All(answer))) => {
                source.finish(cx).await?;
                let there = answer.json::<Object>(PUT)?.artifact(&self.prefix, PUT)?;
                return if there.is(source.sum()) { Ok(answer) } else { Err(source.other_content()) };
            }
            Some((session, Stored::Part(bytes))) => (session, bytes),
            None => (self.begin(cx, request, generation).await?, 0),
        };
        loop {
            let sum = source.sum();
            if let Some(checkpoint) = &request.resume
                && (checkpoint.stored.bytes == sum.bytes && checkpoint.stored != sum
                    || chunk.is_last() && stored > sum.bytes)
            {
                return Err(source.other_content());
            }
            let sending = async {
                let sent = self.send_chunk(cx, &session, &uri, &chunk, sum, stored).await?;
                if matches!(sent, Stored::Part(bytes) if bytes == sum.bytes) {
                    let checkpoint = Checkpoint { upload: session.clone(), stored: sum };
                    request.tell(&Progress::new(sum.bytes, request.size).with_checkpoint(checkpoint));
                }
                Ok::<_, Error>(sent)
            };
            let (sent, next) = source.next_while(cx, &chunk, sending).await?;
            stored = match sent {
                Stored::All(answer) => return Ok(answer),
                Stored::Part(bytes) => bytes,
            };
            match next {
                Ok(next) => chunk = next.unwrap_or(chunk),
                Err(error) => {
                    if error.kind() == ErrorKind::Invalid {
                        self.give_up(cx, &session, &uri).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends what the server does not have of a chunk, up to which the content adds up to `sum`.
    async fn send_chunk(
        &self,
        cx: &CallContext,
        session: &str,
        uri: &str,
        chunk: &Chunk,
        sum: Sum,
        mut stored: u64,
    ) -> Result<Stored> {
        let (begin, end) = (sum.bytes - chunk.sum().bytes, sum.bytes);
        while stored < end || chunk.is_last() {
            let at = stored.clamp(begin, end);
            let content = chunk.behind(at - begin).into_iter().collect();
            let part = Part { at, content, whole: chunk.is_last().then_some(sum) };
            match self.send(cx, session, uri, &part).await? {
                Stored::Part(bytes) if bytes > stored && bytes <= end => stored = bytes,
                Stored::Part(bytes) => {
                    let why = format!("the server has {bytes} bytes of it after {stored} of {end}, and takes no more");
                    let error = PUT.fail(ErrorKind::Unavailable, why).on(uri).effect(Effect::Unknown);
                    return Err(error.hint("put it again, with the last checkpoint"));
                }
                all => return Ok(all),
            }
        }
        Ok(Stored::Part(stored))
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
    content: Pieces,
    /// The sum of the whole content, with its last part.
    whole: Option<Sum>,
}

impl Part {
    fn range(&self) -> String {
        let whole = self.whole.map_or_else(|| "*".to_owned(), |sum| sum.bytes.to_string());
        match self.content.len() {
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
    use super::*;

    #[test]
    fn ranges_are_written_and_read_as_the_api_wants_them() {
        let sum = Sum { bytes: 12, crc32c: 0 };
        for (at, length, whole, range) in
            [(0, 10, None, "bytes 0-9/*"), (10, 2, Some(sum), "bytes 10-11/12"), (12, 0, Some(sum), "bytes */12")]
        {
            assert_eq!(Part { at, content: [vec![0; length].into()].into_iter().collect(), whole }.range(), range);
        }
        for (text, end) in [("bytes=0-9", Some(10)), ("bytes=1-9", None), ("bytes=0-x", None), ("0-9", None)] {
            let headers = HeaderMap::from_iter([(http::header::RANGE, text.parse().unwrap())]);
            assert_eq!(range_end(&headers), end, "{text}");
        }
        assert_eq!(range_end(&HeaderMap::new()), Some(0));
    }
}
