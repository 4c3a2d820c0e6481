use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::FromDer as _,
    public_key::{PublicKey, RSAPublicKey},
    x509::SubjectPublicKeyInfo,
};

use crate::{Digest, Pcr};

/// TPM constants: `TPM_ALG_RSA`, `TPM_ALG_SHA256`, `TPM_ALG_NULL`.
const RSA: u16 = 0x0001;
const SHA256: u16 = 0x000b;
const NULL: u16 = 0x0010;

/// `TPM_CC_PolicyAuthorize`, `TPM_CC_PolicyPCR`.
const POLICY_AUTHORIZE: u32 = 0x0000_016a;
const POLICY_PCR: u32 = 0x0000_017f;

/// The attributes with which systemd loads the key: user with authorisation, decrypt, sign.
const KEY_ATTRIBUTES: u32 = 0x0006_0040;

/// Largest key file that is looked at.
const PEM_LIMIT: usize = 16 << 10;

/// Why a file is no key that can sign policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// No PEM block of a public key.
    #[error("not the PEM form of a public key")]
    NotAPublicKey,
    /// A key, but not RSA, which is all that is used for policies here.
    #[error("not an RSA key")]
    NotRsa,
}

/// The key that signs which values of PCR 11 are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySigner {
    modulus: Vec<u8>,
    exponent: u32,
}

impl PolicySigner {
    /// Reads the PEM form, as `systemd-stub(7)` hands it to the running system.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignerError> {
        if pem.len() > PEM_LIMIT {
            return Err(SignerError::NotAPublicKey);
        }
        let (_, block) = parse_x509_pem(pem).map_err(|_| SignerError::NotAPublicKey)?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_| SignerError::NotAPublicKey)?;
        let Ok(PublicKey::RSA(key)) = info.parsed() else { return Err(SignerError::NotRsa) };
        let exponent = key.try_exponent().ok().and_then(|exponent| u32::try_from(exponent).ok());
        let modulus = unsigned(&key);
        match exponent {
            Some(exponent) if (128..=512).contains(&modulus.len()) => Ok(Self { modulus: modulus.to_vec(), exponent }),
            _ => Err(SignerError::NotRsa),
        }
    }

    /// The TPM's name of the key: the digest of its public area, after the algorithm.
    fn name(&self) -> Vec<u8> {
        let bits = self.modulus.len() * 8;
        let mut area = Vec::new();
        area.extend(RSA.to_be_bytes());
        area.extend(SHA256.to_be_bytes());
        area.extend(KEY_ATTRIBUTES.to_be_bytes());
        // No policy of its own, no symmetric algorithm, no fixed scheme.
        area.extend(0u16.to_be_bytes());
        area.extend(NULL.to_be_bytes());
        area.extend(NULL.to_be_bytes());
        area.extend(size(bits));
        area.extend(self.exponent.to_be_bytes());
        area.extend(size(self.modulus.len()));
        area.extend(&self.modulus);
        [&SHA256.to_be_bytes()[..], &Sha256::digest(area)].concat()
    }
}

/// The modulus without the zero that only says that it is no negative number.
fn unsigned<'a>(key: &RSAPublicKey<'a>) -> &'a [u8] {
    match key.modulus {
        [0, rest @ ..] => rest,
        all => all,
    }
}

/// At most 4096, see [`PolicySigner::from_pem`].
fn size(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("a key that was read is at most 4096 bits long").to_be_bytes()
}

/// What has to be true for a TPM to release a key: some registers hold exactly
/// these values, and the signer has declared the values of the others good.
///
/// The digest is the one that `systemd-cryptenroll(1)` stores beside a sealed
/// key. So two keys can be told apart, and a key's conditions be checked, without
/// asking the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    literals: BTreeMap<Pcr, Digest>,
    signer: PolicySigner,
}

impl Policy {
    /// These values, and whatever else the signer approves of.
    pub fn new(literals: BTreeMap<Pcr, Digest>, signer: PolicySigner) -> Self {
        Self { literals, signer }
    }

    /// The registers that must hold one exact value each.
    pub fn literals(&self) -> &BTreeMap<Pcr, Digest> {
        &self.literals
    }

