//! Reading the journal: a program writes, the client reads, and nothing in
//! between keeps more than a few chunks.

mod filter;

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use runner::{Call, Streaming, Tool};
use tokio::{
    io::AsyncReadExt,
    sync::{OwnedSemaphorePermit, mpsc},
};

pub(crate) use filter::Filter;

use crate::{
    Gateway,
    answer::{self, Chunks},
    failure::Failure,
};

/// Media type of the journal's own export format, JOURNAL_EXPORT_FORMATS.
pub(crate) const EXPORT: &str = "application/vnd.fdo.journal";

/// Size of one chunk, and how many may wait for a slow client.
const CHUNK: usize = 16 << 10;
const CHUNKS_AHEAD: usize = 2;

/// What the entries are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// An envelope whose metadata is the list of entries.
    JsonList,
    /// Entries as systemd-journal-remote(8) reads them.
    Export,
    /// The same, and new ones as they are written, until the client leaves.
    ExportAndFollow,
}

/// Starts reading. A journal that cannot be read is a failure here; one that
/// breaks off later breaks the answer off.
pub(crate) async fn open(
    gateway: &Arc<Gateway>,
    filter: &Filter,
    format: Format,
    reader: OwnedSemaphorePermit,
) -> Result<Chunks, Failure> {
    let mut running = gateway.runner.stream(&Call::new(Tool::Journalctl, arguments(filter, format))).await?;
    let mut first = BytesMut::new();
    // Who follows wants the answer to begin before there is anything to say.
    if format != Format::ExportAndFollow
        && read_chunk(&mut running, &mut first).await.map_err(|error| broken(&error))? == 0
    {
        running.finish().await?;
        return Ok(nothing(format));
    }
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let stopped = gateway.stopped();
    tokio::spawn(async move {
        let _reader = reader;
        tokio::select! {
            // Also while the journal is quiet: the program must not outlive its reader.
            () = sender.closed() => {}
            // Only a follower has no end of its own.
            () = stopped, if format == Format::ExportAndFollow => {}
            () = copy(running, first, format, &sender) => {}
        }
    });
    Ok(chunks)
}

fn arguments(filter: &Filter, format: Format) -> Vec<String> {
    let output = if format == Format::JsonList { "--output=json" } else { "--output=export" };
    let mut arguments = vec!["--no-pager".to_owned(), "--quiet".to_owned(), output.to_owned()];
    arguments.extend(filter.arguments());
    if format == Format::ExportAndFollow {
        arguments.push("--follow".to_owned());
        if !filter.counts() {
            // Otherwise it would begin with the last ten.
            arguments.push("--no-tail".to_owned());
        }
    }
    arguments
}

fn broken(source: &io::Error) -> Failure {
    Failure::new(http::StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the journal: {source}"))
}

/// The answer when no entry matches.
fn nothing(format: Format) -> Chunks {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    if format == Format::JsonList {
        let (before, after) = answer::list_envelope();
        for part in [before, after] {
            sender.try_send(Ok(part)).expect("the channel is new and holds two");
        }
    }
    chunks
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// Sends everything that the program prints. `first` was read already.
async fn copy(running: Streaming, first: BytesMut, format: Format, sender: &Sender) {
    if let Err(error) = try_copy(running, first, format, sender).await {
        // Without a last chunk the client knows that something is missing. If it
        // is gone itself there is nobody to tell.
        let _ = sender.send(Err(error)).await;
    }
}

async fn try_copy(mut running: Streaming, first: BytesMut, format: Format, sender: &Sender) -> io::Result<()> {
    let envelope = (format == Format::JsonList).then(answer::list_envelope);
    let mut lines = Lines::default();
    let mut chunk = first;
    if let Some((before, _)) = &envelope {
        send(sender, before.clone()).await?;
    }
    loop {
        if !chunk.is_empty() {
            if envelope.is_some() {
                lines.separate(&mut chunk);
            }
            send(sender, chunk.split().freeze()).await?;
        }
        if read_chunk(&mut running, &mut chunk).await? == 0 {
            break;
        }
    }
    running.finish().await.map_err(io::Error::other)?;
    match envelope {
        Some((_, after)) => send(sender, after).await,
        None => Ok(()),
    }
}

async fn read_chunk(running: &mut Streaming, chunk: &mut BytesMut) -> io::Result<usize> {
    chunk.reserve(CHUNK);
    running.stdout.read_buf(chunk).await
}

async fn send(sender: &Sender, chunk: Bytes) -> io::Result<()> {
    sender.send(Ok(chunk)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Turns lines of JSON into elements of a list, chunk by chunk. A newline
/// within a value is written as an escape, so every one here ends an element.
#[derive(Debug, Default)]
struct Lines {
    /// An element has ended; whether another follows is not known yet.
    ended: bool,
}

impl Lines {
    fn separate(&mut self, chunk: &mut BytesMut) {
        while chunk.first() == Some(&b'\n') {
            chunk.advance(1);
            self.ended = true;
        }
        if self.ended && !chunk.is_empty() {
            let rest = chunk.split();
            chunk.reserve(rest.len() + 1);
            chunk.extend_from_slice(b",");
            chunk.extend_from_slice(&rest);
            self.ended = false;
        }
        while chunk.last() == Some(&b'\n') {
            chunk.truncate(chunk.len() - 1);
            self.ended = true;
        }
        for byte in chunk.iter_mut().filter(|byte| **byte == b'\n') {
            *byte = b',';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn separated(text: &str, chunk_size: usize) -> String {
        let mut lines = Lines::default();
        let mut list = Vec::new();
        for chunk in text.as_bytes().chunks(chunk_size) {
            let mut chunk = BytesMut::from(chunk);
            lines.separate(&mut chunk);
            list.extend_from_slice(&chunk);
        }
        String::from_utf8(list).unwrap()
    }

    #[test]
    fn lines_become_elements_however_they_are_cut() {
        let text = "{\"a\":\"x\\ny\"}\n{\"b\":2}\n{}\n";
        for size in 1..=text.len() {
            assert_eq!(separated(text, size), "{\"a\":\"x\\ny\"},{\"b\":2},{}", "chunks of {size}");
        }
        assert_eq!(separated("{}", 1), "{}");
        assert_eq!(separated("", 1), "");
    }

    #[test]
    fn a_follower_starts_with_everything_unless_it_counts() {
        let arguments_of = |query| {
            let filter = Filter::from_query(&crate::request::Query::parse(query)).unwrap();
            arguments(&filter, Format::ExportAndFollow).join(" ")
        };
        assert_eq!(arguments_of(""), "--no-pager --quiet --output=export --boot=0 --follow --no-tail");
        assert_eq!(
            arguments_of("entries=5&unit=incus-osd"),
            "--no-pager --quiet --output=export --boot=0 --unit=incus-osd --lines=5 --follow"
        );
    }
}
