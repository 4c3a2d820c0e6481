//! The stand-in for a service: gRPC over a Unix socket, with answers by method name.
//!
//! It is not built on the generated server traits, so that it can also break off
//! in the middle, and so that a new method of a service does not concern it.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::UnixListener,
    runtime::Handle,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

type Frames = Result<Frame<Bytes>, Infallible>;

/// What a method does.
#[derive(Clone)]
enum Reply {
    Message(Bytes),
    Failure(Code, String),
    Hang,
    Stream(Arc<Mutex<Broadcast>>),
}

/// A stream of messages; each call gets all of them.
#[derive(Default)]
struct Broadcast {
    sent: Vec<Bytes>,
    readers: Vec<UnboundedSender<Frames>>,
}

#[derive(Default)]
struct State {
    replies: HashMap<String, Reply>,
    calls: Vec<(String, Bytes)>,
    open: usize,
}

pub struct Owner {
    runtime: Handle,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    server: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Owner {
    pub fn start(runtime: Handle, socket: PathBuf) -> Self {
        let owner = Self { runtime, socket, state: Arc::default(), server: Mutex::default() };
        owner.revive();
        owner
    }

    /// Listens again after [`Owner::kill`].
    pub fn revive(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let entered = self.runtime.enter();
        let listener = UnixListener::bind(&self.socket).unwrap();
        drop(entered);
        *self.server.lock().unwrap() = Some(self.runtime.spawn(serve(listener, self.state.clone())));
    }

    /// Ends at once, like a process that is sent SIGKILL: no goodbye, and nobody listens.
    pub fn kill(&self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// The method answers with this message.
    pub fn answers(&self, method: &str, message: &impl prost::Message) {
        self.set(method, Reply::Message(framed(message)));
    }

    /// The method fails.
    pub fn fails(&self, method: &str, code: Code, message: &str) {
        self.set(method, Reply::Failure(code, message.to_owned()));
    }

    /// The method does not answer.
    pub fn hangs(&self, method: &str) {
        self.set(method, Reply::Hang);
    }

    /// The method answers with a stream.
    pub fn streams(&self, method: &str) {
        self.set(method, Reply::Stream(Arc::default()));
    }

    /// Adds a message to the stream of a method.
    pub fn stream(&self, method: &str, message: &impl prost::Message) {
        let Some(Reply::Stream(stream)) = self.state.lock().unwrap().replies.get(method).cloned() else {
            panic!("{method} does not stream");
        };
        let Broadcast { sent, readers } = &mut *stream.lock().unwrap();
        let message = framed(message);
        for reader in readers.iter() {
            let _ = reader.send(Ok(Frame::data(message.clone())));
        }
        sent.push(message);
    }

    /// How often a method was called so far.
    pub fn count(&self, method: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|(called, _)| called == method).count()
    }

    /// What a method was last called with.
    pub fn last<M: prost::Message + Default>(&self, method: &str) -> M {
        let state = self.state.lock().unwrap();
        let (_, sent) = state.calls.iter().rev().find(|(called, _)| called == method).expect("it was called");
        M::decode(&sent[5..]).unwrap()
    }

    /// How many calls are waiting for an answer.
    pub fn open_calls(&self) -> usize {
        self.state.lock().unwrap().open
    }

    fn set(&self, method: &str, reply: Reply) {
        self.state.lock().unwrap().replies.insert(method.to_owned(), reply);
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>) {
    // Dropped with the task, which ends every connection.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(state.clone(), request));
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let reply = {
        let mut state = state.lock().unwrap();
        state.calls.push((method.clone(), sent));
        state.replies.get(&method).cloned()
    };
    let (sender, frames) = mpsc::unbounded_channel();
    match reply.unwrap_or_else(|| Reply::Failure(Code::Unimplemented, format!("{method} has no reply"))) {
        Reply::Message(message) => {
            let _ = sender.send(Ok(Frame::data(message)));
            let _ = sender.send(Ok(trailers(Code::Ok, "")));
        }
        Reply::Failure(code, message) => {
            let _ = sender.send(Ok(trailers(code, &message)));
        }
        Reply::Hang => {
            let _open = Open::new(state);
            std::future::pending().await
        }
        Reply::Stream(stream) => {
            let Broadcast { sent, readers } = &mut *stream.lock().unwrap();
            for message in sent.iter() {
                let _ = sender.send(Ok(Frame::data(message.clone())));
            }
            readers.push(sender);
        }
    }
    Ok(response(frames))
}

/// Counts as an open call until dropped.
struct Open(Arc<Mutex<State>>);

impl Open {
    fn new(state: Arc<Mutex<State>>) -> Self {
        state.lock().unwrap().open += 1;
        Self(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().open -= 1;
    }
}

fn response(frames: UnboundedReceiver<Frames>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(frames))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn trailers(code: Code, message: &str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as i32));
    let message: String = form_urlencoded::byte_serialize(message.as_bytes()).collect();
    trailers.insert("grpc-message", HeaderValue::from_str(&message.replace('+', "%20")).unwrap());
    Frame::trailers(trailers)
}

/// One uncompressed gRPC message.
fn framed(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}
