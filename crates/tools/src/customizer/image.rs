//! An image with a seed in it, while it goes by.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

/// Bytes that are moved at once.
const PIECE: usize = 128 << 10;

/// Copies the stored image at `path`, which is compressed, to `out`, compressed too, with `archive`
/// at the start of its seed partition.
pub(crate) fn splice<W: Write>(path: &Path, archive: &[u8], out: W) -> io::Result<W> {
    let stored = BufReader::with_capacity(PIECE, File::open(path)?);
    let mut image = MultiGzDecoder::new(stored);
    // Most of an image is compressed data already or nothing at all; more effort gains nothing.
    let mut out = GzEncoder::new(out, Compression::fast());
    let mut buffer = vec![0; PIECE];
    exactly(&mut image, &mut out, media::SEED_OFFSET, &mut buffer)?;
    out.write_all(archive)?;
    exactly(&mut image, &mut io::sink(), archive.len() as u64, &mut buffer)?;
    while let count @ 1.. = image.read(&mut buffer)? {
        out.write_all(&buffer[..count])?;
    }
    let mut out = out.finish()?;
    out.flush()?;
    Ok(out)
}

fn exactly(from: &mut impl Read, to: &mut impl Write, mut length: u64, buffer: &mut [u8]) -> io::Result<()> {
    while length > 0 {
        let step = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let count = from.read(&mut buffer[..step])?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the stored image ends before its seed partition",
            ));
        }
        to.write_all(&buffer[..count])?;
        length -= count as u64;
    }
    Ok(())
}
