//! What touches the system, so that the core need not: sockets, threads, memory between processes.

pub mod client;
pub mod fork;
#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    path = "mapped/absent.rs"
)]
pub mod mapped;
