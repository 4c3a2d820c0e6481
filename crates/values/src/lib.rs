//! Value formats of the REST API that have a grammar of their own. Pure text
//! to value; what a value means is the services' business.

mod certificate;
mod duration;
mod size;

pub use certificate::{CertificateError, certificate_der};
pub use duration::{Duration, DurationError};
pub use size::{ByteSize, ByteSizeError};
