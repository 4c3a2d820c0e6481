//! The file system of a foreign medium.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let medium = fuzz::medium(bytes).expect("a medium in memory");
    if let Ok(Some(volume)) = media::Volume::find(&medium) {
        let _ = volume.label();
        let _ = volume.seed_files();
    }
});
