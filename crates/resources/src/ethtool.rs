//! Link modes and firmware versions of network interfaces: `SIOCETHTOOL`, which
//! needs no privilege and no Internet socket for reading. sysfs does not have
//! them, and the netlink form of the interface would bring an asynchronous
//! client for two questions.
#![expect(unsafe_code, reason = "an ioctl with a pointer inside its argument")]

use std::{ffi::c_void, io};

use rustix::{
    ioctl::{self, Ioctl, IoctlOutput, Opcode},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

/// What the interface's port can do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) supported_modes: Vec<String>,
    pub(crate) supported_ports: Vec<String>,
    pub(crate) port_type: &'static str,
    pub(crate) transceiver_type: &'static str,
    pub(crate) auto_negotiation: bool,
}

/// Asks the kernel for the link settings of an interface of this namespace.
pub(crate) fn link(interface: &str) -> Option<Link> {
    // The first answer says how many words the masks have.
    let mut words = ask(interface, &[GLINKSETTINGS]).ok()?;
    let masks = i8::from_ne_bytes([byte(&words, MASK_WORDS)]).checked_neg().filter(|count| *count > 0)?;
    let mut question = [0; 4];
    question[0] = GLINKSETTINGS;
    question[MASK_WORDS / 4] = u32::from_ne_bytes(at_byte(MASK_WORDS % 4, masks.to_ne_bytes()[0]));
    words = ask(interface, &question).ok()?;
    Some(Link::parse(&words))
}

/// Asks the kernel for the firmware version of an interface of this namespace.
pub(crate) fn firmware_version(interface: &str) -> Option<String> {
    let words = ask(interface, &[GDRVINFO]).ok()?;
    let text: Vec<_> = (68..100).map(|at| byte(&words, at)).take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8(text).ok()?;
    (!text.is_empty() && text != "N/A").then(|| text.trim().to_owned())
}

// linux/ethtool.h
const GDRVINFO: u32 = 0x03;
const GLINKSETTINGS: u32 = 0x4c;
const PORT: usize = 9;
const AUTONEG: usize = 11;
const MASK_WORDS: usize = 15;
const TRANSCEIVER: usize = 16;
/// Word at which the mask of supported modes starts.
const SUPPORTED: usize = 12;

impl Link {
    fn parse(words: &Words) -> Self {
        let count = usize::from(byte(words, MASK_WORDS)).min(words.len() - SUPPORTED);
        let supported = |bit: usize| bit / 32 < count && words[SUPPORTED + bit / 32] & (1 << (bit % 32)) != 0;
        let named = |names: &[(usize, &str)]| {
            names.iter().filter(|(bit, _)| supported(*bit)).map(|(_, name)| (*name).to_owned()).collect()
        };
        Self {
            supported_modes: named(&MODES),
            supported_ports: named(&PORTS),
            port_type: match byte(words, PORT) {
                0x00 => "twisted pair",
                0x01 => "AUI",
                0x02 => "MII",
                0x03 => "fibre",
                0x04 => "BNC",
                0x05 => "direct attach",
                0xef => "none",
                _ => "other",
            },
            transceiver_type: match byte(words, TRANSCEIVER) {
                0 => "internal",
                1 => "external",
                _ => "",
            },
            auto_negotiation: byte(words, AUTONEG) == 1,
        }
    }
}

/// Room for the largest answer: the fixed part and three masks of 127 words.
type Words = [u32; SUPPORTED + 3 * 127];

fn byte(words: &Words, at: usize) -> u8 {
    words[at / 4].to_ne_bytes()[at % 4]
}

fn at_byte(at: usize, value: u8) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[at] = value;
    bytes
}

fn ask(interface: &str, question: &[u32]) -> io::Result<Words> {
    /// `IFNAMSIZ`, with the final NUL.
    const NAME: usize = 16;
    let mut name = [0; NAME];
    let bytes = interface.as_bytes();
    if bytes.len() >= NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    name[..bytes.len()].copy_from_slice(bytes);
    let mut words: Words = [0; _];
    words[..question.len()].copy_from_slice(question);
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let request = Request { name, data: (&raw mut words).cast(), rest: [0; 16] };
    // SAFETY: `data` points to `words`, which outlives the call. The kernel reads
    // and writes the structure of the command in its first word: at most the
    // driver information (196 bytes), or the link settings with as many mask
    // words as the question allows (an i8). `Words` has room for either.
    unsafe { ioctl::ioctl(&socket, request) }?;
    Ok(words)
}

/// `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; 16],
    data: *mut c_void,
    rest: [u8; 16],
}

