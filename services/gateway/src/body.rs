//! Reading request bodies: bounded, patient between chunks, never by content type.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::failure::Failure;

/// Most that a JSON body may measure.
pub(crate) const JSON_LIMIT: usize = 1 << 20;

/// How long a client may fall silent within a body. There is no limit on the
/// whole: large uploads over slow links are legal.
const CHUNK_PATIENCE: Duration = Duration::from_secs(60);

/// What is still taken off a client after it was refused, so that it gets to
/// read the refusal instead of a reset connection.
const LINGER_LIMIT: usize = 16 << 20;
const LINGER_PATIENCE: Duration = Duration::from_secs(5);

/// Whether an endpoint has a body, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyMode {
    /// It is not read.
    Ignored,
    /// JSON; an empty body is an error.
    Required,
    /// JSON; an empty body is `{}`.
    Optional,
    /// Bytes for the owner.
    Raw,
}

/// Reads a JSON body whole.
pub(crate) async fn read_json(body: &mut Incoming, mode: BodyMode) -> Result<Value, Failure> {
    let bytes = read(body, JSON_LIMIT).await?;
    if bytes.is_empty() && mode == BodyMode::Optional {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    first_value(&bytes)
}

/// Discards the rest of a body that nobody wants, within limits.
pub(crate) async fn discard(mut body: Incoming) {
    let rest = async {
        let mut left = LINGER_LIMIT;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Over time, the connection is closed with the rest unread.
    let _ = timeout(LINGER_PATIENCE, rest).await;
}

async fn read(body: &mut Incoming, limit: usize) -> Result<Bytes, Failure> {
    // Known in advance to be too large: say so before a client that waits for `100 Continue` sends it.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let mut whole = BytesMut::new();
    loop {
        let frame = timeout(CHUNK_PATIENCE, body.frame()).await.map_err(|_| stalled())?;
        match frame {
            None => return Ok(whole.freeze()),
            Some(Err(error)) => return Err(Failure::bad_request(format!("the request body ended early: {error}"))),
            Some(Ok(frame)) => {
                let Some(chunk) = frame.data_ref() else { continue };
                if whole.len() + chunk.len() > limit {
                    return Err(too_large(limit));
                }
                whole.extend_from_slice(chunk);
            }
        }
    }
}

fn too_large(limit: usize) -> Failure {
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("request body too large, at most {limit} bytes are accepted"))
}

fn stalled() -> Failure {
    Failure::new(StatusCode::REQUEST_TIMEOUT, format!("no data for {} seconds", CHUNK_PATIENCE.as_secs()))
}

/// The first JSON value of a body, which must be an object or `null`; what
/// follows it is ignored. A repeated key has its last value.
fn first_value(bytes: &[u8]) -> Result<Value, Failure> {
    match serde_json::Deserializer::from_slice(bytes).into_iter().next() {
        Some(Ok(value @ Value::Object(_))) => Ok(value),
        Some(Ok(Value::Null)) => Ok(Value::Object(serde_json::Map::new())),
        Some(Ok(_)) => Err(Failure::bad_request("the request body is not a JSON object")),
        Some(Err(error)) => Err(malformed(&error)),
        None => Err(Failure::bad_request("the request body is empty")),
    }
}

/// Reads a message of the schema from a whole body.
pub(crate) fn message<T: DeserializeOwned>(body: Value) -> Result<T, Failure> {
    serde_json::from_value(body).map_err(|error| malformed(&error))
}

/// Reads the `config` of a document that a client puts back. Clients send what
/// they got, so there is a `state` too: it is not looked at.
pub(crate) fn config<T: DeserializeOwned + Default>(mut body: Value) -> Result<T, Failure> {
    match body.get_mut("config").map(Value::take) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(config @ Value::Object(_)) => message(config),
        Some(_) => Err(Failure::bad_request("`config` is not a JSON object")),
    }
}

fn malformed(error: &serde_json::Error) -> Failure {
    Failure::bad_request(format!("malformed request body: {error}"))
}

#[cfg(test)]
mod tests {
    use api::v1::FallbackListenerConfig;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_first_value_is_read() {
        for body in [r#"{"a":1}"#, r#"{"a":1} trailing"#, r#"{"a":1}{"a":2}"#, "  \n{\"a\":1}\n\n", r#"{"a":2,"a":1}"#]
        {
            assert_eq!(first_value(body.as_bytes()), Ok(json!({ "a": 1 })), "{body}");
        }
        assert_eq!(first_value(b"null"), Ok(json!({})));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for body in ["", " ", "[]", "1", "\"x\"", "true", "{", "{\"a\":}", "{a:1}", "name=value", "\u{feff}{}", &deep] {
            let refused = first_value(body.as_bytes()).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body:.20}");
        }
    }

    #[test]
    fn a_put_takes_the_config_and_nothing_else() {
        let body = json!({ "config": { "persistent": true }, "state": "not even an object" });
        assert!(config::<FallbackListenerConfig>(body).unwrap().persistent);
        for body in [json!({}), json!({ "config": null }), json!({ "config": {} }), json!({ "state": {} })] {
            assert_eq!(config::<FallbackListenerConfig>(body), Ok(FallbackListenerConfig::default()));
        }
        for body in [json!({ "config": [] }), json!({ "config": "x" }), json!({ "config": { "persistent": "yes" } })] {
            assert_eq!(config::<FallbackListenerConfig>(body).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
    }
}
