//! Seeds: the tar archive in the image's second partition that configures a first boot.

use std::io;

use serde_json::{Value, json};

/// The files of one seed.
#[derive(Clone, Debug, Default)]
pub struct Seed {
    files: Vec<(String, Vec<u8>)>,
}

impl Seed {
    /// A seed that lets the holder of `certificate` (PEM) manage the machine and installs no
    /// application.
    #[must_use]
    pub fn administrator(certificate: &str) -> Self {
        Self::default()
            .with(
                "incus.json",
                &json!({
                    "version": "1",
                    "preseed": {
                        "certificates": [
                            { "name": "admin", "type": "client", "certificate": certificate },
                        ],
                    },
                }),
            )
            .with("applications.json", &json!({ "version": "1", "applications": [] }))
    }

    /// The same wish with that of installing, and of restarting right after it. What is to run on the
    /// machine is left to the system: a seed that installs and names no application is refused.
    #[must_use]
    pub fn installing(mut self, install: &Value) -> Self {
        self.files.retain(|(name, _)| name != "applications.json");
        self.with("install.json", install)
    }

    /// Adds a JSON document.
    #[must_use]
    pub fn with(self, name: &str, document: &Value) -> Self {
        self.with_bytes(name, document.to_string().into_bytes())
    }

    /// Adds a file with any content, hostile ones included. A file of the same name is replaced.
    #[must_use]
    pub fn with_bytes(mut self, name: &str, content: Vec<u8>) -> Self {
        self.files.retain(|(existing, _)| existing != name);
        self.files.push((name.to_owned(), content));
        self
    }

    /// The archive, as it goes into the partition.
    ///
    /// # Errors
    ///
    /// When a file name does not fit into a tar header.
    pub fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in &self.files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn archive_holds_each_file_once_in_whole_sectors() {
        let bytes = Seed::administrator("PEM").with("applications.json", &json!({ "version": "1" })).to_tar().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let files: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().to_str().unwrap().to_owned(), text)
            })
            .collect();
        assert_eq!(files.len(), 2);
        assert!(files[0].1.contains(r#""type":"client","certificate":"PEM""#));
        assert_eq!(files[1], ("applications.json".to_owned(), r#"{"version":"1"}"#.to_owned()));
    }
}