// SAFETY: `SIOCETHTOOL` takes a pointer to `struct ifreq`, which `Request` has
// the layout and at least the size of; it returns nothing but its status.
unsafe impl Ioctl for Request {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        0x8946
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

const PORTS: [(usize, &str); 6] =
    [(7, "twisted pair"), (8, "AUI"), (9, "MII"), (10, "fibre"), (11, "BNC"), (16, "backplane")];

/// Bits of `enum ethtool_link_mode_bit_indices` that are modes.
const MODES: [(usize, &str); 88] = [
    (0, "10baseT/Half"),
    (1, "10baseT/Full"),
    (2, "100baseT/Half"),
    (3, "100baseT/Full"),
    (4, "1000baseT/Half"),
    (5, "1000baseT/Full"),
    (12, "10000baseT/Full"),
    (15, "2500baseX/Full"),
    (17, "1000baseKX/Full"),
    (18, "10000baseKX4/Full"),
    (19, "10000baseKR/Full"),
    (21, "20000baseMLD2/Full"),
    (22, "20000baseKR2/Full"),
    (23, "40000baseKR4/Full"),
    (24, "40000baseCR4/Full"),
    (25, "40000baseSR4/Full"),
    (26, "40000baseLR4/Full"),
    (27, "56000baseKR4/Full"),
    (28, "56000baseCR4/Full"),
    (29, "56000baseSR4/Full"),
    (30, "56000baseLR4/Full"),
    (31, "25000baseCR/Full"),
    (32, "25000baseKR/Full"),
    (33, "25000baseSR/Full"),
    (34, "50000baseCR2/Full"),
    (35, "50000baseKR2/Full"),
    (36, "100000baseKR4/Full"),
    (37, "100000baseSR4/Full"),
    (38, "100000baseCR4/Full"),
    (39, "100000baseLR4/ER4/Full"),
    (40, "50000baseSR2/Full"),
    (41, "1000baseX/Full"),
    (42, "10000baseCR/Full"),
    (43, "10000baseSR/Full"),
    (44, "10000baseLR/Full"),
    (45, "10000baseLRM/Full"),
    (46, "10000baseER/Full"),
    (47, "2500baseT/Full"),
    (48, "5000baseT/Full"),
    (52, "50000baseKR/Full"),
    (53, "50000baseSR/Full"),
    (54, "50000baseCR/Full"),
    (55, "50000baseLR/ER/FR/Full"),
    (56, "50000baseDR/Full"),
    (57, "100000baseKR2/Full"),
    (58, "100000baseSR2/Full"),
    (59, "100000baseCR2/Full"),
    (60, "100000baseLR2/ER2/FR2/Full"),
    (61, "100000baseDR2/Full"),
    (62, "200000baseKR4/Full"),
    (63, "200000baseSR4/Full"),
    (64, "200000baseLR4/ER4/FR4/Full"),
    (65, "200000baseDR4/Full"),
    (66, "200000baseCR4/Full"),
    (67, "100baseT1/Full"),
    (68, "1000baseT1/Full"),
    (69, "400000baseKR8/Full"),
    (70, "400000baseSR8/Full"),
    (71, "400000baseLR8/ER8/FR8/Full"),
    (72, "400000baseDR8/Full"),
    (73, "400000baseCR8/Full"),
    (75, "100000baseKR/Full"),
    (76, "100000baseSR/Full"),
    (77, "100000baseLR/ER/FR/Full"),
    (78, "100000baseCR/Full"),
    (79, "100000baseDR/Full"),
    (80, "200000baseKR2/Full"),
    (81, "200000baseSR2/Full"),
    (82, "200000baseLR2/ER2/FR2/Full"),
    (83, "200000baseDR2/Full"),
    (84, "200000baseCR2/Full"),
    (85, "400000baseKR4/Full"),
    (86, "400000baseSR4/Full"),
    (87, "400000baseLR4/ER4/FR4/Full"),
    (88, "400000baseDR4/Full"),
    (89, "400000baseCR4/Full"),
    (90, "100baseFX/Half"),
    (91, "100baseFX/Full"),
    (92, "10baseT1L/Full"),
    (93, "800000baseCR8/Full"),
    (94, "800000baseKR8/Full"),
    (95, "800000baseDR8/Full"),
    (96, "800000baseDR8_2/Full"),
    (97, "800000baseSR8/Full"),
    (98, "800000baseVR8/Full"),
    (99, "10baseT1S/Full"),
    (100, "10baseT1S/Half"),
    (101, "10baseT1S_P2MP/Half"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_card_are_read() {
        let mut words: Words = [0; _];
        words[2] = u32::from_ne_bytes([1, 3, 0, 1]);
        words[3] = u32::from_ne_bytes([0, 0, 0, 2]);
        words[4] = u32::from_ne_bytes([1, 0, 0, 0]);
        words[SUPPORTED] = 1 << 5 | 1 << 10 | 1 << 12;
        words[SUPPORTED + 1] = 1 << (47 - 32);
        words[SUPPORTED + 2] = u32::MAX; // advertised, not supported
        assert_eq!(
            Link::parse(&words),
            Link {
                supported_modes: ["1000baseT/Full", "10000baseT/Full", "2500baseT/Full"].map(str::to_owned).into(),
                supported_ports: vec!["fibre".to_owned()],
                port_type: "fibre",
                transceiver_type: "external",
                auto_negotiation: true,
            }
        );
    }

    #[test]
    fn interface_that_does_not_exist_has_no_settings() {
        assert_eq!(link("no-such-if"), None);
        assert_eq!(firmware_version("a name that is much too long"), None);
    }

    #[test]
    fn impossible_count_of_words_is_bounded() {
        let mut words: Words = [u32::MAX; _];
        words[3] = u32::MAX;
        assert_eq!(Link::parse(&words).supported_modes.len(), MODES.len());
    }
}
