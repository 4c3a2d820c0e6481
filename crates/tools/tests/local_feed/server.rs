//! A web server for static files, as a mirror would run one, that can also break off.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// A server on a port of its own, until the process ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    /// Where to break off the next answer that is long enough.
    cut: Mutex<Option<u64>>,
    /// Requests so far: path, and first byte.
    requests: Mutex<Vec<(String, u64)>>,
}

impl Server {
    pub(crate) fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = State { root: root.to_owned(), cut: Mutex::default(), requests: Mutex::default() };
        let state = Arc::new(state);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, stream) = (shared.clone(), stream.unwrap());
                // A client that leaves is its own affair.
                std::thread::spawn(move || drop(answer(&state, &stream)));
            }
        });
        Self { address, state }
    }

    /// Breaks off the next answer with more bytes than these after them.
    pub(crate) fn cut_after(&self, bytes: u64) {
        *self.state.cut.lock().unwrap() = Some(bytes);
    }

    pub(crate) fn requests(&self) -> Vec<(String, u64)> {
        self.state.requests.lock().unwrap().clone()
    }
}

fn answer(state: &State, mut stream: &TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    let mut start = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    state.requests.lock().unwrap().push((path.clone(), start));
    let Ok(mut file) = File::open(state.root.join(&path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(start))?;
    let length = size - start.min(size);
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n")?;
    if start > 0 {
        write!(stream, "Content-Range: bytes {start}-{}/{size}\r\n", size - 1)?;
    }
    stream.write_all(b"\r\n")?;
    let cut = {
        let mut cut = state.cut.lock().unwrap();
        if cut.is_some_and(|cut| cut < length) { cut.take() } else { None }
    };
    io::copy(&mut file.take(cut.unwrap_or(length)), &mut stream).map(drop)
}
