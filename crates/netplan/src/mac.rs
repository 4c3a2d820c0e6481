use std::{fmt, str::FromStr};

/// A 48-bit hardware address. Written in lower case with colons; read in either
/// case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address '{0}'")]
pub struct InvalidMac(pub String);

impl MacAddress {
    /// The address of these octets, unless it is all zeros, which drivers report
    /// for "none".
    pub fn from_octets(octets: [u8; 6]) -> Option<Self> {
        (octets != [0; 6]).then_some(Self(octets))
    }

    /// A locally administered unicast address from random octets.
    pub fn local(mut random: [u8; 6]) -> Self {
        random[0] = (random[0] | 0x02) & !0x01;
        Self(random)
    }

    /// The six octets.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Twelve lower-case digits, as used in kernel and file names.
    pub fn compact(self) -> String {
        self.0.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// Whether the address names one station and not a group.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 0x01 == 0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(invalid)?;
        }
        if pairs.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_case_is_read_and_lower_case_is_written() {
        let mac: MacAddress = "02:AB:cd:00:0a:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:cd:00:0a:01");
        assert_eq!(mac.compact(), "02abcd000a01");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "02:ab:cd:00:0a",
            "02:ab:cd:00:0a:01:",
            "02-ab-cd-00-0a-01",
            "2:ab:cd:00:0a:01",
            "+2:ab:cd:00:0a:01",
            "enp5s0",
            "02:ab:cd:00:0a:0é",
        ] {
            assert_eq!(bad.parse::<MacAddress>(), Err(InvalidMac(bad.to_owned())));
        }
    }

    #[test]
    fn random_address_is_local_and_unicast() {
        let mac = MacAddress::local([0xff; 6]);
        assert!(mac.is_unicast());
        assert_eq!(mac.octets()[0], 0xfe);
    }
}
