//! Decisions: functions from what was read to what it means or what to do.
//! Nothing here opens a file or starts a program.

pub(crate) mod block;
pub(crate) mod bring_up;
pub(crate) mod datasets;
pub(crate) mod document;
pub(crate) mod drives;
pub(crate) mod label;
pub(crate) mod pools;
pub(crate) mod smart;
