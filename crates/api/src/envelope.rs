use serde::Serialize;

/// The object that surrounds every JSON answer. Clients index all eight keys
/// unconditionally, so all are always written, in this order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Envelope<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    status_code: u16,
    operation: &'static str,
    error_code: u16,
    error: String,
    metadata: T,
}

/// Written as `{}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoPayload {}

impl<T: Serialize> Envelope<T> {
    /// An answer with a payload.
    pub fn success(metadata: T) -> Self {
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
}

impl Envelope<NoPayload> {
    /// An answer without a payload: `metadata` is `{}`.
    pub fn empty() -> Self {
        Self::success(NoPayload {})
    }
}

impl Envelope<()> {
    /// A refusal. `code` is also the HTTP status.
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        Self {
            kind: "error",
            status: "",
            status_code: 0,
            operation: "",
            error_code: code,
            error: message.into(),
            metadata: (),
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
