//! How far a long step is, for who watches.

use std::io::{self, Read};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the terminal; nothing when there is none.
pub(super) fn bar(what: &'static str, size: u64) -> ProgressBar {
    let style = "{msg:12} {wide_bar} {bytes}/{total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is well-formed");
    ProgressBar::new(size).with_style(style).with_message(what)
}

/// A reader that moves a bar.
pub(super) struct Watched<R> {
    inner: R,
    bar: ProgressBar,
}

impl<R> Watched<R> {
    pub(super) fn new(inner: R, bar: ProgressBar) -> Self {
        Self { inner, bar }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}