    /// The policy digest (TPM 2.0 Library, part 1, "Enhanced Authorization").
    pub fn digest(&self) -> Digest {
        // PolicyAuthorize starts again from zero, and adds an empty reference of the signer's.
        let authorized = Digest::of(&[&[0; 32], &POLICY_AUTHORIZE.to_be_bytes()[..], &self.signer.name()].concat());
        let signed = Digest::of(&authorized.0);
        if self.literals.is_empty() {
            return signed;
        }
        let values: Vec<u8> = self.literals.values().flat_map(|value| value.0).collect();
        let mut selected = [0u8; 3];
        for pcr in self.literals.keys() {
            selected[usize::from(pcr.index() / 8)] |= 1 << (pcr.index() % 8);
        }
        let mut step = signed.0.to_vec();
        step.extend(POLICY_PCR.to_be_bytes());
        // One bank of registers, with a bit for each.
        step.extend(1u32.to_be_bytes());
        step.extend(SHA256.to_be_bytes());
        step.push(3);
        step.extend(selected);
        step.extend(Digest::of(&values).0);
        Digest::of(&step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with openssl for the recorded enrolment below.
    const SIGNER: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1PnJlNi5aM4LYmExj8eb
lFZVAcrG2hawcHo8gqmhi5qkNFqASnRVg5pXSMPPTlQj4FPUMxC0CKaej0fNXubf
KSvqjJ5AUuGam9ZTnFKr4GVMOB1weflDxmofk4jxKFoo2ctaqkkwgQ1lf1aZsW2g
/VgEpWtjUxEzTsb0g2IsJWMfMsv14hI8dgS8ePek1Twa0yoDEhZ/rKT+y2W9NIuF
HMqJ2XBDIXLmwsP56Wkg9o4nU9SaA5AXkX5g18aPK22T5G+E490mPKZpznyo5GwY
74MGK3xcJUxLcID6MXEGTJqU67Uy1WcqdCB5WMb55435nAee4nHpHkq0QUEHBCR7
6QIDAQAB
-----END PUBLIC KEY-----
";

    fn literals(seven: Digest) -> BTreeMap<Pcr, Digest> {
        let zero = [Pcr::COMMAND_LINE, Pcr::EXTENSIONS, Pcr::VOLUME].map(|pcr| (pcr, Digest::ZERO));
        BTreeMap::from_iter([(Pcr::SECURE_BOOT, seven)].into_iter().chain(zero))
    }

    #[test]
    fn the_digest_is_the_one_that_systemd_enrols() {
        // `systemd-cryptenroll --tpm2-pcrs=7:sha256=1000…+12:sha256=0…+13:sha256=0…+15:sha256=0…`
        // of systemd 257.13 against swtpm 0.7.1, with the signer above for PCR 11.
        let mut seven = Digest::ZERO;
        seven.0[0] = 0x10;
        let signer = PolicySigner::from_pem(SIGNER.as_bytes()).unwrap();
        let digest = Policy::new(literals(seven), signer).digest();
        assert_eq!(digest.to_string(), "76aff133c7e8a435628cb90ae319377b386d5a10784dd96a3c2cf8482541092e");
    }

    #[test]
    fn every_register_value_and_signer_counts() {
        let signer = PolicySigner::from_pem(SIGNER.as_bytes()).unwrap();
        let other = PolicySigner { exponent: 3, ..signer.clone() };
        let fewer = BTreeMap::from([(Pcr::SECURE_BOOT, Digest::ZERO)]);
        let moved = BTreeMap::from([(Pcr::LOADER, Digest::ZERO)]);
        let digests = [
            Policy::new(literals(Digest::ZERO), signer.clone()).digest(),
            Policy::new(literals(Digest::of(b"x")), signer.clone()).digest(),
            Policy::new(literals(Digest::ZERO), other).digest(),
            Policy::new(fewer, signer.clone()).digest(),
            Policy::new(moved, signer.clone()).digest(),
            Policy::new(BTreeMap::new(), signer).digest(),
        ];
        for (position, digest) in digests.iter().enumerate() {
            assert!(!digests[..position].contains(digest), "{position}");
        }
    }

    #[test]
    fn only_an_rsa_public_key_signs_policies() {
        let ec = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTMZ432hFEP445hsJkqzufMRs63T
6xgOHt4H2wGep0YmFWj1JqFX8nxDbc6uRRyXglHVDq44GBmKdbBIDafFwQ==
-----END PUBLIC KEY-----
";
        assert_eq!(PolicySigner::from_pem(ec.as_bytes()), Err(SignerError::NotRsa));
        for bad in ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", &"x".repeat(PEM_LIMIT + 1)]
        {
            assert_eq!(PolicySigner::from_pem(bad.as_bytes()), Err(SignerError::NotAPublicKey), "{bad:.20}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = PolicySigner::from_pem(&bytes);
        }
    }
}
