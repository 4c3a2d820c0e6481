//! The record of who changed the machine or read its secrets.
//!
//! One line per event in the journal of the gateway's own unit, with the field
//! `TARGET=audit`. It names operation, caller and result; never a value.

use http::StatusCode;

use crate::{answer::Answer, caller::Caller, failure::Failure, route::Route};

/// `TARGET=` of the lines in the journal.
const TARGET: &str = "audit";

pub(crate) fn record(route: &Route, caller: &Caller, outcome: &Result<Answer, Failure>) {
    let status = outcome.as_ref().map_or_else(|failure| failure.status, |_| StatusCode::OK).as_u16();
    let listener = caller.listener();
    // `%route` is the pattern: names and queries of a request are the client's text.
    tracing::info!(target: TARGET, operation = %route, listener, caller = %caller, status, "{route} by {caller}: {status}");
}
