//! The firmware's variable store at first power-on.

use std::path::PathBuf;

use super::record::Keys;
use crate::image::Image;

/// Secure Boot firmware of the tools tree.
pub const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// Its empty variable store.
const EMPTY_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What the image build leaves beside its keys: a store that has them enrolled.
const ENROLLED_VARIABLES: &str = "OVMF_VARS.enrolled.fd";

/// A variable store to copy for a new machine.
#[must_use]
pub fn variables(keys: Keys, image: &Image) -> PathBuf {
    match keys {
        Keys::SetupMode => PathBuf::from(EMPTY_VARIABLES),
        Keys::Enrolled => image.pki_dir.join(ENROLLED_VARIABLES),
    }
}
