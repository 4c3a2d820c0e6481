//! Certificate authorities that an administrator adds to those of the image.
//!
//! Programs read `/etc/ssl/certs/ca-certificates.crt`. Without additions
//! `/etc/ssl/certs` is a link into the image; with additions a folder with a copy
//! of the image's bundle and the additions. It is in `/etc`, not in `/run`, so that
//! programs which start before this service find it; and it is made again at each
//! start, because an update brings another bundle. Programs that run keep what they
//! have read.

use std::{
    ffi::OsString,
    fs, io,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::machine::Machine;

const BUNDLE: &str = "ca-certificates.crt";

/// Whether each of them is a certificate; names the first one that is not.
pub(crate) fn check(certificates: &[String]) -> Result<(), String> {
    certificates.iter().enumerate().try_for_each(|(index, pem)| match values::certificate_der(pem) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("custom CA certificate {index} {error}")),
    })
}

/// Makes the trust store hold the image's authorities and these. Returns whether it changed.
pub(crate) fn install(machine: &Machine, certificates: &[String]) -> io::Result<bool> {
    let store = machine.trust_store();
    let (image, bundle) = machine.image_trust_store();
    if certificates.is_empty() {
        if fs::read_link(&store).is_ok_and(|target| target == image) {
            return Ok(false);
        }
        return replace(&store, |new| symlink(image, new)).map(|()| true);
    }
    let mut all = fs::read(bundle)?;
    for certificate in certificates {
        end_line(&mut all);
        all.extend_from_slice(certificate.as_bytes());
    }
    end_line(&mut all);
    let is_folder = fs::symlink_metadata(&store).is_ok_and(|found| found.is_dir());
    if is_folder && fs::read(store.join(BUNDLE)).is_ok_and(|present| present == all) {
        return Ok(false);
    }
    replace(&store, |new| {
        fs::create_dir(new)?;
        // Everybody reads it, whatever this process's mask.
        fs::set_permissions(new, fs::Permissions::from_mode(0o755))?;
        let mut file = fs::File::create(new.join(BUNDLE))?;
        file.write_all(&all)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::File::open(new)?.sync_all()
    })
    .map(|()| true)
}

fn end_line(text: &mut Vec<u8>) {
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
}

/// Puts what `make` makes in the place of `path`, in one step: at no time is
/// there neither the old nor the new one.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = OsString::from(path);
    name.push(".new");
    let new = PathBuf::from(name);
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(parent)?;
    // Left by a power cut.
    remove(&new)?;
    make(&new)?;
    if fs::symlink_metadata(path).is_ok() {
        renameat_with(CWD, &new, CWD, path, RenameFlags::EXCHANGE)?;
    } else {
        fs::rename(&new, path)?;
    }
    fs::File::open(parent)?.sync_all()?;
    remove(&new)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(dir: &Path) -> Machine {
        fs::create_dir_all(dir.join("usr/share/certs")).unwrap();
        fs::write(dir.join("usr/share/certs").join(BUNDLE), "of the image").unwrap();
        Machine::new(dir, crate::DeviceTpm { path: "/nonexistent".into() }, runner::ScriptedRunner::new())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn additions_come_after_the_image_s_own_and_go_again() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        let store = dir.path().join("etc/ssl/certs");
        let bundle = || fs::read_to_string(store.join(BUNDLE)).unwrap();

        assert!(install(&machine, &[]).unwrap());
        assert_eq!(fs::read_link(&store).unwrap(), Path::new("/usr/share/certs"));
        assert!(!install(&machine, &[]).unwrap());

        let both = ["one".to_owned(), "two\n".to_owned()];
        assert!(install(&machine, &both).unwrap());
        assert_eq!(bundle(), "of the image\none\ntwo\n");
        assert_eq!((mode(&store), mode(&store.join(BUNDLE))), (0o755, 0o644));
        assert!(!install(&machine, &both).unwrap());

        assert!(install(&machine, &both[1..]).unwrap());
        assert_eq!(bundle(), "of the image\ntwo\n");
        assert!(install(&machine, &[]).unwrap());
        assert!(fs::symlink_metadata(&store).unwrap().is_symlink());
        let left: Vec<_> =
            fs::read_dir(store.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["certs"]);
    }

    #[test]
    fn an_update_of_the_image_and_a_cut_off_attempt_are_mended() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path());
        let own = ["own".to_owned()];
        install(&machine, &own).unwrap();
        fs::create_dir(dir.path().join("etc/ssl/certs.new")).unwrap();
        fs::write(dir.path().join("etc/ssl/certs.new").join(BUNDLE), "half").unwrap();
        fs::write(dir.path().join("usr/share/certs").join(BUNDLE), "of the next image\n").unwrap();
        assert!(install(&machine, &own).unwrap());
        assert_eq!(
            fs::read_to_string(dir.path().join("etc/ssl/certs").join(BUNDLE)).unwrap(),
            "of the next image\nown\n"
        );
        assert!(!dir.path().join("etc/ssl/certs.new").exists());
    }

    #[test]
    fn the_first_bad_certificate_is_named() {
        let good = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(std::slice::from_ref(&good)), Ok(()));
        assert_eq!(check(&[good, "x".to_owned()]), Err("custom CA certificate 1 is not a PEM block".to_owned()));
    }
}
