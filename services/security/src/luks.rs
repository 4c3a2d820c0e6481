//! LUKS2 headers: what is in them, and the few changes that are made to them.
//!
//! Keys go to the tools through files that only root may read or through
//! standard input, never through arguments or the environment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use runner::{Call, Exit, RunError, Tool};
use serde::Deserialize;
use tpm::{Pcr, Policy};

use crate::machine::Machine;

/// How long one tool may take: deriving a key takes seconds by design, and ten
/// times that under emulation.
const PATIENCE: Duration = Duration::from_secs(180);

/// Key slots that a header has room for.
const SLOTS: u32 = 32;

/// Token of a key that the TPM releases.
pub(crate) const TPM_TOKEN: &str = "systemd-tpm2";

/// Token of a key that `systemd-cryptenroll(1)` lists as `recovery`.
pub(crate) const RECOVERY_TOKEN: &str = "systemd-recovery";

/// Why a header could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LuksError {
    #[error("cannot {action} of volume {volume}")]
    Tool {
        action: &'static str,
        volume: &'static str,
        #[source]
        source: RunError,
    },
    #[error("the header of volume {volume} is not what cryptsetup should print")]
    Metadata {
        volume: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("all key slots of volume {volume} are in use")]
    Full { volume: &'static str },
    #[error("key slot {slot} is the last one of volume {volume} and stays")]
    LastSlot { volume: &'static str, slot: u32 },
}

/// An encrypted partition.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    /// Name of its mapping, `root` or `swap`.
    pub(crate) name: &'static str,
    /// The partition.
    pub(crate) device: PathBuf,
}

/// What is known of a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The key slots in use, each with whether guessing its key is made expensive.
    pub(crate) slots: BTreeMap<u32, Cost>,
    pub(crate) tokens: BTreeMap<u32, Token>,
}

/// What one guess at the key of a slot costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Next to nothing: the key was made by a machine and cannot be guessed.
    Little,
    /// Seconds and memory.
    Much,
}

/// A note in the header on how a key can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: String,
    pub(crate) slots: Vec<u32>,
    /// Policy digest in hexadecimal; empty unless the TPM is involved.
    pub(crate) policy: String,
    /// Registers whose values are fixed.
    pub(crate) literal: Vec<u8>,
    /// Registers whose values are signed.
    pub(crate) signed: Vec<u8>,
}

impl Header {
    /// The lowest key slot that is free.
    pub(crate) fn free_slot(&self) -> Option<u32> {
        (0..SLOTS).find(|slot| !self.slots.contains_key(slot))
    }

    /// The tokens of a kind.
    pub(crate) fn tokens_of(&self, kind: &str) -> impl Iterator<Item = (u32, &Token)> {
        self.tokens.iter().filter(move |(_, token)| token.kind == kind).map(|(id, token)| (*id, token))
    }

    /// Whether any token says something of a key slot.
    pub(crate) fn has_token(&self, slot: u32) -> bool {
        self.tokens.values().any(|token| token.slots.contains(&slot))
    }

    /// The TPM token whose key is released under this policy.
    pub(crate) fn bound_by(&self, policy: &str) -> Option<(u32, &Token)> {
        self.tokens_of(TPM_TOKEN).find(|(_, token)| token.policy == policy && !token.slots.is_empty())
    }

    /// Reads what `cryptsetup luksDump --dump-json-metadata` prints.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Metadata {
            keyslots: BTreeMap<u32, Keyslot>,
            tokens: BTreeMap<u32, RawToken>,
        }
        #[derive(Deserialize)]
        struct Keyslot {
            kdf: Kdf,
        }
        #[derive(Deserialize)]
        struct Kdf {
            r#type: String,
        }
        #[derive(Deserialize)]
        struct RawToken {
            r#type: String,
            keyslots: Vec<String>,
            #[serde(default, rename = "tpm2-policy-hash")]
            policy: Option<serde_json::Value>,
            #[serde(default, rename = "tpm2-pcrs")]
            literal: Vec<u8>,
            #[serde(default, rename = "tpm2_pubkey_pcrs")]
            signed: Vec<u8>,
        }
        let metadata: Metadata = serde_json::from_slice(json)?;
        let cost = |kdf: &Kdf| if kdf.r#type == "pbkdf2" { Cost::Little } else { Cost::Much };
        Ok(Self {
            slots: metadata.keyslots.iter().map(|(slot, keyslot)| (*slot, cost(&keyslot.kdf))).collect(),
            tokens: metadata
                .tokens
                .into_iter()
                .map(|(id, raw)| {
                    let slots = raw.keyslots.iter().filter_map(|slot| slot.parse().ok()).collect();
                    let policy = raw.policy.as_ref().and_then(|policy| policy.as_str()).unwrap_or_default().to_owned();
                    (id, Token { kind: raw.r#type, slots, policy, literal: raw.literal, signed: raw.signed })
                })
                .collect(),
        })
    }
}

/// Where the key comes from that lets a header be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Authority<'a> {
    /// The TPM, as at unlocking. It does so until the volume is bound to the initrd.
    Tpm,
    /// A key that a person has.
    Typed(&'a str),
}

