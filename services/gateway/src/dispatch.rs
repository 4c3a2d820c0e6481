//! The way of every request: identify, admit, route, read, answer, record.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;
use service::Identity;
use tokio::time::timeout;

use crate::{
    Gateway,
    answer::{Answer, Body},
    audit,
    body::{self, BodyMode},
    caller::Caller,
    failure::Failure,
    request::{Head, Query},
    root::Root,
    route::{self, Destination, Route},
};

/// How long the owner of a document may take to show it.
const READ_DEADLINE: Duration = Duration::from_secs(20);
/// How long the owner may take to carry out a change before the client is told
/// so. The work itself goes on: it belongs to the owner.
const CHANGE_DEADLINE: Duration = Duration::from_secs(300);

/// One request that found its endpoint.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) route: &'static Route,
    pub(crate) root: Root,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The JSON object that was sent, if the endpoint reads one.
    pub(crate) body: Value,
}

impl Call {
    /// Awaits a call of the endpoint's owner.
    pub(crate) async fn owner<T>(
        &self,
        reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Failure> {
        let deadline = if self.route.mutates() { CHANGE_DEADLINE } else { READ_DEADLINE };
        ask(self.route.owner, deadline, reply).await
    }

    /// Whether the client would take an answer of this type.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        let ranges = self.headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        ranges
            .flat_map(|list| list.split(','))
            .any(|range| range.split(';').next().is_some_and(|offered| offered.trim().eq_ignore_ascii_case(media_type)))
    }
}

/// Awaits a call of another service for at most `deadline`.
pub(crate) async fn ask<T>(
    owner: Identity,
    deadline: Duration,
    reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Failure> {
    match timeout(deadline, reply).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(%owner, %status, "a call failed");
            Err(Failure::of_call(owner, &status))
        }
        Err(_) => Err(Failure::of_deadline(owner)),
    }
}

/// Answers one request.
pub(crate) async fn answer(gateway: &Arc<Gateway>, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let expects_continue = parts.headers.contains_key(header::EXPECT);
    let mut body_read = false;
    let outcome = handle(gateway, caller, parts, &mut body, &mut body_read).await;
    let refused = outcome.is_err();
    let response = outcome.map_or_else(Failure::into_response, Answer::into_response);
    // Asking for more of a body that waits for `100 Continue` would invite it.
    if refused && (body_read || !expects_continue) && !http_body::Body::is_end_stream(&body) {
        tokio::spawn(body::discard(body));
    }
    if is_head { response.map(|_| Body::empty()) } else { response }
}

async fn handle(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    parts: http::request::Parts,
    body: &mut Incoming,
    body_read: &mut bool,
) -> Result<Answer, Failure> {
    admit(gateway, caller)?;
    let Head { segments, query, root, proxied } = Head::new(&parts, caller);
    let route = match route::find(&parts.method, &segments) {
        Destination::Route(route) | Destination::OtherMethod(route) if route.is_internal() && proxied => {
            return Err(refused(caller, route));
        }
        Destination::Route(route) => route,
        Destination::NoSuchService => return Err(Failure::not_found()),
        Destination::Nowhere if parts.method == Method::GET => return Err(Failure::not_found()),
        Destination::OtherMethod(_) | Destination::Nowhere => return Err(Failure::not_implemented()),
    };
    let Some(handler) = route.handler else {
        return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, format!("`{route}` is not available in this version")));
    };
    let body = match route.body {
        BodyMode::Required | BodyMode::Optional => {
            *body_read = true;
            let read = body::read_json(body, route.body).await;
            if let (Err(failure), true) = (&read, route.mutates()) {
                audit::record(route, caller, &Err(failure.clone()));
            }
            read?
        }
        BodyMode::Ignored | BodyMode::Raw => Value::Null,
    };
    let call = Call { gateway: gateway.clone(), route, root, query, headers: parts.headers, body };
    if !route.mutates() {
        let outcome = handler(call).await;
        if route.secret {
            audit::record(route, caller, &outcome);
        }
        return outcome;
    }
    // A client that goes away must not leave a change half done.
    let caller = caller.clone();
    let change = tokio::spawn(async move {
        let outcome = handler(call).await;
        audit::record(route, &caller, &outcome);
        outcome
    });
    change.await.unwrap_or_else(|error| {
        tracing::error!("`{route}` broke off: {error}");
        Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the operation broke off"))
    })
}

/// Whether the caller may manage this machine at all.
fn admit(gateway: &Gateway, caller: &Caller) -> Result<(), Failure> {
    let Caller::Remote { certificate, .. } = caller else {
        return Ok(());
    };
    let clock = gateway.machine.clock();
    let admitted = gateway.https.borrow().trust.admits(certificate.as_deref(), clock);
    admitted.map_err(|refusal| {
        tracing::debug!("request refused: {refusal}: {caller}");
        Failure::new(StatusCode::FORBIDDEN, "Forbidden")
    })
}

fn refused(caller: &Caller, route: &Route) -> Failure {
    let failure = Failure::not_authorized();
    audit::record(route, caller, &Err(failure.clone()));
    failure
}
