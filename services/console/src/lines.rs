//! Lines of a program's output, of a limited length.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Longest line that is kept; the rest of a longer one is passed over.
const LIMIT: usize = 16 << 10;

/// Reads line by line.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input: BufReader::new(input), line: Vec::new() }
    }

    /// The next line, without its end; `None` after the last one.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let mut is_begun = false;
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(is_begun.then_some(self.line.as_slice()));
            }
            is_begun = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            self.line.extend_from_slice(&part[..part.len().min(LIMIT - self.line.len())]);
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_told_apart_and_cut() {
        let long = "x".repeat(3 * LIMIT);
        let text = format!("one\n\n{long}\nlast");
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.next().await.unwrap(), Some(&b"one"[..]));
        assert_eq!(lines.next().await.unwrap(), Some(&b""[..]));
        assert_eq!(lines.next().await.unwrap().map(<[u8]>::len), Some(LIMIT));
        assert_eq!(lines.next().await.unwrap(), Some(&b"last"[..]));
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
