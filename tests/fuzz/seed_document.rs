//! One file of a seed: the first byte says which section in which syntax.
#![no_main]

use seed::{File, Section};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, content)) = bytes.split_first() else { return };
    let choice = usize::from(choice);
    let section = Section::ALL[choice % Section::ALL.len()];
    let extension = ["json", "yaml"][choice / Section::ALL.len() % 2];
    let name = format!("{}.{extension}", section.name());
    let _ = seed::check(&[File { name, content: content.to_vec() }]);
});
