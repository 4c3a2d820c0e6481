use std::fmt;

use crate::{FieldError, MacAddress};

/// Longest name of a configured device: the kernel's 15 bytes minus the
/// two-byte prefix of the devices derived from it.
const LONGEST: usize = 13;

/// Name of a configured device: of its bridge, or of the device itself when it
/// has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks a name. Names that start with `_` belong to the system itself, and
    /// only characters that are safe in a path and in a file's line are taken.
    pub fn new(name: &str) -> Result<Self, FieldError> {
        let bad = |problem: &'static str| FieldError::Name { name: name.to_owned(), problem };
        if name.is_empty() {
            return Err(FieldError::NoName);
        }
        if name.starts_with('_') {
            return Err(FieldError::NameUnderscore);
        }
        if name.len() > LONGEST {
            return Err(FieldError::NameTooLong(name.to_owned()));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(bad("may only hold letters, digits, '.', '_' and '-'"));
        }
        // networkd refuses all-digit names and "all"/"default" (they mean an index and sysctl folders).
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad("cannot be a number"));
        }
        if matches!(name, "." | ".." | "lo" | "all" | "default") {
            return Err(bad("is reserved"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The device of this very name: a bridge, a VLAN or a tunnel.
    pub fn device(&self) -> KernelName {
        KernelName(self.0.clone())
    }

    /// The machine's own end of the pair of virtual cards.
    pub fn host_end(&self) -> KernelName {
        KernelName(format!("_v{}", self.0))
    }

    /// The bond that joins the members.
    pub fn bond(&self) -> KernelName {
        KernelName(format!("_b{}", self.0))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Name of a link in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName(String);

impl KernelName {
    /// A network card, renamed.
    pub fn card(hwaddr: MacAddress) -> Self {
        Self(format!("_p{}", hwaddr.compact()))
    }

    /// The permanent address of a card that was renamed, from its name.
    pub fn hwaddr_of_card(name: &str) -> Option<MacAddress> {
        let digits = name.strip_prefix("_p").filter(|digits| digits.len() == 12 && digits.is_ascii())?;
        let pairs: Vec<_> = (0..6).map(|pair| &digits[2 * pair..2 * pair + 2]).collect();
        pairs.join(":").parse().ok()
    }

    /// The bridge's end of the pair of virtual cards.
    pub fn bridge_end(hwaddr: MacAddress) -> Self {
        Self(format!("_i{}", hwaddr.compact()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_fit_the_kernel() {
        let name = DeviceName::new("abcdefghijklm").unwrap();
        assert_eq!(name.host_end().as_str().len(), 15);
        let hwaddr = "02:00:00:00:0a:01".parse().unwrap();
        assert_eq!(KernelName::card(hwaddr).as_str(), "_p020000000a01");
        assert_eq!(KernelName::hwaddr_of_card("_p020000000a01"), Some(hwaddr));
        for other in ["_i020000000a01", "_p020000000a0", "_p020000000a0g", "_p", "enp5s0"] {
            assert_eq!(KernelName::hwaddr_of_card(other), None);
        }
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        for bad in ["", "_x", "abcdefghijklmn", "a/b", "a b", "a\nb", "..", "lo", "12", "ü"] {
            assert!(DeviceName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["enp5s0", "lan0", "bond0.5", "a-b_c"] {
            assert_eq!(DeviceName::new(good).unwrap().as_str(), good);
        }
    }
}
