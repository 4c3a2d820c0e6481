use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr as _,
};

use tss_esapi::{
    Context,
    constants::PropertyTag,
    interface_types::algorithm::HashingAlgorithm,
    structures::{PcrSelectionListBuilder, PcrSlot},
    tcti_ldr::{DeviceConfig, TctiNameConf},
};

use crate::{Digest, Pcr};

/// Most registers that one TPM command returns (`TPML_DIGEST`).
const PER_COMMAND: usize = 8;

/// Why a TPM gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// There is no connection to it.
    #[error("cannot open TPM `{tcti}`")]
    Open {
        /// How it was tried.
        tcti: String,
        /// What the TPM software stack said.
        #[source]
        source: tss_esapi::Error,
    },
    /// A command failed.
    #[error("the TPM cannot {action}")]
    Command {
        /// What was asked for, as a verb phrase.
        action: &'static str,
        /// What the TPM said.
        #[source]
        source: tss_esapi::Error,
    },
    /// The SHA-256 bank is not active.
    #[error("the TPM has no SHA-256 value of {pcr}")]
    NoBank {
        /// The register that was asked for.
        pcr: Pcr,
    },
}

/// Who made a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Specification family, `2.0`.
    pub family: String,
    /// Four letters of the maker, `IFX` or `INTC`.
    pub manufacturer: String,
    /// Version of its firmware, four numbers.
    pub firmware: String,
}

/// An open TPM.
pub struct Tpm {
    context: Context,
}

impl Tpm {
    /// Opens a TPM device, `/dev/tpmrm0` on a machine: the one where the kernel
    /// keeps users apart.
    pub fn device(path: &Path) -> Result<Self, TpmError> {
        let tcti = format!("device:{}", path.display());
        let config = DeviceConfig::from_str(&path.to_string_lossy())
            .map_err(|source| TpmError::Open { tcti: tcti.clone(), source })?;
        Self::open(tcti, TctiNameConf::Device(config))
    }

    /// Opens a TPM by the name of its transport (`Tss2_TctiLdr_Initialize(3)`),
    /// `swtpm:host=127.0.0.1,port=2321` for a simulated one.
    pub fn tcti(tcti: &str) -> Result<Self, TpmError> {
        let config = TctiNameConf::from_str(tcti).map_err(|source| TpmError::Open { tcti: tcti.to_owned(), source })?;
        Self::open(tcti.to_owned(), config)
    }

    fn open(tcti: String, config: TctiNameConf) -> Result<Self, TpmError> {
        let context = Context::new(config).map_err(|source| TpmError::Open { tcti, source })?;
        Ok(Self { context })
    }

    /// Reads registers of the SHA-256 bank.
    pub fn pcrs(&mut self, pcrs: &[Pcr]) -> Result<BTreeMap<Pcr, Digest>, TpmError> {
        let mut values = BTreeMap::new();
        let mut missing: BTreeSet<Pcr> = pcrs.iter().copied().collect();
        while let Some(first) = missing.first().copied() {
            let asked: Vec<PcrSlot> = missing.iter().take(PER_COMMAND).copied().map(slot).collect();
            let before = missing.len();
            for (pcr, value) in self.some_pcrs(&asked)? {
                missing.remove(&pcr);
                values.insert(pcr, value);
            }
            if missing.len() == before {
                return Err(TpmError::NoBank { pcr: first });
            }
        }
        Ok(values)
    }

    fn some_pcrs(&mut self, slots: &[PcrSlot]) -> Result<Vec<(Pcr, Digest)>, TpmError> {
        let failed = |source| TpmError::Command { action: "read registers", source };
        let selection =
            PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, slots).build().map_err(failed)?;
        let (_, read, digests) = self.context.pcr_read(selection).map_err(failed)?;
        // The answer says which registers it holds; their values follow in ascending order.
        let numbers = read
            .get_selections()
            .iter()
            .filter(|bank| bank.hashing_algorithm() == HashingAlgorithm::Sha256)
            .flat_map(|bank| bank.selected())
            .map(|slot| u8::try_from(u32::from(slot).trailing_zeros()).ok().and_then(Pcr::new));
        let values = digests.value().iter().map(|digest| digest.value().try_into().ok().map(Digest));
        Ok(numbers.zip(values).filter_map(|(pcr, value)| Some((pcr?, value?))).collect())
    }

    /// Asks for the maker and the version.
    pub fn identity(&mut self) -> Result<Identity, TpmError> {
        let firmware = [self.property(PropertyTag::FirmwareVersion1)?, self.property(PropertyTag::FirmwareVersion2)?];
        let parts = firmware.map(|word| format!("{}.{}", word >> 16, word & 0xffff));
        Ok(Identity {
            family: text(self.property(PropertyTag::FamilyIndicator)?),
            manufacturer: text(self.property(PropertyTag::Manufacturer)?),
            firmware: parts.join("."),
        })
    }

    fn property(&mut self, tag: PropertyTag) -> Result<u32, TpmError> {
        let failed = |source| TpmError::Command { action: "tell its properties", source };
        Ok(self.context.get_tpm_property(tag).map_err(failed)?.unwrap_or_default())
    }
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tpm").finish_non_exhaustive()
    }
}

fn slot(pcr: Pcr) -> PcrSlot {
    PcrSlot::try_from(1u32 << pcr.index()).expect("there is a slot for every bit")
}

/// Properties spell text as up to four characters in one number.
fn text(word: u32) -> String {
    word.to_be_bytes().into_iter().filter(u8::is_ascii_graphic).map(char::from).collect()
}
