//! From what an endpoint found out to what goes over the wire.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use api::Envelope;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::failure::Failure;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a request is answered with, when it is not a failure.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A document in its envelope, as it goes over the wire.
    Document(Bytes),
    /// An envelope without a payload.
    Empty,
    /// Bytes of this type, as they come.
    Stream(HeaderValue, Chunks),
}

/// The chunks of a streamed body. An error breaks the connection off, so that
/// the client can tell it from the end.
pub(crate) type Chunks = mpsc::Receiver<io::Result<Bytes>>;

impl Answer {
    /// A message of the schema, or a value, as the document.
    pub(crate) fn document(message: &impl Serialize) -> Self {
        Self::Document(bytes_of(&Envelope::success(message)))
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        match self {
            Self::Document(bytes) => response(StatusCode::OK, JSON, Body::whole(bytes)),
            Self::Empty => whole(StatusCode::OK, &Envelope::empty()),
            Self::Stream(content_type, chunks) => response(StatusCode::OK, content_type, Body::stream(chunks)),
        }
    }
}

impl Failure {
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = whole(self.status, &Envelope::error(self.status.as_u16(), self.message));
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// What comes before and after the elements of a streamed list, so that the
/// whole is the same envelope as any other.
pub(crate) fn list_envelope() -> (Bytes, Bytes) {
    let whole = bytes_of(&Envelope::success([(); 0]));
    let end = b"]}\n".len();
    (whole.slice(..whole.len() - end), whole.slice(whole.len() - end..))
}

pub(crate) fn json_stream(chunks: Chunks) -> Answer {
    Answer::Stream(JSON, chunks)
}

fn whole(status: StatusCode, envelope: &Envelope<impl Serialize>) -> Response<Body> {
    response(status, JSON, Body::whole(bytes_of(envelope)))
}

fn response(status: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn bytes_of(envelope: &Envelope<impl Serialize>) -> Bytes {
    let mut bytes = serde_json::to_vec(envelope).expect("messages have text keys, and nothing else could fail");
    bytes.push(b'\n');
    bytes.into()
}

/// The body of a response.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    /// Something to keep for as long as the body is being sent.
    _until_sent: Option<Box<dyn Held>>,
}

/// Anything that can be kept until a body was sent.
pub(crate) trait Held: std::fmt::Debug + Send + Sync {}

impl<T: std::fmt::Debug + Send + Sync> Held for T {}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Stream(Chunks),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())), _until_sent: None }
    }

    fn stream(chunks: Chunks) -> Self {
        Self { content: Content::Stream(chunks), _until_sent: None }
    }

    /// The same body, which keeps `held` until it was sent or given up.
    pub(crate) fn holding(self, held: impl Held + 'static) -> Self {
        Self { _until_sent: Some(Box::new(held)), ..self }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match &mut self.content {
            Content::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Stream(chunks) => ready!(chunks.poll_recv(cx)).map(|chunk| chunk.map(Frame::data)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_list_is_the_same_envelope() {
        let (before, after) = list_envelope();
        let streamed = [&before[..], b"1,2", &after[..]].concat();
        assert_eq!(streamed, bytes_of(&Envelope::success(serde_json::json!([1, 2]))));
    }

    #[test]
    fn only_errors_forbid_sniffing() {
        let fine = Answer::Empty.into_response();
        assert_eq!(fine.headers()[header::CONTENT_TYPE], "application/json");
        assert!(!fine.headers().contains_key(header::X_CONTENT_TYPE_OPTIONS));
        let failed = Failure::not_found().into_response();
        assert_eq!(failed.status(), StatusCode::NOT_FOUND);
        assert_eq!(failed.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