/// A volume of a machine, to work with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Luks<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) volume: &'a Volume,
}

impl Luks<'_> {
    /// Reads the header.
    pub(crate) async fn header(&self) -> Result<Header, LuksError> {
        let call = self.cryptsetup("luksDump", &["--dump-json-metadata".as_ref()]);
        let json = self.output(call, "read the header").await?;
        Header::parse(&json).map_err(|source| LuksError::Metadata { volume: self.volume.name, source })
    }

    /// Puts the key in `file` into a free slot.
    pub(crate) async fn add_from_file(
        &self,
        authority: Authority<'_>,
        slot: u32,
        file: &Path,
    ) -> Result<(), LuksError> {
        let slot = slot.to_string();
        let mut args: Vec<&Path> = match authority {
            Authority::Tpm => ["--token-only", "--token-type", TPM_TOKEN].map(Path::new).to_vec(),
            Authority::Typed(_) => vec!["--key-file".as_ref(), "-".as_ref()],
        };
        args.extend(["--new-keyfile".as_ref(), file, "--new-key-slot".as_ref(), slot.as_ref()]);
        args.extend(derivation(Cost::Little).iter().map(Path::new));
        let mut call = self.cryptsetup("luksAddKey", &args);
        if let Authority::Typed(key) = authority {
            call = call.stdin(key);
        }
        self.output(call, "add a key to the header").await.map(drop)
    }

    /// Puts a key that a person will type into a free slot. The key in `authority` allows it.
    pub(crate) async fn add_typed(&self, authority: &Path, slot: u32, key: &str, cost: Cost) -> Result<(), LuksError> {
        let slot = slot.to_string();
        let mut args: Vec<&Path> = vec!["--key-file".as_ref(), authority, "--new-keyfile".as_ref(), "-".as_ref()];
        args.extend(["--new-key-slot".as_ref(), Path::new(&slot)]);
        args.extend(derivation(cost).iter().map(Path::new));
        let call = self.cryptsetup("luksAddKey", &args).stdin(key);
        self.output(call, "add a recovery key to the header").await.map(drop)
    }

    /// Whether the key in `file` opens this slot, which must be in use.
    pub(crate) async fn file_opens(&self, slot: u32, file: &Path) -> Result<bool, LuksError> {
        self.opens(self.trial(slot, file)).await
    }

    /// Whether a typed key opens this slot, which must be in use.
    pub(crate) async fn typed_opens(&self, slot: u32, key: &str) -> Result<bool, LuksError> {
        self.opens(self.trial(slot, "-".as_ref()).stdin(key)).await
    }

    /// Empties a slot that was seen in `header`.
    pub(crate) async fn kill(&self, header: &Header, slot: u32) -> Result<(), LuksError> {
        if header.slots.keys().all(|used| *used == slot) {
            return Err(LuksError::LastSlot { volume: self.volume.name, slot });
        }
        let slot = slot.to_string();
        let args = ["luksKillSlot".as_ref(), "--batch-mode".as_ref(), self.volume.device.as_path(), slot.as_ref()];
        let call = Call::new(Tool::Cryptsetup, args).deadline(PATIENCE);
        self.output(call, "empty a key slot").await.map(drop)
    }

    /// Notes in the header that a slot holds a recovery key that a machine made.
    pub(crate) async fn mark_recovery(&self, slot: u32) -> Result<(), LuksError> {
        let json = serde_json::json!({ "type": RECOVERY_TOKEN, "keyslots": [slot.to_string()] }).to_string();
        let call = self.token("import", &["--json-file".as_ref(), "-".as_ref()]).stdin(json);
        self.output(call, "mark a key slot").await.map(drop)
    }

    /// Removes a token, not the keys that it is about.
    pub(crate) async fn remove_token(&self, id: u32) -> Result<(), LuksError> {
        let id = id.to_string();
        let call = self.token("remove", &["--token-id".as_ref(), id.as_ref()]);
        self.output(call, "remove a token").await.map(drop)
    }

    /// Adds a key that the TPM releases under this policy, beside the ones that there are.
    pub(crate) async fn enrol_tpm(&self, authority: &Path, policy: &Policy) -> Result<(), LuksError> {
        let registers: Vec<_> =
            policy.literals().iter().map(|(pcr, value)| format!("{}:sha256={value}", pcr.index())).collect();
        let args = [
            format!("--unlock-key-file={}", authority.display()),
            format!("--tpm2-device={}", self.machine.tpm_device()),
            format!("--tpm2-pcrs={}", registers.join("+")),
            // Named, so that a missing file is an error and not a weaker policy.
            format!("--tpm2-public-key={}", self.machine.policy_signer().display()),
            format!("--tpm2-public-key-pcrs={}", Pcr::KERNEL.index()),
            // Empty: what systemd-pcrlock(8) might have left is not ours.
            "--tpm2-pcrlock=".to_owned(),
            self.volume.device.display().to_string(),
        ];
        let call = Call::new(Tool::SystemdCryptenroll, args).deadline(PATIENCE);
        self.output(call, "bind a key to the TPM").await.map(drop)
    }

    fn trial(&self, slot: u32, file: &Path) -> Call {
        let slot = slot.to_string();
        let args = ["--test-passphrase".as_ref(), "--key-slot".as_ref(), Path::new(&slot), "--key-file".as_ref(), file];
        self.cryptsetup("open", &args)
    }

    async fn opens(&self, call: Call) -> Result<bool, LuksError> {
        const WRONG_KEY: Exit = Exit::Code(2);

        let failed = |source| LuksError::Tool { action: "try a key", volume: self.volume.name, source };
        let output = self.machine.run(&call).await.map_err(failed)?;
        if output.exit == WRONG_KEY {
            return Ok(false);
        }
        output.success().map(|_| true).map_err(failed)
    }

    fn cryptsetup(&self, action: &str, args: &[&Path]) -> Call {
        let mut all: Vec<&Path> = vec![action.as_ref(), "--batch-mode".as_ref()];
        all.extend(args);
        all.push(&self.volume.device);
        Call::new(Tool::Cryptsetup, all).deadline(PATIENCE)
    }

    fn token(&self, action: &str, args: &[&Path]) -> Call {
        let mut all: Vec<&Path> = vec!["token".as_ref(), action.as_ref(), "--batch-mode".as_ref()];
        all.extend(args);
        all.push(&self.volume.device);
        Call::new(Tool::Cryptsetup, all).deadline(PATIENCE)
    }

    async fn output(&self, call: Call, action: &'static str) -> Result<Vec<u8>, LuksError> {
        let failed = |source| LuksError::Tool { action, volume: self.volume.name, source };
        self.machine.run(&call).await.and_then(runner::Output::success).map_err(failed)
    }
}

