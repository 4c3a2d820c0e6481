use std::collections::BTreeSet;

use crate::{MacAddress, names::KernelName};

/// What the kernel must show for one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedLink {
    name: String,
    /// Empty: a card, whatever its driver calls itself.
    kind: &'static str,
    controller: Option<String>,
    address: Option<MacAddress>,
    mtu: Option<u32>,
    vlans: BTreeSet<u16>,
}

impl ExpectedLink {
    pub(crate) fn new(name: &KernelName, kind: &'static str) -> Self {
        let name = name.as_str().to_owned();
        Self { name, kind, controller: None, address: None, mtu: None, vlans: BTreeSet::new() }
    }

    pub(crate) fn controller(self, bridge: &KernelName) -> Self {
        Self { controller: Some(bridge.as_str().to_owned()), ..self }
    }

    pub(crate) fn address(self, address: MacAddress) -> Self {
        Self { address: Some(address), ..self }
    }

    pub(crate) fn mtu(self, mtu: Option<u32>) -> Self {
        Self { mtu, ..self }
    }

    pub(crate) fn vlans(self, vlans: &BTreeSet<u16>) -> Self {
        Self { vlans: vlans.clone(), ..self }
    }
}

/// What the kernel shows for one link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedLink {
    /// Name.
    pub name: String,
    /// Driver's kind (`bridge`, `veth`, …); empty for hardware.
    pub kind: String,
    /// Name of the bridge or bond it belongs to.
    pub controller: Option<String>,
    /// Hardware address.
    pub address: Option<MacAddress>,
    /// MTU in bytes.
    pub mtu: u32,
    /// VLANs that pass this port of a bridge; `None` when they were not read.
    pub vlans: Option<BTreeSet<u16>>,
}

/// Where the kernel differs from what is expected, one sentence for each link.
pub fn unmet(expected: &[ExpectedLink], observed: &[ObservedLink]) -> Vec<String> {
    expected.iter().filter_map(|link| difference(link, observed)).collect()
}

fn difference(expected: &ExpectedLink, observed: &[ObservedLink]) -> Option<String> {
    let name = &expected.name;
    let Some(link) = observed.iter().find(|link| link.name == *name) else {
        return Some(format!("{name} does not exist"));
    };
    if !expected.kind.is_empty() && link.kind != expected.kind {
        return Some(format!("{name} is of kind '{}' instead of '{}'", link.kind, expected.kind));
    }
    if expected.controller.is_some() && link.controller != expected.controller {
        let controller = expected.controller.as_deref().unwrap_or_default();
        return Some(format!("{name} is not part of {controller}"));
    }
    if let Some(address) = expected.address.filter(|address| link.address != Some(*address)) {
        return Some(format!("{name} does not have address {address}"));
    }
    if let Some(mtu) = expected.mtu.filter(|mtu| link.mtu != *mtu) {
        return Some(format!("{name} has MTU {} instead of {mtu}", link.mtu));
    }
    let vlans = link.vlans.as_ref()?;
    let lacking: Vec<_> = expected.vlans.difference(vlans).map(u16::to_string).collect();
    (!lacking.is_empty()).then(|| format!("{name} does not pass VLAN {}", lacking.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> KernelName {
        KernelName::card("02:00:00:00:0a:01".parse().unwrap())
    }

    fn observed() -> ObservedLink {
        ObservedLink {
            name: "_p020000000a01".into(),
            controller: Some("lan0".into()),
            mtu: 9000,
            vlans: Some(BTreeSet::from([1, 20])),
            ..Default::default()
        }
    }

    #[test]
    fn link_as_expected_is_met() {
        let expected = ExpectedLink::new(&card(), "").mtu(Some(9000)).vlans(&BTreeSet::from([20]));
        assert_eq!(unmet(&[expected], &[observed()]), [""; 0]);
    }

    #[test]
    fn each_difference_is_named() {
        let link = || ExpectedLink::new(&card(), "");
        assert_eq!(unmet(&[link()], &[]), ["_p020000000a01 does not exist"]);
        assert_eq!(unmet(&[link().mtu(Some(1500))], &[observed()]), ["_p020000000a01 has MTU 9000 instead of 1500"]);
        assert_eq!(
            unmet(&[link().controller(&card())], &[observed()]),
            ["_p020000000a01 is not part of _p020000000a01"]
        );
        assert_eq!(
            unmet(&[link().vlans(&BTreeSet::from([20, 30, 31]))], &[observed()]),
            ["_p020000000a01 does not pass VLAN 30, 31"]
        );
        assert_eq!(
            unmet(&[ExpectedLink::new(&card(), "bridge")], &[observed()]),
            ["_p020000000a01 is of kind '' instead of 'bridge'"]
        );
    }
}
