//! The firmware's variable store at first power-on.

use std::path::{Path, PathBuf};

use super::record::Keys;
use super::{COPY_LIMIT, VmError, path_text};
use crate::image::Image;
use crate::process;

/// Secure Boot firmware of the tools tree.
pub const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";

/// Its empty variable store.
const EMPTY_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Who the keys belong to, for firmware screens.
const OWNER: &str = "11111111-2222-3333-4444-123456789abc";

/// A variable store to copy for a new machine.
///
/// A store with the image's keys is made on first use and kept beside them.
///
/// # Errors
///
/// When the keys are not where the image says.
pub fn variables(keys: Keys, image: &Image, machine: &str) -> Result<PathBuf, VmError> {
    match keys {
        Keys::SetupMode => Ok(PathBuf::from(EMPTY_VARIABLES)),
        Keys::Enrolled => {
            let store = image.pki_dir.join("OVMF_VARS.enrolled.fd");
            if !store.is_file() {
                enrol(&image.pki_dir, &store, machine)?;
            }
            Ok(store)
        }
    }
}

fn enrol(pki: &Path, store: &Path, machine: &str) -> Result<(), VmError> {
    let certificate = |name: &str| path_text(&pki.join(name));
    let arguments = [
        "--input".to_owned(),
        EMPTY_VARIABLES.to_owned(),
        "--output".to_owned(),
        path_text(store),
        "--set-pk".to_owned(),
        OWNER.to_owned(),
        certificate("PK.crt"),
        "--add-kek".to_owned(),
        OWNER.to_owned(),
        certificate("KEK.crt"),
        "--add-db".to_owned(),
        OWNER.to_owned(),
        certificate("db.crt"),
        "--secure-boot".to_owned(),
    ];
    process::run("virt-fw-vars", &arguments, pki, COPY_LIMIT)
        .map(drop)
        .map_err(|source| VmError::Process { name: machine.to_owned(), source })
}
