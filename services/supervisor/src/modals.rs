//! Messages over the status screen. They live as long as this service: whoever
//! has put one up renews it with its progress.

use std::collections::BTreeMap;

use api::v1;
use modal::{Category, Modal, ModalError};
use tokio::sync::watch;

/// Longest title and text. The rest of longer ones is cut off.
const TITLE_LIMIT: usize = 256;
const TEXT_LIMIT: usize = 8 << 10;

/// The messages, one of each category.
#[derive(Debug, Default)]
pub(crate) struct Modals {
    shown: watch::Sender<BTreeMap<Category, Modal>>,
}

impl Modals {
    /// Shows a message in the place of the earlier one of its category.
    pub(crate) fn show(&self, mut modal: Modal) {
        modal.title.truncate(modal.title.floor_char_boundary(TITLE_LIMIT));
        modal.text.truncate(modal.text.floor_char_boundary(TEXT_LIMIT));
        self.shown.send_if_modified(|shown| {
            let changed = shown.get(&modal.category) != Some(&modal);
            shown.insert(modal.category, modal);
            changed
        });
    }

    /// Takes the message of this category away.
    pub(crate) fn hide(&self, category: &str) -> Result<(), ModalError> {
        let category = Category::from_name(category)?;
        self.shown.send_if_modified(|shown| shown.remove(&category).is_some());
        Ok(())
    }

    /// The messages now, and whenever one changes.
    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<Category, Modal>> {
        self.shown.subscribe()
    }
}

/// The messages in the words of the schema.
pub(crate) fn listed(shown: &BTreeMap<Category, Modal>) -> v1::Modals {
    v1::Modals { modals: shown.values().cloned().map(v1::Modal::from).collect() }
}
