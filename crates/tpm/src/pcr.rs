use std::fmt;

use sha2::{Digest as _, Sha256};

/// A platform configuration register of the static root of trust, 0 to 15: the
/// ones that start at zero and that only a reset clears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr(u8);

impl Pcr {
    /// Firmware code.
    pub const FIRMWARE: Self = Self(0);
    /// Boot loader and images that it starts.
    pub const LOADER: Self = Self(4);
    /// Secure Boot state and keys.
    pub const SECURE_BOOT: Self = Self(7);
    /// Parts of the unified kernel image, and phases of the boot.
    pub const KERNEL: Self = Self(11);
    /// What was added to the signed command line, and credentials: nothing, on a
    /// machine that starts as it was signed.
    pub const COMMAND_LINE: Self = Self(12);
    /// Extensions of the initrd: nothing, likewise.
    pub const EXTENSIONS: Self = Self(13);
    /// Key of the root volume.
    pub const VOLUME: Self = Self(15);

    /// What no good boot extends before the encrypted volumes are open.
    pub const UNTOUCHED: [Self; 3] = [Self::COMMAND_LINE, Self::EXTENSIONS, Self::VOLUME];

    /// What tells this machine, started as it should be, from all others. Which programs were
    /// started counts where Secure Boot does not check them.
    pub const fn of_machine(secure_boot: bool) -> &'static [Self] {
        if secure_boot { &[Self::SECURE_BOOT] } else { &[Self::LOADER, Self::SECURE_BOOT] }
    }

    /// The register of this number, if it is one of 0 to 15.
    pub const fn new(index: u8) -> Option<Self> {
        if index < 16 { Some(Self(index)) } else { None }
    }

    /// Its number.
    pub const fn index(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PCR {}", self.0)
    }
}

/// A SHA-256 digest, or the value of a register, which is one too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What a register holds after a reset.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The value of a register after extending it with `digest`.
    #[must_use]
    pub fn extended(self, digest: Self) -> Self {
        Self(Sha256::new().chain_update(self.0).chain_update(digest.0).finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}
