//! Hardware inventory.
