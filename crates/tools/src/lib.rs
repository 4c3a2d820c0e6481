//! Tools of the operator: they run on ordinary machines, never on the system itself.
//!
//! [`customizer`] is an HTTP service that hands out images with a seed in them,
//! and a web page to fill in that seed; [`flasher`] does the same on the command
//! line. Both put the seed at [`media::SEED_OFFSET`] of an image that somebody else
//! built, after checking that it is one of ours and that the seed is good.

pub mod customizer;
pub mod flasher;
