//! How many connections one source may hold, so that one cannot take them all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Connections that one source has at most: half of all.
const LIMIT: usize = crate::CONNECTION_LIMIT / 2;

/// Connections per source.
pub(crate) type Sources = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of a source; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    sources: Sources,
    source: IpAddr,
}

impl Share {
    /// One more connection for this address, if it may have one.
    pub(crate) fn of(sources: &Sources, address: IpAddr) -> Option<Self> {
        let source = source(address);
        let mut open = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        if *count >= LIMIT {
            return None;
        }
        *count += 1;
        Some(Self { sources: sources.clone(), source })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// Whose address this is: with IPv6 a single host has a whole /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_share_and_gets_it_back() {
        let sources = Sources::default();
        let shares: Vec<_> = (0..LIMIT).filter_map(|_| Share::of(&sources, [192, 0, 2, 1].into())).collect();
        assert_eq!(shares.len(), LIMIT);
        assert!(Share::of(&sources, [192, 0, 2, 1].into()).is_none());
        // The same address as a dual-stack socket shows it.
        assert!(Share::of(&sources, "::ffff:192.0.2.1".parse().unwrap()).is_none());
        assert!(Share::of(&sources, [192, 0, 2, 2].into()).is_some());
        drop(shares);
        assert!(Share::of(&sources, [192, 0, 2, 1].into()).is_some());
        assert!(sources.lock().unwrap().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
