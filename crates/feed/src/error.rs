use crate::MESSAGE_LIMIT;

/// A message cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// More bytes than any real one has.
    #[error("the message has {0} bytes, more than the limit of {MESSAGE_LIMIT}")]
    TooLarge(usize),
    /// The outer form is not the one of a signed message.
    #[error("the message is not in the form of a signed one: {0}")]
    Envelope(&'static str),
    /// The signature inside cannot be read.
    #[error("the signature cannot be read: {0}")]
    Malformed(&'static str),
    /// A signature of a kind that is not accepted.
    #[error("the signature uses {0}, which is not accepted")]
    Algorithm(String),
    /// There is not exactly one signer.
    #[error("the message has {0} signers instead of one")]
    Signers(usize),
    /// The certificate that the signature names is not part of the message.
    #[error("the message lacks the certificate of its signer")]
    SignerMissing,
    /// The content was changed after it was signed.
    #[error("the content is not the one that was signed")]
    Changed,
    /// The signature was not made with the key of the signer's certificate.
    #[error("the signature is wrong")]
    Signature,
    /// Signed, but by somebody else's authority.
    #[error(
        "the message was signed by '{signer}', which '{issuer}' issued; only signers issued by '{expected}' are accepted"
    )]
    Intermediate {
        /// Subject of the signer.
        signer: String,
        /// Who says to have issued it.
        issuer: String,
        /// Subject of the expected intermediate.
        expected: String,
    },
    /// A certificate of the path must not be used for this.
    #[error("the certificate of '{subject}' {reason}")]
    Certificate {
        /// Its subject.
        subject: String,
        /// Completes the sentence.
        reason: &'static str,
    },
}

/// A document is signed, but does not say what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// It cannot be trusted.
    #[error("cannot trust the {document}")]
    Verify {
        /// `index` or `update`.
        document: &'static str,
        /// Why.
        #[source]
        source: VerifyError,
    },
    /// It is not JSON of the right form.
    #[error("the {document} cannot be read")]
    Parse {
        /// `index` or `update`.
        document: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The name of a file is not a plain relative path.
    #[error("release {version} lists a file with a name that is no plain path")]
    FileName {
        /// The release.
        version: String,
    },
    /// A file without a usable hash.
    #[error("release {version} lists `{file}` without a SHA-256 and a size")]
    Hash {
        /// The release.
        version: String,
        /// The file.
        file: String,
    },
}
