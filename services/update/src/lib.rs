//! Versions, channel and provider.
