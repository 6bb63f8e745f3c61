use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What is sent, as pieces, which are not copied. Its length is known, so it is not sent in chunked encoding.
#[derive(Clone, Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    length: u64,
}

impl Pieces {
    /// How many bytes are left.
    pub(super) fn len(&self) -> u64 {
        self.length
    }
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        let pieces: VecDeque<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, length }
    }
}

impl From<Pieces> for reqwest::Body {
    fn from(pieces: Pieces) -> Self {
        Self::wrap(pieces)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.length -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_how_much_is_left_of_it() {
        let mut body: Pieces = ["ab", "", "cde"].map(Bytes::from).into_iter().collect();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (left, piece) in [(5, Some("ab")), (3, Some("cde")), (0, None)] {
            assert_eq!((body.len(), body.size_hint().exact(), body.is_end_stream()), (left, Some(left), left == 0));
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!("it waits") };
            let data = frame.map(|frame| frame.unwrap().into_data().unwrap_or_else(|_| panic!("no data")));
            assert_eq!(data.as_deref(), piece.map(str::as_bytes));
        }
    }
}
