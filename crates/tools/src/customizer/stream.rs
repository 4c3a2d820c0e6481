//! From a thread that writes to a body that is sent.

use std::io::{self, Write};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

/// Bytes that are handed over at once.
const PIECE: usize = 64 << 10;

/// Pieces that may wait for a slow client.
const WAITING: usize = 2;

/// The writing end. What is written is sent in pieces; the first ones at once, so that the client
/// sees something happen.
#[derive(Debug)]
pub(crate) struct Sink {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
    started: bool,
}

/// A body, and the end that writes to it.
pub(crate) fn body() -> (Body, Sink) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let stream = stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (Body::from_stream(stream), Sink { pieces: sender, piece: Vec::with_capacity(PIECE), started: false })
}

impl Sink {
    /// Breaks the body off, so that the client does not take what it has for the whole.
    pub(crate) fn fail(&self, error: io::Error) {
        // The client may be gone.
        drop(self.pieces.blocking_send(Err(error)));
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left");
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if !self.started || self.piece.len() >= PIECE {
            self.started = true;
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}
