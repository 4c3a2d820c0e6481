//! Hardware inventory.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
/// Reader.
#[derive(Debug, Clone)]
pub struct Inventory {
    _root: PathBuf,
    _facts: BTreeMap<String, String>,
}
impl Inventory {
    /// Reader below `root`.
    pub fn below(root: &Path, facts: BTreeMap<String, String>) -> Self {
        Self { _root: root.into(), _facts: facts }
    }
    /// Takes it.
    pub fn take(&self) -> api::v1::Resources {
        api::v1::Resources::default()
    }
}
