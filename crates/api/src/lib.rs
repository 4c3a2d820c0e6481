//! The one schema of the system.
//!
//! A message of `proto/incusos/v1` is at the same time the gRPC payload between
//! services, the JSON of the REST API, the YAML of a seed and the payload of a
//! state document. This crate holds the generated code, and by hand only what
//! JSON needs beyond it: leniency on input and the response envelope.
//!
//! It knows nothing of validation or behaviour; services convert a message into
//! their own checked types once, at their edge.

mod envelope;
mod json;

pub use envelope::{Envelope, NoPayload};

/// Messages, clients and servers of package `incusos.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::cast_possible_truncation,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("incusos.v1");
}

/// The encoded `FileDescriptorSet` of the schema, comments included.
pub const SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.binpb"));
