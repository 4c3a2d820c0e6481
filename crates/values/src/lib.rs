//! Value formats of the REST API that have a grammar of their own. Pure text
//! to value; what a value means is the services' business.

mod duration;

pub use duration::{Duration, DurationError};
