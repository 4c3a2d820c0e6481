//! Why a request gets an error envelope instead of an answer.

use http::StatusCode;
use runner::RunError;
use service::Identity;
use tonic::{Code, Status};

/// A refusal or a failure, in the words that the client reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Unknown path, application or service. Clients compare the text.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found")
    }

    /// A method that the path does not have. Clients compare the text.
    pub(crate) fn not_implemented() -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not implemented")
    }

    /// An internal endpoint asked for through a proxy. Clients compare the text.
    pub(crate) fn not_authorized() -> Self {
        Self::new(StatusCode::FORBIDDEN, "not authorized")
    }

    /// A failed call of `owner`.
    pub(crate) fn of_call(owner: Identity, status: &Status) -> Self {
        // Only a failure of the connection has a source; what the owner itself answered has none.
        let broken = std::error::Error::source(status).is_some();
        if broken || matches!(status.code(), Code::Cancelled) {
            let unavailable = Status::unavailable("");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, service::call_error(owner, &unavailable));
        }
        let message = match status.message() {
            "" => service::call_error(owner, status),
            said => said.to_owned(),
        };
        Self::new(http_status(status.code()), message)
    }

    /// A call of `owner` that took longer than it may.
    pub(crate) fn of_deadline(owner: Identity) -> Self {
        let status = Status::deadline_exceeded("");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, service::call_error(owner, &status))
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let mut message = error.to_string();
        if let Some(cause) = std::error::Error::source(&error) {
            message = format!("{message}: {cause}");
        }
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
}

/// The table of the API: gRPC code to HTTP status.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied | Code::Unauthenticated => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        // Bodies that are too large never get as far as an owner, so this is load.
        Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_words_reach_the_client_unchanged() {
        let failure = Failure::of_call(Identity::Update, &Status::internal("deregistration unsupported"));
        assert_eq!(failure, Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "deregistration unsupported"));
        let failure = Failure::of_call(Identity::Storage, &Status::already_exists("scrub already in progress"));
        assert_eq!(failure, Failure::new(StatusCode::CONFLICT, "scrub already in progress"));
    }

    #[test]
    fn every_grpc_code_has_the_status_of_the_table() {
        let expected = [
            (Code::Cancelled, 503),
            (Code::Unknown, 500),
            (Code::InvalidArgument, 400),
            (Code::DeadlineExceeded, 503),
            (Code::NotFound, 404),
            (Code::AlreadyExists, 409),
            (Code::PermissionDenied, 403),
            (Code::ResourceExhausted, 503),
            (Code::FailedPrecondition, 400),
            (Code::Aborted, 409),
            (Code::OutOfRange, 400),
            (Code::Unimplemented, 501),
            (Code::Internal, 500),
            (Code::Unavailable, 503),
            (Code::DataLoss, 500),
            (Code::Unauthenticated, 403),
        ];
        for (code, status) in expected {
            assert_eq!(http_status(code).as_u16(), status, "{code:?}");
        }
    }
}
