//! TPM, Secure Boot and disk encryption.
