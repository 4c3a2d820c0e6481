use std::{fmt, str::FromStr};

/// Longest file name that FAT and the loader handle.
const NAME_LIMIT: usize = 255;

/// File name of a unified kernel image, `<id>_<version>[+left[-done]].efi`: the
/// form that systemd's boot counting and update tools agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiName {
    /// Which product it is.
    pub id: String,
    /// Which release; letters, digits, `.`, `~`, `^` and `-`.
    pub version: String,
    /// Set while the release has to prove itself.
    pub tries: Option<Tries>,
}

/// Boot counter in a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Boots that may still fail.
    pub left: u32,
    /// Boots that were tried.
    pub done: u32,
}

/// Why a name is no [`UkiName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not named <id>_<version>[+left[-done]].efi", name.escape_default())]
pub struct UkiNameError {
    /// The name.
    pub name: String,
}

impl UkiName {
    /// Whether both name the same release of the same product. The loader may
    /// change the case of a name, and the counter changes with every boot.
    pub fn is_same_release(&self, other: &Self) -> bool {
        self.id.eq_ignore_ascii_case(&other.id) && self.version.eq_ignore_ascii_case(&other.version)
    }
}

impl FromStr for UkiName {
    type Err = UkiNameError;

    fn from_str(name: &str) -> Result<Self, UkiNameError> {
        parse(name).ok_or_else(|| UkiNameError { name: name.chars().take(NAME_LIMIT).collect() })
    }
}

impl fmt::Display for UkiName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}_{}", self.id, self.version)?;
        match self.tries {
            Some(Tries { left, done: 0 }) => write!(out, "+{left}")?,
            Some(Tries { left, done }) => write!(out, "+{left}-{done}")?,
            None => {}
        }
        out.write_str(".efi")
    }
}

fn parse(name: &str) -> Option<UkiName> {
    if name.len() > NAME_LIMIT {
        return None;
    }
    let (stem, suffix) = name.rsplit_once('.')?;
    let (counted, tries) = match stem.split_once('+') {
        Some((counted, counter)) => (counted, Some(parse_tries(counter)?)),
        None => (stem, None),
    };
    let (id, version) = counted.split_once('_')?;
    let id_is_good = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    let version_is_good =
        !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '~' | '^' | '-'));
    (suffix.eq_ignore_ascii_case("efi") && id_is_good && version_is_good).then(|| UkiName {
        id: id.into(),
        version: version.into(),
        tries,
    })
}

fn parse_tries(counter: &str) -> Option<Tries> {
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some(Tries { left: number(left)?, done: number(done)? })
}

/// Digits only: `parse` alone would accept a sign.
fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(id: &str, version: &str, tries: Option<(u32, u32)>) -> UkiName {
        UkiName { id: id.into(), version: version.into(), tries: tries.map(|(left, done)| Tries { left, done }) }
    }

    #[test]
    fn names_with_and_without_counter_are_read() {
        let table = [
            ("IncusOS_202511041601.efi", name("IncusOS", "202511041601", None)),
            ("IncusOS_202511041601+3.efi", name("IncusOS", "202511041601", Some((3, 0)))),
            ("IncusOS_202511041601+2-1.efi", name("IncusOS", "202511041601", Some((2, 1)))),
            ("IncusOS_202511041601+0-3.efi", name("IncusOS", "202511041601", Some((0, 3)))),
            ("incusos_202511041601.EFI", name("incusos", "202511041601", None)),
            ("TestOS_2.efi", name("TestOS", "2", None)),
            ("Test-OS_1.2~rc1.efi", name("Test-OS", "1.2~rc1", None)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<UkiName>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_files_are_no_release() {
        for bad in [
            "",
            ".efi",
            "_.efi",
            "_1.efi",
            "IncusOS_.efi",
            "IncusOS.efi",
            "IncusOS_1",
            "IncusOS_1.efi.bak",
            "IncusOS_1_2.efi",
            "IncusOS_1+.efi",
            "IncusOS_1+3-.efi",
            "IncusOS_1+-1.efi",
            "IncusOS_1++3.efi",
            "IncusOS_1+3+3.efi",
            "IncusOS_1+99999999999.efi",
            "IncusOS_1/../2.efi",
            "../IncusOS_1.efi",
            "Incus OS_1.efi",
            "IncusOS_1\n.efi",
            "IncusOS_\u{e9}.efi",
            &format!("IncusOS_{}.efi", "1".repeat(300)),
        ] {
            assert!(bad.parse::<UkiName>().is_err(), "{bad:?} was read");
        }
    }

    #[test]
    fn counter_and_case_do_not_make_another_release() {
        let plain = name("IncusOS", "202511041601", None);
        assert!(plain.is_same_release(&name("incusos", "202511041601", Some((2, 1)))));
        assert!(!plain.is_same_release(&name("IncusOS", "202511041602", None)));
        assert!(!plain.is_same_release(&name("OtherOS", "202511041601", None)));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,300}") {
            if let Ok(name) = text.parse::<UkiName>() {
                prop_assert_eq!(name.to_string().parse::<UkiName>(), Ok(name));
            }
        }

        #[test]
        fn names_round_trip(id in "[A-Za-z]{1,10}", version in "[0-9]{12}", left in 0u32..9, done in 0u32..9) {
            let name = name(&id, &version, Some((left, done)));
            prop_assert_eq!(name.to_string().parse::<UkiName>(), Ok(name));
        }
    }
}
