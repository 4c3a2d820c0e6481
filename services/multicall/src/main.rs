//! Calls the service that the program was started as.
fn main() {}
