//! What the endpoints do. Each is a function from a [`Call`](crate::dispatch::Call) to an answer.

pub(crate) mod console;
pub(crate) mod debug;
pub(crate) mod lists;
pub(crate) mod power;
pub(crate) mod report;
pub(crate) mod server;
pub(crate) mod system;
