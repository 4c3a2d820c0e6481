//! What the network should look like, as values: the wanted configuration and
//! the network cards of the machine go in, and the files for networkd and udev,
//! the attributes of the cards and the kernel's expected view come out.
//!
//! It opens no socket and reads no file, so all of it is tested with values
//! alone. What it promises:
//!
//! * A [`Desired`] network cannot be wrong: every name, address and key in it
//!   was checked, and none can break out of the line of a file.
//! * [`plan()`] is a function: the same input gives the same bytes.
//! * A card that is not there never spoils the plan of the others.

mod address;
mod defaults;
mod desired;
mod error;
mod mac;
mod names;
mod parse;
mod plan;
mod render;
mod resolve;

mod verify;

pub use address::{AddressSource, Gateway, InvalidNetwork, Key, Network, Route};
pub use defaults::{default_interfaces, fill_defaults};
pub use desired::{
    Bond, BondMode, Bridge, Card, Desired, Dns, Host, Interface, OnlineRule, Peer, Time, Vlan, Wireguard,
};
pub use error::{ConfigError, FieldError, Object};
pub use mac::{InvalidMac, MacAddress};
pub use names::{DeviceName, KernelName};
pub use parse::check;
pub use plan::{CardPlan, Nic, OnlineDevice, Plan, Unsupported, plan};
pub use render::File;
pub use resolve::{ResolveError, generate_keys, prepare};
pub use verify::{ExpectedLink, ObservedLink, unmet};
