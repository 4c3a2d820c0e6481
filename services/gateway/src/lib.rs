//! Every REST listener: parsing, authentication, envelope, REST to gRPC.
