//! HTTP: the API that kumod serves, and what its tools need to speak it.
pub mod api;
pub mod client;
