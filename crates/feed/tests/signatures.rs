//! Which messages are trusted, and which are not, with real certificates and signatures.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cms::{content_info::ContentInfo, signed_data::SignedData};
use der::{Any, Decode as _, Encode as _, asn1::SetOfVec};
use feed::{FeedError, Index, MESSAGE_LIMIT, Signer, Trust, VerifyError};
use jiff::Timestamp;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

const DOCUMENT: &str = "{\"format\":\"1.0\",\"updates\":[{\"version\":\"203001020304\"}]}\n";

/// An authority, its PEM.
type Authority = CertifiedIssuer<'static, KeyPair>;

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(2029, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2031, 1, 1);
    parameters
}

fn authority_parameters(name: &str) -> CertificateParams {
    let mut parameters = parameters(name);
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2099, 1, 1);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    parameters
}

fn root(name: &str) -> Authority {
    CertifiedIssuer::self_signed(authority_parameters(name), KeyPair::generate().unwrap()).unwrap()
}

fn under(name: &str, issuer: &Authority) -> Authority {
    CertifiedIssuer::signed_by(authority_parameters(name), KeyPair::generate().unwrap(), issuer).unwrap()
}

/// PEM of a key and of its certificate.
fn leaf(issuer: &Authority, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters("Update 2030");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    change(&mut parameters);
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    (key.serialize_pem(), certificate.pem())
}

fn now() -> Timestamp {
    "2030-01-02T04:00:00Z".parse().unwrap()
}

/// A root, an update authority under it, and a sibling of that.
struct World {
    root: Authority,
    update: Authority,
    sibling: Authority,
    trust: Trust,
}

impl World {
    fn new() -> Self {
        let root = root("Root E1");
        let (update, sibling) = (under("Update E1", &root), under("Support E1", &root));
        let trust = Trust::new(&root.pem(), &update.pem()).unwrap();
        Self { root, update, sibling, trust }
    }

    fn signer(&self, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        let (key, certificate) = leaf(&self.update, change);
        Signer::new(&key, &certificate, &[&self.update.pem()]).unwrap()
    }

    fn message(&self) -> String {
        self.signer(|_| ()).clear(DOCUMENT, now()).unwrap()
    }

    fn refusal(&self, message: &str) -> VerifyError {
        self.trust.verify(message.as_bytes()).expect_err("this message must not be trusted")
    }
}

