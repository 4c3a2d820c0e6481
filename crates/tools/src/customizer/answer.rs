//! Answers in the form that every client of the API knows.

use api::Envelope;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A payload in its envelope.
pub(crate) fn success(payload: impl Serialize) -> Response {
    json(StatusCode::OK, &Envelope::success(payload))
}

/// A refusal in its envelope.
pub(crate) fn refusal(status: StatusCode, reason: impl Into<String>) -> Response {
    json(status, &Envelope::error(status.as_u16(), reason))
}

/// What the original answers to methods that an address does not have.
pub(crate) async fn wrong_method() -> Response {
    refusal(StatusCode::NOT_IMPLEMENTED, "Not implemented")
}

fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let text = serde_json::to_string(document).expect("an envelope has text keys and plain values");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        // Addresses of downloads and private keys are for one reader.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text).into_response()
}
