//! Recovery keys as text: how one is made, and which ones an administrator may
//! choose.

use std::io;

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// The sixteen letters that are on the same keys of most keyboard layouts.
const MODHEX: &[u8; 16] = b"cbdefghijklnrtuv";

/// Bytes of randomness in a key.
const ENTROPY: usize = 32;

/// Letters between two dashes.
const GROUP: usize = 8;

/// A new key from the kernel's randomness: 64 letters in groups of eight.
pub(crate) fn generate() -> io::Result<String> {
    let mut bytes = [0; ENTROPY];
    let mut filled = 0;
    while filled < ENTROPY {
        // Waits until the kernel has gathered enough, which it has by now.
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(spell(&bytes))
}

fn spell(bytes: &[u8]) -> String {
    let mut key = String::with_capacity(bytes.len() * 2 + bytes.len() * 2 / GROUP);
    for (position, byte) in bytes.iter().enumerate() {
        if position > 0 && (position * 2).is_multiple_of(GROUP) {
            key.push('-');
        }
        for nibble in [byte >> 4, byte & 0xf] {
            key.push(char::from(MODHEX[usize::from(nibble)]));
        }
    }
    key
}

/// Whether a text has the form of [`generate`], and so its strength.
pub(crate) fn is_generated(key: &str) -> bool {
    let groups: Vec<_> = key.split('-').collect();
    groups.len() == ENTROPY * 2 / GROUP
        && groups.iter().all(|group| group.len() == GROUP && group.bytes().all(|letter| MODHEX.contains(&letter)))
}

/// Why a key is refused. Clients show these texts and compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WeakKey {
    #[error("Password is empty or all whitespace")]
    Blank,
    #[error("Password is too short")]
    Short,
    #[error("Password does not contain enough different/unique characters")]
    Uniform,
    #[error("Password does not contain any special symbols")]
    Plain,
    #[error("Password is too systematic")]
    Systematic,
    #[error("Password is longer than {LONGEST} bytes, which no prompt takes")]
    Long,
}

/// Shortest key, in bytes.
const SHORTEST: usize = 15;

/// Longest key, in bytes: what `cryptsetup(8)` takes of a typed one.
const LONGEST: usize = 512;

/// Fewest characters that differ, in any letter case.
const FEWEST_DIFFERENT: usize = 5;

/// Whether a person may choose this key. The rules are those of the API, in
/// their order; the first one that is broken is told.
pub(crate) fn check(key: &str) -> Result<(), WeakKey> {
    if key.trim().is_empty() {
        return Err(WeakKey::Blank);
    }
    if key.len() < SHORTEST {
        return Err(WeakKey::Short);
    }
    let mut different: Vec<char> = key.chars().flat_map(char::to_lowercase).collect();
    different.sort_unstable();
    different.dedup();
    if different.len() < FEWEST_DIFFERENT {
        return Err(WeakKey::Uniform);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c.is_ascii_whitespace();
    if key.chars().all(is_plain) {
        return Err(WeakKey::Plain);
    }
    let steps =
        key.chars().zip(key.chars().skip(1)).filter(|(one, next)| u32::from(*one).abs_diff(u32::from(*next)) == 1);
    // floor(3 + 0.09 × bytes), without rounding errors.
    if steps.count() > 3 + key.len() * 9 / 100 {
        return Err(WeakKey::Systematic);
    }
    if key.len() > LONGEST {
        return Err(WeakKey::Long);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_has_its_form_and_is_never_the_same() {
        let key = generate().unwrap();
        assert_eq!(key.len(), 71);
        assert!(is_generated(&key));
        assert_eq!(check(&key), Ok(()));
        assert_ne!(key, generate().unwrap());
        let bytes: Vec<u8> = (0..32).map(|n| n * 8).collect();
        assert_eq!(spell(&bytes), "cccjbcbj-dcdjecej-fcfjgcgj-hchjicij-jcjjkckj-lcljncnj-rcrjtctj-ucujvcvj");
    }

    #[test]
    fn only_the_form_of_a_generated_key_counts_as_one() {
        let key = generate().unwrap();
        for other in [&key[1..], &key.replace('-', ""), &key.to_uppercase(), "", &key.replacen('-', "a", 1)] {
            assert!(!is_generated(other), "{other}");
        }
    }

    #[test]
    fn the_rules_of_the_api_decide() {
        let table = [
            ("foo-bar-biz-1234", Ok(())),
            ("fkrjjenn-tbtjbjgh-jtvvchjr-ctienevu-crknfkvi-vjlvblhl-kbneribu-htjtldch", Ok(())),
            ("éééééééé-abcd1", Ok(())),
            ("short-key!", Err(WeakKey::Short)),
            ("", Err(WeakKey::Blank)),
            ("                    ", Err(WeakKey::Blank)),
            ("aaaaaaaaaaaaaaa-", Err(WeakKey::Uniform)),
            ("aAaAbBbBcCcCdDdD", Err(WeakKey::Uniform)),
            ("abcdefghijklmnop-", Err(WeakKey::Systematic)),
            ("foo-bar-biz-12345", Err(WeakKey::Systematic)),
            ("correcthorsebattery", Err(WeakKey::Plain)),
            ("foo_bar_biz_1234", Err(WeakKey::Plain)),
            ("correct horse\tbattery\nstaple", Err(WeakKey::Plain)),
            // The boundaries: fourteen and fifteen bytes, four and five characters.
            ("x7!qm2z9k4w8p3", Err(WeakKey::Short)),
            ("x7!qm2z9k4w8p3n", Ok(())),
            ("ax-ax-ax-ax-ax-", Err(WeakKey::Uniform)),
            ("ax-9ax-9ax-9ax-", Err(WeakKey::Uniform)),
            ("ax-9vax-9vax-9v", Ok(())),
            // Steps downwards count as well: five pairs in seventeen bytes are one too many.
            ("foo-bar-biz-54321", Err(WeakKey::Systematic)),
            // The limit grows with the length: 12 pairs in 100 bytes are allowed, 13 are not.
            (&format!("{}{}", "xa-9".repeat(18), "1234-1234-1234-1234-axaxaxax"), Ok(())),
            (&format!("{}{}", "xa-9".repeat(18), "1234-1234-1234-1234-12xaxaxa"), Err(WeakKey::Systematic)),
            (&"xa-97z3q".repeat(64), Ok(())),
            (&format!("{}!", "xa-97z3q".repeat(64)), Err(WeakKey::Long)),
        ];
        for (key, verdict) in table {
            assert_eq!(check(key), verdict, "{key}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_accepted_or_refused(key in ".{0,200}") {
            let _ = (check(&key), is_generated(&key));
        }
    }
}
