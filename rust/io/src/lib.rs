//! What touches the system: sockets, threads and files, for the binding crate.

pub mod client;
pub mod fork;
