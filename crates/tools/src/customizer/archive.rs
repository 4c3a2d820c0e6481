//! The files of an update in one archive, while it goes by.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
};

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};

use super::tree::Stored;

/// Writes a compressed tar archive of `documents` and of the content of `files`.
pub(crate) fn write<W: Write>(documents: &[(&str, Vec<u8>)], files: &[Stored], out: W) -> io::Result<W> {
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    for (name, content) in documents {
        add(&mut archive, name, content.len() as u64, content.as_slice())?;
    }
    for file in files {
        // A header states the length before the content comes, and only the content knows it.
        let length = io::copy(&mut open(file)?, &mut io::sink())?;
        add(&mut archive, &file.name, length, open(file)?)?;
    }
    let mut out = archive.into_inner()?.finish()?;
    out.flush()?;
    Ok(out)
}

/// The content of a file, compressed or not.
fn open(file: &Stored) -> io::Result<Box<dyn Read>> {
    let reader = BufReader::with_capacity(128 << 10, File::open(&file.path)?);
    let is_compressed = file.path.extension().is_some_and(|extension| extension == "gz");
    Ok(if is_compressed { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) })
}

fn add<W: Write>(archive: &mut tar::Builder<W>, name: &str, length: u64, content: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(length);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content)
}
