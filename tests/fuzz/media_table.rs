//! The partition table of a foreign drive.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let medium = fuzz::medium(bytes).expect("a medium in memory");
    let _ = media::Table::read(&medium);
});
