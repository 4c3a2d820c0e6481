//! Decisions: what the state document shows, and how a network is brought up.

pub(crate) mod bring_up;
pub(crate) mod state;
