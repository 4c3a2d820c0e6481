//! The archive on the seed partition, and whatever is in it.
#![no_main]

/// Where a header has the word that makes it one, and its checksum.
const MAGIC: std::ops::Range<usize> = 257..262;
const CHECKSUM: std::ops::Range<usize> = 148..156;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let medium = fuzz::medium(&with_checksums(bytes)).expect("a medium in memory");
    if let Ok(Some(files)) = seed::read(&medium) {
        let _ = seed::check(&files);
        // What was read can be written, and read again as the same.
        let again = fuzz::medium(&seed::write(&files)).expect("a medium in memory");
        assert_eq!(seed::read(&again).expect("our own archive").unwrap_or_default(), files);
    }
});

/// A changed header gets the checksum that fits it: behind the checksum is more to be tried.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    for header in archive.chunks_exact_mut(512).filter(|block| &block[MAGIC] == b"ustar") {
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}
