//! The supervisor's state document.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use api::v1::SupervisorState;
use store::{Store, StoreError};
use tonic::Status;

const SCHEMA_VERSION: u32 = 1;

/// The document, changed by one caller at a time.
#[derive(Debug, Clone)]
pub(crate) struct State {
    store: Arc<Mutex<Store<SupervisorState>>>,
}

impl State {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { store: Arc::new(Mutex::new(Store::open(dir, SCHEMA_VERSION)?)) })
    }

    pub(crate) fn get(&self) -> SupervisorState {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).get().clone()
    }

    /// Changes the document; it is on disk when this returns. Blocks for the disk.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SupervisorState)) -> Result<(), StoreError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = store.get().clone();
        change(&mut state);
        store.replace(state)
    }
}

/// What a caller is told of a document that could not be saved.
pub(crate) fn refusal(error: &StoreError) -> Status {
    let text = causes::chain(error);
    match error {
        StoreError::TooNew { .. } => Status::unavailable(text),
        _ => Status::internal(text),
    }
}
