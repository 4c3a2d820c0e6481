//! Datasets of a pool, from the JSON of `zfs list`.

use api::v1::Volume;
use serde_json::Value;

use crate::engine::pools::whole_number;

/// What `zfs list` tells of one pool: of its root, and of the datasets below.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Datasets {
    pub(crate) key: KeyStatus,
    /// Largest block, in bytes, that goes to the special devices.
    pub(crate) special_small_blocks: i64,
    /// Where the root of the pool would be mounted.
    pub(crate) mountpoint: String,
    /// Sorted by name.
    pub(crate) volumes: Vec<Volume>,
}

/// Whether the content of a pool can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum KeyStatus {
    /// Not known.
    #[default]
    Unknown,
    /// The pool is not encrypted.
    None,
    /// Its key is loaded.
    Available,
    /// Its key is not loaded.
    Unavailable,
}

impl KeyStatus {
    /// The name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::None => "NONE",
            Self::Available => "available",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The columns that [`parse`] reads.
pub(crate) const COLUMNS: &str = "name,used,quota,keystatus,mountpoint,special_small_blocks,incusos:use";

/// Why datasets could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatasetsError {
    /// The text is not JSON.
    #[error("`zfs list` printed what is not JSON")]
    Syntax(#[source] serde_json::Error),
    /// The pool is not in the list.
    #[error("`zfs list` printed no dataset `{pool}`")]
    NoRoot {
        /// The pool that was asked for.
        pool: String,
    },
}

/// Reads the output of `zfs list -r -d 1 -j -p --json-int -o <COLUMNS> <pool>`.
pub(crate) fn parse(pool: &str, output: &[u8]) -> Result<Datasets, DatasetsError> {
    let document: Value = serde_json::from_slice(output).map_err(DatasetsError::Syntax)?;
    let all = document.get("datasets").and_then(Value::as_object);
    let root = all.and_then(|all| all.get(pool)).ok_or_else(|| DatasetsError::NoRoot { pool: pool.to_owned() })?;
    let key = match text(root, "keystatus") {
        "available" => KeyStatus::Available,
        "unavailable" => KeyStatus::Unavailable,
        "-" | "none" => KeyStatus::None,
        _ => KeyStatus::Unknown,
    };
    let mut volumes: Vec<_> = all
        .into_iter()
        .flatten()
        .filter_map(|(name, dataset)| {
            let name = name.strip_prefix(pool)?.strip_prefix('/')?;
            (!name.contains(['/', '@', '#'])).then(|| Volume {
                name: name.to_owned(),
                usage_in_bytes: number(dataset, "used"),
                quota_in_bytes: number(dataset, "quota"),
                r#use: Some(text(dataset, "incusos:use")).filter(|text| !text.is_empty()).unwrap_or("-").to_owned(),
            })
        })
        .collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let special_small_blocks = number(root, "special_small_blocks");
    Ok(Datasets { key, special_small_blocks, mountpoint: text(root, "mountpoint").to_owned(), volumes })
}

fn property<'a>(dataset: &'a Value, name: &str) -> Option<&'a Value> {
    dataset.get("properties")?.get(name)?.get("value")
}

fn text<'a>(dataset: &'a Value, name: &str) -> &'a str {
    property(dataset, name).and_then(Value::as_str).unwrap_or_default()
}

fn number(dataset: &Value, name: &str) -> i64 {
    i64::try_from(property(dataset, name).map(whole_number).unwrap_or_default()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_children_of_a_pool() {
        let datasets = parse("local", include_bytes!("../../tests/fixtures/zfs-list-local.json")).unwrap();
        assert_eq!(datasets.key, KeyStatus::Available);
        assert_eq!(datasets.mountpoint, "none");
        assert_eq!(datasets.special_small_blocks, 0);
        let volumes: Vec<_> = datasets
            .volumes
            .iter()
            .map(|volume| (volume.name.as_str(), volume.usage_in_bytes, volume.quota_in_bytes, volume.r#use.as_str()))
            .collect();
        assert_eq!(
            volumes,
            [
                ("incus", 3_223_552, 0, "incus"),
                ("my-volume", 196_608, 5_368_709_120, "linstor"),
                ("vol", 73_728, 0, "-")
            ]
        );
    }

    #[test]
    fn a_pool_without_encryption() {
        // Printed by OpenZFS 2.4.4.
        let datasets = parse("tank", include_bytes!("../../tests/fixtures/zfs-list-unencrypted.json")).unwrap();
        assert_eq!(datasets.key.name(), "NONE");
        assert_eq!(datasets.special_small_blocks, 65_536);
    }

    #[test]
    fn bad_documents_are_errors() {
        assert!(matches!(parse("p", b"dataset does not exist"), Err(DatasetsError::Syntax(_))));
        assert!(matches!(parse("p", b"{}"), Err(DatasetsError::NoRoot { .. })));
        assert!(matches!(parse("p", br#"{"datasets":{"pp":{}}}"#), Err(DatasetsError::NoRoot { .. })));
    }

    #[test]
    fn only_direct_children_of_this_pool_are_volumes() {
        let output = br#"{"datasets":{"p":{},"p/a":{},"p/a/b":{},"pq/c":{},"p/a@s":{},"p":null}}"#;
        let datasets = parse("p", output).unwrap();
        assert_eq!(datasets.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(datasets.key, KeyStatus::Unknown);
    }
}
