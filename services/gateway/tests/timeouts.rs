//! Clients that fall silent. Time is paused: it jumps ahead whenever nothing else is left to do.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

use std::{path::Path, sync::Arc, time::Duration};

use gateway::{Machine, Setup};
use runner::ScriptedRunner;
use service::Peers;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::Instant,
};

/// A gateway in the runtime of the test.
fn gateway() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup {
        rest: UnixListener::bind(dir.path().join("rest.sock")).unwrap(),
        peers: Peers::in_dir(dir.path()),
        machine: Machine::at(dir.path()),
        runner: Arc::new(ScriptedRunner::new()),
    };
    tokio::spawn(gateway::serve(setup, || {}, std::future::pending()));
    dir
}

async fn connect(dir: &Path) -> UnixStream {
    UnixStream::connect(dir.join("rest.sock")).await.unwrap()
}

/// Reads until the gateway closes, and how long that took.
async fn read_to_end(stream: &mut UnixStream) -> (String, Duration) {
    let start = Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    (String::from_utf8(answer).unwrap(), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_head_must_be_complete_within_ten_seconds() {
    let dir = gateway();
    for sent in ["", "GET", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = connect(dir.path()).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let (answer, waited) = read_to_end(&mut stream).await;
        assert!(!answer.contains("200"), "{answer}");
        assert_eq!(waited.as_secs(), 10, "after {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_not_more_patient_than_one_that_stops() {
    let dir = gateway();
    let mut stream = connect(dir.path()).await;
    let start = Instant::now();
    let mut dripped = 0;
    while stream.write_all(b"G").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        dripped += 1;
        assert!(dripped < 60, "the gateway waits for ever");
    }
    assert!(start.elapsed().as_secs() <= 12);
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_long_but_not_stop() {
    let dir = gateway();
    let mut stream = connect(dir.path()).await;
    stream.write_all(b"PUT /1.0/system/update HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").await.unwrap();
    for _ in 0..20 {
        // Seventeen minutes in all.
        tokio::time::sleep(Duration::from_secs(50)).await;
        stream.write_all(b" ").await.unwrap();
    }
    let (answer, waited) = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"error_code\":408"), "{answer}");
    assert!((60..=70).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_closed() {
    let dir = gateway();
    let mut stream = connect(dir.path()).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (answer, waited) = read_to_end(&mut stream).await;
    assert!(answer.ends_with("[\"/1.0\"]}\n"), "{answer}");
    assert_eq!(waited.as_secs(), 10);
}
