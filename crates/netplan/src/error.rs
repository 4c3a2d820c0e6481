use std::fmt;

/// Why a configuration cannot be used. Existing clients compare some of the
/// texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no interface, bond or VLAN.
    #[error("network configuration has no devices defined")]
    NoDevices,
    /// Two devices have one name.
    #[error("duplicate interface/bond/vlan/wireguard name: {0}")]
    DuplicateName(String),
    /// Two devices have one hardware address.
    #[error("duplicate MAC address: {0}")]
    DuplicateMac(String),
    /// One device is wrong.
    #[error("{object} {problem}")]
    Device {
        /// Which one.
        object: Object,
        /// What is wrong.
        problem: FieldError,
    },
    /// Something outside the devices is wrong.
    #[error("{field} '{value}' {problem}")]
    Setting {
        /// Key in the configuration.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A card is named that is not there.
    #[error(transparent)]
    Resolve(#[from] crate::ResolveError),
    /// The default confirmation timeout is no positive duration.
    #[error("invalid default confirmation timeout provided: {0}")]
    Timeout(String),
}

/// A device by its list and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    pub(crate) list: &'static str,
    pub(crate) index: usize,
}

impl fmt::Display for Object {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.list, self.index)
    }
}

/// What is wrong with one field of a device. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is its text")]
pub enum FieldError {
    #[error("has no name")]
    NoName,
    #[error("name cannot begin with an underscore")]
    NameUnderscore,
    #[error("name '{0}' cannot be longer than 13 characters")]
    NameTooLong(String),
    #[error("name '{name}' {problem}")]
    Name { name: String, problem: &'static str },
    #[error("MTU '{0}' out of range")]
    Mtu(i64),
    #[error("invalid mode value '{0}'")]
    Mode(String),
    #[error("has no parent")]
    NoParent,
    #[error("parent '{0}' not found")]
    Parent(String),
    #[error("ID '{0}' out of range")]
    VlanId(i64),
    #[error("VLAN tag '{0}' out of range")]
    VlanTag(i64),
    #[error("unsupported role \"{0}\"")]
    Role(String),
    #[error("role \"{0}\" listed multiple times")]
    RepeatedRole(String),
    #[error("address {index} invalid IP address '{value}', must provide a CIDR mask")]
    Address { index: usize, value: String },
    #[error("route {index} to invalid IP address '{value}', must provide a CIDR mask")]
    RouteTo { index: usize, value: String },
    #[error("route {index} via invalid IP address '{value}'")]
    RouteVia { index: usize, value: String },
    #[error("required_for_online invalid value '{0}'")]
    Online(String),
    #[error("has no MAC address")]
    NoMac,
    #[error("invalid MAC address '{0}'")]
    Mac(String),
    #[error("has no members")]
    NoMembers,
    #[error("firewall rule {index} {problem}")]
    Firewall { index: usize, problem: String },
    #[error("ethernet {key} '{value}' invalid")]
    Ethernet { key: &'static str, value: String },
    #[error("option {key} '{value}' invalid")]
    Option { key: &'static str, value: String },
    #[error("private key invalid")]
    PrivateKey,
    #[error("port '{0}' out of range")]
    Port(i64),
    #[error("peer {index} {problem}")]
    Peer { index: usize, problem: String },
}
