//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};

use crate::{Gateway, caller::Caller, dispatch};

/// Most that the head of a request may measure.
const HEAD_LIMIT: u16 = 32 << 10;
/// How long a client may take to send a head, and may stay silent between requests.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The same for HTTP/2, whose clients keep one connection for everything.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
/// Requests that one HTTP/2 connection may have under way.
const STREAM_LIMIT: u32 = 64;
/// Bytes per HTTP/2 stream that may be in flight, in either direction.
const STREAM_WINDOW: u32 = 64 << 10;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Answers requests until the client leaves, falls silent, or `retired`
/// resolves; requests under way are always finished.
pub(crate) async fn serve<S>(
    gateway: Arc<Gateway>,
    caller: Caller,
    stream: S,
    protocol: Protocol,
    retired: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(stream);
    let outcome = match protocol {
        Protocol::Http1 => serve_http1(gateway, &caller, stream, retired).await,
        Protocol::Http2 => serve_http2(gateway, &caller, stream, retired).await,
    };
    if let Err(error) = outcome {
        tracing::debug!("connection of {caller} ended: {error}");
    }
}

async fn serve_http1<S>(
    gateway: Arc<Gateway>,
    caller: &Caller,
    stream: TokioIo<S>,
    retired: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (gateway, caller) = (gateway.clone(), caller.clone());
        async move {
            let mut response = dispatch::answer(&gateway, &caller, request).await;
            if is_stranger(&caller, response.status()) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(HEAD_LIMIT.into())
            // A local client may close its sending side and still wait for the answer. Over TLS that
            // is the end, and what was streamed to it can be given up.
            .half_close(matches!(caller, Caller::Local { .. }))
            .serve_connection(stream, service)
    );
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = retired => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<S>(
    gateway: Arc<Gateway>,
    caller: &Caller,
    stream: TokioIo<S>,
    retired: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (gateway, caller) = (gateway.clone(), caller.clone());
        let busy = Busy::on(&activity);
        async move {
            let response = dispatch::answer(&gateway, &caller, request).await;
            Ok::<_, Infallible>(response.map(|body| body.holding(busy)))
        }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAM_LIMIT)
            .max_header_list_size(HEAD_LIMIT.into())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .max_send_buf_size(STREAM_WINDOW as usize)
            // Notices clients that vanished while an answer is being streamed.
            .keep_alive_interval(IDLE_PATIENCE / 2)
            .keep_alive_timeout(HEAD_PATIENCE)
            .serve_connection(stream, service)
    );
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = retired => {}
        () = activity.ceased() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        // A client that does not take part in the closing is left.
        () = activity.ceased() => Ok(()),
    }
}

/// Whether the client was just told that it may not manage this machine.
fn is_stranger(caller: &Caller, status: StatusCode) -> bool {
    matches!(caller, Caller::Remote { .. }) && status == StatusCode::FORBIDDEN
}

/// How many requests of a connection are under way.
#[derive(Debug, Default)]
struct Activity {
    requests: AtomicUsize,
    changed: Notify,
}

impl Activity {
    /// Resolves when there was no request for a while: a shorter one before the
    /// first, since a client that says nothing at all has no business here.
    async fn ceased(&self) {
        let mut patience = HEAD_PATIENCE;
        loop {
            let changed = self.changed.notified();
            if self.requests.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if timeout(patience, changed).await.is_err() {
                return;
            }
            patience = IDLE_PATIENCE;
        }
    }
}

/// Counts as a request under way until dropped.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Busy {
    fn on(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        activity.changed.notify_one();
        Self(activity.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ceases_and_a_busy_one_does_not() {
        let activity = Arc::new(Activity::default());
        let silent = tokio::time::Instant::now();
        activity.ceased().await;
        assert_eq!(silent.elapsed().as_secs(), HEAD_PATIENCE.as_secs());

        let busy = Busy::on(&activity);
        assert!(timeout(Duration::from_secs(86_400), activity.ceased()).await.is_err());
        drop(busy);
        activity.ceased().await;
    }
}
