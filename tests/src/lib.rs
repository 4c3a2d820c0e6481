//! Tests that cross services or need a booted machine live in `tests/`.
