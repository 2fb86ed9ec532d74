//! What touches the system, so that the core need not.

#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    path = "mapped/absent.rs"
)]
pub mod mapped;
