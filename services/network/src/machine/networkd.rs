//! What networkd says of a link (`/run/systemd/netif/links`), and the kernel's
//! counters (`/proc/net/dev`): plain files, read at each request.

use std::{fs, io::Read as _};

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

/// Traffic of all links: one read costs less than a dump.
#[derive(Debug, Default)]
pub(crate) struct CounterTable(String);

impl CounterTable {
    /// Reads the kernel's table; an unreadable one counts nothing.
    pub(crate) fn read(roots: &Roots) -> Self {
        // Each read of this file makes the kernel start over, so it should be one.
        let mut text = String::with_capacity(4 << 10);
        let path = roots.proc.join("thread-self/net/dev");
        let _ = fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text));
        Self(text)
    }

    /// The traffic of one link; zeros when it is not there.
    pub(crate) fn of(&self, name: &str) -> Counters {
        // Two lines of heading.
        self.0.lines().skip(2).find_map(|line| parse_counters(line, name)).unwrap_or_default()
    }
}

/// `name: bytes packets errs drop fifo frame compressed multicast` of what was
/// received, then `bytes packets errs …` of what was sent.
fn parse_counters(line: &str, name: &str) -> Option<Counters> {
    let numbers = line.trim_start().strip_prefix(name)?.strip_prefix(':')?;
    let mut numbers = numbers.split_ascii_whitespace().map(str::parse);
    let mut next = |skip| numbers.nth(skip)?.ok();
    Some(Counters { rx_bytes: next(0)?, rx_errors: next(1)?, tx_bytes: next(5)?, tx_errors: next(1)? })
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
        let table = CounterTable(text.to_owned());
        let expected = Counters { rx_bytes: u64::MAX, rx_errors: 3, tx_bytes: 5, tx_errors: 7 };
        assert_eq!(table.of("_venp5s0"), expected);
        for other in ["short", "bad", "enp5s0", "face", ""] {
            assert_eq!(table.of(other), Counters::default(), "{other}");
        }
    }
}
