use std::str::FromStr;

/// A number of bytes, written like `50GiB` or `1000000`: the grammar of disk
/// and memory sizes that existing seeds and clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ByteSizeError {
    /// It does not start with a whole number.
    #[error("invalid size {0:?}: a whole number is expected first")]
    NoNumber(String),
    /// What follows the number is no unit.
    #[error("invalid size {text:?}: {unit:?} is none of B, kB, MB, GB, TB, PB, EB, KiB, MiB, GiB, TiB, PiB, EiB")]
    UnknownUnit {
        /// What stands where a unit should.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// It is more than 2^64 - 1 bytes.
    #[error("invalid size {0:?}: it is too large")]
    TooLarge(String),
}

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(ByteSizeError::NoNumber(text.to_owned()));
        }
        let factor =
            factor(unit).ok_or_else(|| ByteSizeError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
        let number: Option<u64> = number.parse().ok();
        let bytes = number.and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| ByteSizeError::TooLarge(text.to_owned()))
    }
}

fn factor(unit: &str) -> Option<u64> {
    if ["", "B", " bytes"].contains(&unit) {
        return Some(1);
    }
    let decimal = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let binary = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = |units: &[&str]| units.iter().position(|known| *known == unit);
    let exponent = |position: usize| u32::try_from(position + 1).expect("there are six units");
    match (power(&decimal), power(&binary)) {
        (Some(position), _) => Some(1000_u64.pow(exponent(position))),
        (_, Some(position)) => Some(1024_u64.pow(exponent(position))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("55", 55),
            ("1B", 1),
            ("12 bytes", 12),
            ("1kB", 1000),
            ("1KiB", 1024),
            ("50GiB", 50 << 30),
            ("2TB", 2_000_000_000_000),
            ("15EiB", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "foobar", "-1", "+1", " 1", "GiB", ".5GiB"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::NoNumber(_))), "{text:?}");
        }
        for text in ["1K", "1M", "1gb", "1 GiB", "1.5GiB", "1GiB ", "1bytes", "1kib"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::UnknownUnit { .. })), "{text:?}");
        }
        for text in ["16EiB", "18446744073709551616", "99999999999999999999999"] {
            assert!(matches!(text.parse::<ByteSize>(), Err(ByteSizeError::TooLarge(_))), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