/// How the key of a slot is derived. A key with 256 bits of randomness is not
/// guessed however cheap a guess is: 1000 rounds are what systemd takes for those
/// as well. For a key that a person chose: four passes over 256 MiB, four
/// times the memory of the second recommendation of RFC 9106. Fixed numbers,
/// because what cryptsetup measures on a busy machine is an accident, and
/// because the initrd must have that memory too.
fn derivation(cost: Cost) -> &'static [&'static str] {
    match cost {
        Cost::Little => &["--pbkdf", "pbkdf2", "--hash", "sha512", "--pbkdf-force-iterations", "1000"],
        Cost::Much => &[
            "--pbkdf",
            "argon2id",
            "--pbkdf-memory",
            "262144",
            "--pbkdf-force-iterations",
            "4",
            "--pbkdf-parallel",
            "4",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of cryptsetup 2.7.5 and systemd 257.13, without salts and digests.
    const METADATA: &str = r#"{
        "keyslots": {
            "0": {"type":"luks2","key_size":64,"kdf":{"type":"pbkdf2","hash":"sha512","iterations":1000,"salt":"E7fc"}},
            "1": {"type":"luks2","key_size":64,"kdf":{"type":"pbkdf2","hash":"sha512","iterations":1000,"salt":"0wRt"}},
            "3": {"type":"luks2","key_size":64,"kdf":{"type":"argon2id","time":4,"memory":262144,"cpus":4,"salt":"AAAA"}}
        },
        "tokens": {
            "0": {"type":"systemd-tpm2","keyslots":["1"],"tpm2-blob":"AJ4A","tpm2-pcrs":[7,12,13,15],
                  "tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-policy-hash":"76af",
                  "tpm2_pubkey_pcrs":[11],"tpm2_pubkey":"LS0t","tpm2_srk":"gQAA"},
            "1": {"type":"systemd-recovery","keyslots":[]}
        },
        "segments": {}, "digests": {}, "config": {"json_size":"12288","keyslots_size":"16744448"}
    }"#;

    #[test]
    fn a_header_is_read() {
        let header = Header::parse(METADATA.as_bytes()).unwrap();
        assert_eq!(header.slots, BTreeMap::from([(0, Cost::Little), (1, Cost::Little), (3, Cost::Much)]));
        assert_eq!(header.free_slot(), Some(2));
        let (id, token) = header.bound_by("76af").unwrap();
        assert_eq!(
            (id, &token.slots[..], &token.literal[..], &token.signed[..]),
            (0, &[1][..], &[7, 12, 13, 15][..], &[11][..])
        );
        assert_eq!(header.bound_by("0000"), None);
        assert!(header.has_token(1) && !header.has_token(0));
        assert_eq!(
            header.tokens_of(RECOVERY_TOKEN).map(|(id, token)| (id, token.slots.len())).collect::<Vec<_>>(),
            [(1, 0)]
        );
    }

    #[test]
    fn a_token_whose_policy_is_not_one_digest_matches_none() {
        let odd = METADATA.replace(r#""76af""#, r#"["76af"]"#);
        assert_eq!(Header::parse(odd.as_bytes()).unwrap().bound_by("76af"), None);
        for bad in ["", "{}", "[]", r#"{"keyslots":{"x":{}},"tokens":{}}"#] {
            assert!(Header::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_header_has_no_free_slot() {
        let slots = (0..32).map(|slot| (slot, Cost::Little)).collect();
        assert_eq!(Header { slots, ..Header::default() }.free_slot(), None);
    }
}