#[test]
fn both_forms_with_either_line_end_are_trusted() {
    let world = World::new();
    let signer = world.signer(|parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    let clear = signer.clear(DOCUMENT, now()).unwrap();
    for message in [clear.clone(), clear.replace('\n', "\r\n"), signer.opaque(DOCUMENT, now()).unwrap()] {
        let (index, signed) = Index::verified(message.as_bytes(), &world.trust).unwrap();
        assert_eq!(index.updates[0].version.as_str(), "203001020304");
        assert_eq!(signed.signer, "CN=Update 2030");
        assert_eq!(signed.signed_at, Some(now()));
        assert_eq!(signed.not_after, "2031-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(String::from_utf8(signed.content).unwrap().replace("\r\n", "\n"), DOCUMENT);
    }
}

#[test]
fn every_changed_byte_of_the_document_is_noticed() {
    let world = World::new();
    let message = world.message();
    let start = message.find(DOCUMENT).unwrap();
    for at in start..start + DOCUMENT.len() - 1 {
        let mut changed = message.clone().into_bytes();
        changed[at] ^= 1;
        assert!(world.trust.verify(&changed).is_err(), "byte {at}");
    }
    assert_eq!(world.refusal(&message.replace("203001020304", "203001020305")), VerifyError::Changed);
}

#[test]
fn signers_of_other_authorities_are_refused_whatever_they_bring_along() {
    let world = World::new();
    let (key, certificate) = leaf(&world.sibling, |_| ());
    let bag = [world.sibling.pem(), world.update.pem(), world.root.pem()];
    let bag: Vec<_> = bag.iter().map(String::as_str).collect();
    let message = Signer::new(&key, &certificate, &bag).unwrap().clear(DOCUMENT, now()).unwrap();
    let error = world.refusal(&message);
    assert!(matches!(&error, VerifyError::Intermediate { expected, .. } if expected == "CN=Update E1"), "{error}");

    // An authority of the same name under another root.
    let other = under("Update E1", &root("Root E1"));
    let (key, certificate) = leaf(&other, |_| ());
    let message = Signer::new(&key, &certificate, &[&world.update.pem()]).unwrap().clear(DOCUMENT, now()).unwrap();
    assert!(matches!(world.refusal(&message), VerifyError::Certificate { .. }));

    // Directly under the root, and one step too deep.
    let deep = under("Deep", &world.update);
    for issuer in [&world.root, &deep] {
        let (key, certificate) = leaf(issuer, |_| ());
        let bag = [deep.pem(), world.update.pem()];
        let message = Signer::new(&key, &certificate, &[&bag[0], &bag[1]]).unwrap().clear(DOCUMENT, now()).unwrap();
        assert!(matches!(world.refusal(&message), VerifyError::Intermediate { .. }));
    }
}

#[test]
fn signature_of_another_key_is_refused() {
    let world = World::new();
    // Two signers whose certificates only differ in the key: the signature of one, the certificate of the other.
    let same = |parameters: &mut CertificateParams| parameters.serial_number = Some(7_u64.into());
    let (one, other) = (world.signer(same), world.signer(same));
    let message = one.clear(DOCUMENT, now()).unwrap();
    let theirs = data(&other.clear(DOCUMENT, now()).unwrap());
    let forged = rebuilt(&message, |mut data| {
        data.certificates = theirs.certificates.clone();
        data
    });
    assert_eq!(world.refusal(&forged), VerifyError::Signature);
}

#[test]
fn certificates_that_are_not_for_this_are_refused() {
    let world = World::new();
    let refused = |reason: &str, change: fn(&mut CertificateParams)| {
        let message = world.signer(change).clear(DOCUMENT, now()).unwrap();
        let error = world.refusal(&message).to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    };
    refused("of an authority, not of a signer", |parameters| {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    refused("not for signatures", |parameters| parameters.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    refused("not for signed messages", |parameters| {
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    refused("not valid when", |parameters| parameters.not_after = rcgen::date_time_ymd(2029, 12, 31));
    refused("not valid when", |parameters| parameters.not_before = rcgen::date_time_ymd(2030, 2, 1));
    refused("critical extension", |parameters| {
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        parameters.custom_extensions.push(extension);
    });
}

#[test]
fn clock_of_the_machine_is_not_asked() {
    // The signer's certificate is valid from 2029 to 2031 only, see `parameters`; this test was written before
    // and will be run after.
    let world = World::new();
    assert!(world.trust.verify(world.message().as_bytes()).is_ok());
}

#[test]
fn messages_that_are_put_together_otherwise_are_refused() {
    let world = World::new();
    let message = world.message();
    let (one, two) = (data(&message), data(&world.message()));
    let both: Vec<_> = one.signer_infos.0.iter().chain(two.signer_infos.0.iter()).cloned().collect();
    let refused = |change: &dyn Fn(SignedData) -> SignedData| world.refusal(&rebuilt(&message, change));
    let with = |change: fn(&mut SignedData)| {
        refused(&move |mut data| {
            change(&mut data);
            data
        })
    };
    let two_signers = refused(&|mut data| {
        data.signer_infos.0 = SetOfVec::try_from(both.clone()).unwrap();
        data
    });
    assert_eq!(two_signers, VerifyError::Signers(2));
    assert_eq!(with(|data| data.signer_infos.0 = SetOfVec::new()), VerifyError::Signers(0));
    assert_eq!(with(|data| data.certificates = None), VerifyError::SignerMissing);
    let malformed = [
        with(|data| {
            let mut info = data.signer_infos.0.as_slice()[0].clone();
            info.signed_attrs = None;
            data.signer_infos.0 = SetOfVec::try_from(vec![info]).unwrap();
        }),
        with(|data| data.encap_content_info.econtent = Some(Any::new(der::Tag::OctetString, *b"{}").unwrap())),
    ];
    for error in malformed {
        assert!(matches!(error, VerifyError::Malformed(_)), "{error}");
    }
    let weak = with(|data| {
        let mut info = data.signer_infos.0.as_slice()[0].clone();
        // SHA-1.
        info.digest_alg.oid = "1.3.14.3.2.26".parse().unwrap();
        data.signer_infos.0 = SetOfVec::try_from(vec![info]).unwrap();
    });
    assert!(matches!(weak, VerifyError::Algorithm(_)), "{weak}");
}

#[test]
fn signature_that_is_too_large_is_refused_before_it_is_taken_apart() {
    let world = World::new();
    let padding: Vec<_> = (0..40).map(|_| under("Filler", &world.root).pem()).collect();
    let padding: Vec<_> = padding.iter().map(String::as_str).collect();
    let (key, certificate) = leaf(&world.update, |_| ());
    for copies in [10, 40] {
        let signer = Signer::new(&key, &certificate, &padding[..copies]).unwrap();
        let large = padding[..copies].iter().map(|pem| pem.len()).sum::<usize>() * 3 / 4 > 32 << 10;
        let outcome = world.trust.verify(signer.clear(DOCUMENT, now()).unwrap().as_bytes());
        assert_eq!(outcome.is_err(), large, "{copies}");
    }
    assert_eq!(
        world.trust.verify(&vec![b'a'; MESSAGE_LIMIT + 1]).unwrap_err(),
        VerifyError::TooLarge(MESSAGE_LIMIT + 1)
    );
}

#[test]
fn trust_itself_is_checked() {
    let world = World::new();
    let (_, signer) = leaf(&world.update, |_| ());
    let stranger = root("Root E1");
    for (root, intermediate) in [
        (stranger.pem(), world.update.pem()),
        (world.root.pem(), signer),
        (world.update.pem(), world.update.pem()),
        (world.root.pem(), String::new()),
    ] {
        assert!(Trust::new(&root, &intermediate).is_err());
    }
}

#[test]
fn signed_document_of_another_kind_is_no_index() {
    let world = World::new();
    let message = world.signer(|_| ()).clear("[1,2]\n", now()).unwrap();
    let error = Index::verified(message.as_bytes(), &world.trust).unwrap_err();
    assert!(matches!(error, FeedError::Parse { document: "index", .. }), "{error}");
}

#[test]
fn openssl_and_this_crate_accept_what_the_other_signs() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // openssl signs with the time of now.
    let (key, certificate) = leaf(&world.update, |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2099, 1, 1);
    });
    for (name, text) in [
        ("root.crt", world.root.pem()),
        ("update.crt", world.update.pem()),
        ("leaf.crt", certificate.clone()),
        ("leaf.key", key.clone()),
        ("x.json", DOCUMENT.to_owned()),
        (
            "ours.sjson",
            Signer::new(&key, &certificate, &[&world.update.pem()]).unwrap().clear(DOCUMENT, now()).unwrap(),
        ),
    ] {
        fs::write(path(name), text).unwrap();
    }
    openssl(
        folder.path(),
        "smime -text -sign -signer leaf.crt -inkey leaf.key -in x.json -out clear -certfile update.crt",
    );
    openssl(
        folder.path(),
        "smime -text -sign -signer leaf.crt -inkey leaf.key -in x.json -out opaque -certfile update.crt -nodetach -md sha256",
    );
    for name in ["clear", "opaque"] {
        let (index, _) = Index::verified(&fs::read(path(name)).unwrap(), &world.trust).unwrap();
        assert_eq!(index.updates[0].version.as_str(), "203001020304", "{name}");
    }
    let read = openssl(folder.path(), "smime -verify -text -CAfile root.crt -in ours.sjson -purpose any");
    assert_eq!(read.replace("\r\n", "\n"), DOCUMENT);
}

fn openssl(folder: &Path, arguments: &str) -> String {
    let arguments: Vec<_> = arguments.split(' ').collect();
    testkit::process::run("openssl", &arguments, folder, Duration::from_secs(60)).unwrap()
}

/// The signature in a message.
fn data(message: &str) -> SignedData {
    let (_, der) = signature(message);
    ContentInfo::from_der(&der).unwrap().content.decode_as().unwrap()
}

/// The message with its signature changed.
fn rebuilt(message: &str, change: impl Fn(SignedData) -> SignedData) -> String {
    let (text, der) = signature(message);
    let mut outer = ContentInfo::from_der(&der).unwrap();
    outer.content = Any::encode_from(&change(outer.content.decode_as().unwrap())).unwrap();
    message.replace(&text, &STANDARD.encode(outer.to_der().unwrap()))
}

fn signature(message: &str) -> (String, Vec<u8>) {
    let start = message.rfind("smime.p7s\"\n\n").unwrap() + 12;
    let text = &message[start..start + message[start..].find("\n--").unwrap()];
    (text.to_owned(), STANDARD.decode(text.replace('\n', "")).unwrap())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(WORLD.trust.verify(&bytes).is_err());
    }

    #[test]
    fn no_part_of_a_message_that_is_changed_panics(at in any::<prop::sample::Index>(), new in any::<u8>(), cut in any::<bool>()) {
        let mut message = MESSAGE.clone().into_bytes();
        let at = at.index(message.len());
        message[at] = new;
        if cut {
            message.truncate(at);
        }
        // Some changes are of no consequence, such as one to the preamble.
        let _ = Index::verified(&message, &WORLD.trust);
    }

    #[test]
    fn no_signature_that_is_changed_panics(at in any::<prop::sample::Index>(), new in any::<u8>()) {
        let (text, mut der) = signature(&MESSAGE);
        let at = at.index(der.len());
        der[at] = new;
        let _ = WORLD.trust.verify(MESSAGE.replace(&text, &STANDARD.encode(der)).as_bytes());
    }

    #[test]
    fn no_document_panics(text in "[ -~\n]{0,200}") {
        let _ = Index::unsigned(text.as_bytes());
    }
}

static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(World::new);
static MESSAGE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| WORLD.message());
