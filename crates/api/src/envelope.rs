use serde::Serialize;
use serde_json::Value;

/// The object that surrounds every JSON answer. Clients index all eight keys
/// unconditionally, so all are always written, in this order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope {
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    status_code: u16,
    operation: &'static str,
    error_code: u16,
    error: String,
    metadata: Value,
}

impl Envelope {
    /// An answer with a payload.
    pub fn success(metadata: Value) -> Self {
        Self {
            kind: "sync",
            status: "Success",
            status_code: 200,
            operation: "",
            error_code: 0,
            error: String::new(),
            metadata,
        }
    }

    /// An answer without a payload: `metadata` is `{}`.
    pub fn empty() -> Self {
        Self::success(Value::Object(serde_json::Map::new()))
    }

    /// A refusal. `code` is also the HTTP status.
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        Self {
            kind: "error",
            status: "",
            status_code: 0,
            operation: "",
            error_code: code,
            error: message.into(),
            metadata: Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_their_order_are_the_contract() {
        let empty = serde_json::to_string(&Envelope::empty()).unwrap();
        assert_eq!(
            empty,
            r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{}}"#
        );
        let error = serde_json::to_string(&Envelope::error(400, "a primary application is already installed")).unwrap();
        assert_eq!(
            error,
            r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":400,"error":"a primary application is already installed","metadata":null}"#
        );
    }
}
