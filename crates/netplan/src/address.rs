use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// An IP address with a prefix length: of a network, or of a host within its
/// network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
}

impl Network {
    /// Whether this is every address of its family.
    pub fn is_default(self) -> bool {
        self.prefix == 0
    }
}

/// The text is no `address/length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address with a prefix length")]
pub struct InvalidNetwork;

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidNetwork)?;
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits_only = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| digits_only && *prefix <= longest).ok_or(InvalidNetwork)?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// Where a device gets an address from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// DHCP for IPv4.
    Dhcp4,
    /// DHCP for IPv6.
    Dhcp6,
    /// IPv6 router advertisements.
    Slaac,
    /// This one.
    Static(Network),
}

/// Where a route's gateway comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Learnt over DHCP for IPv4.
    Dhcp4,
    /// Learnt from IPv6 router advertisements.
    Slaac,
    /// This one.
    Address(IpAddr),
}

/// A static route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: Network,
    /// Next hop.
    pub via: Gateway,
    /// The next hop is on the link although no address covers it.
    pub onlink: bool,
}

impl Route {
    /// Whether gateway and destination belong to one family.
    pub(crate) fn is_consistent(self) -> bool {
        match self.via {
            Gateway::Dhcp4 => self.to.address.is_ipv4(),
            Gateway::Slaac => self.to.address.is_ipv6(),
            Gateway::Address(gateway) => {
                let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
                gateway.is_ipv4() == self.to.address.is_ipv4() && !unspecified.contains(&gateway)
            }
        }
    }
}

/// A WireGuard key: 32 bytes, written in base64. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// A private key from random bytes, clamped as Curve25519 wants it.
    pub fn private(mut random: [u8; 32]) -> Self {
        random[0] &= 248;
        random[31] = (random[31] & 127) | 64;
        Self(random)
    }

    /// Reads base64; line breaks inside are ignored, as existing clients expect.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The key in base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_strictly() {
        for good in ["192.0.2.5/24", "0.0.0.0/0", "2001:db8::1/64", "::/0"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "bizbaz",
            "192.0.2.5",
            "192.0.2.5/",
            "192.0.2.5/33",
            "192.0.2.5/+8",
            "999.9.9.9/9",
            "::/129",
            "::1/64\n",
            "192.0.2.5/256",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(InvalidNetwork), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_32_bytes_and_stay_hidden() {
        let key = Key::private([0xff; 32]);
        let text = key.to_base64();
        assert_eq!(Key::parse(&text), Some(key.clone()));
        assert_eq!(Key::parse(&format!("{}\n{}", &text[..10], &text[10..])), Some(key.clone()));
        assert!(!format!("{key:?}").contains(&text[..8]));
        for bad in ["", "AAAA", "not base64!"] {
            assert_eq!(Key::parse(bad), None);
        }
    }
}
