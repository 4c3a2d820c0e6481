//! What networkd says of a link (`/run/systemd/netif/links`), and the kernel's
//! counters (`/proc/net/dev`): plain files, read at each request.

use std::{collections::BTreeMap, fs, path::Path};

use super::Roots;

/// networkd's view of one link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LinkState {
    /// Operational state, such as `routable`.
    pub operational: String,
    /// Whether it is `online` by its own rule.
    pub is_online: bool,
}

/// The state of the link with this index, if networkd knows it.
pub(crate) fn link_state(roots: &Roots, index: u32) -> Option<LinkState> {
    let path = roots.run.join("systemd/netif/links").join(index.to_string());
    fs::read_to_string(path).ok().map(|text| parse_link_state(&text))
}

fn parse_link_state(text: &str) -> LinkState {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    LinkState {
        operational: value("OPER_STATE").unwrap_or_default().to_owned(),
        is_online: value("ONLINE_STATE") == Some("online"),
    }
}

/// Traffic of one link since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// Traffic of all links by name: one read costs less than a dump.
pub(crate) fn counters(roots: &Roots) -> BTreeMap<String, Counters> {
    read_counters(&roots.proc.join("thread-self/net/dev"))
}

fn read_counters(path: &Path) -> BTreeMap<String, Counters> {
    fs::read_to_string(path).map(|text| parse_counters(&text)).unwrap_or_default()
}

/// Two lines of heading, then `name: rx bytes packets errs drop fifo frame
/// compressed multicast, tx bytes packets errs …`.
fn parse_counters(text: &str) -> BTreeMap<String, Counters> {
    let parse = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let counters = Counters {
            rx_bytes: *numbers.first()?,
            rx_errors: *numbers.get(2)?,
            tx_bytes: *numbers.get(8)?,
            tx_errors: *numbers.get(10)?,
        };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().skip(2).filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_file_of_networkd() {
        let text = "# This is private data. Do not parse.\nADMIN_STATE=configured\nOPER_STATE=routable\nCARRIER_STATE=carrier\nADDRESS_STATE=routable\nIPV4_ADDRESS_STATE=routable\nIPV6_ADDRESS_STATE=routable\nONLINE_STATE=online\nREQUIRED_FOR_ONLINE=yes\nREQUIRED_OPER_STATE_FOR_ONLINE=degraded:routable\nNETWORK_FILE=/run/systemd/network/20-_venp5s0.network\n";
        assert_eq!(parse_link_state(text), LinkState { operational: "routable".into(), is_online: true });
        assert_eq!(parse_link_state("ADMIN_STATE=unmanaged\nOPER_STATE=off\n").operational, "off");
        assert_eq!(parse_link_state(""), LinkState::default());
    }

    #[test]
    fn counters_of_the_kernel() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:     100       2    0    0    0     0          0         0      200       2    0    0    0     0       0          0\n_venp5s0: 18446744073709551615 2 3 0 0 0 0 0 5 6 7 0 0 0 0 0\nshort: 1 2\nbad: x 2 3 0 0 0 0 0 5 6 7 0 0 0 0 0\n";
        let parsed = parse_counters(text);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed["_venp5s0"], Counters { rx_bytes: u64::MAX, rx_errors: 3, tx_bytes: 5, tx_errors: 7 });
    }
}
