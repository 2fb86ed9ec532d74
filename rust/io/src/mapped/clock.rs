//! A clock that all processes of one boot read alike.

use std::io;

/// Nanoseconds of the monotonic clock, which stands still while the machine sleeps.
///
/// That is what is wanted: a process that was admitted just before the machine was put to sleep
/// sends just after it woke, so what it was charged must still be in the window then.
pub fn monotonic_nanos() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    // CLOCK_MONOTONIC goes on in sleep here.
    #[cfg(target_os = "macos")]
    const CLOCK: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one `timespec`, which outlives the call.
    let answer = unsafe { libc::clock_gettime(CLOCK, &raw mut time) };
    debug_assert_eq!(answer, 0, "every supported system has this clock");
    // Neither is ever negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A number that differs between any two boots, and between namespaces with clocks of their own.
#[cfg(target_os = "linux")]
pub(super) fn boot() -> io::Result<u64> {
    let mut id = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    // Absent before Linux 5.6, where there is one clock for all.
    if let Ok(namespace) = std::fs::read_link("/proc/self/ns/time") {
        id.extend(namespace.as_os_str().as_encoded_bytes());
    }
    Ok(hash(&id))
}

#[cfg(target_os = "macos")]
pub(super) fn boot() -> io::Result<u64> {
    let mut id = [0_u8; 64];
    let mut length = id.len();
    // SAFETY: the name ends with a zero byte, and at most `length` bytes are written to `id`.
    let answer = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            id.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(hash(&id[..length]))
}

/// FNV-1a, 64 bits (RFC 9923).
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
