//! Locks on single bytes of a file, which the kernel drops when their holder dies.
//!
//! They belong to the open file description: two in one process exclude each other, and closing
//! another descriptor of the same file drops nothing, as it would with POSIX's own. None is ever
//! waited for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Any number may hold it.
    Shared,
    /// One alone may hold it.
    Exclusive,
}

/// Take the lock of a byte; false where another description's stands against it.
pub(super) fn try_lock(file: BorrowedFd<'_>, kind: Kind, byte: u64) -> io::Result<bool> {
    let kind = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
    };
    match call(file, libc::F_OFD_SETLK, &mut request(kind, byte)) {
        Ok(()) => Ok(true),
        Err(error) if is_taken(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn unlock(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, byte))
}

/// Whether another description holds the byte, in whatever way. Takes nothing, so that a process
/// that stops while it asks holds nothing.
pub(super) fn is_held(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let mut lock = request(libc::F_WRLCK, byte);
    call(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != i32::from(short(libc::F_UNLCK)))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// The constants of `l_type` are `int` on one system and `short` on the other.
fn short(kind: impl Into<i32>) -> libc::c_short {
    libc::c_short::try_from(kind.into()).expect("0, 1 or 2")
}

fn request(kind: impl Into<i32>, byte: u64) -> libc::flock {
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: libc::off_t::try_from(byte).expect("far below the largest offset"),
        l_len: 1,
        // Required to be zero for locks of a description.
        l_pid: 0,
    }
}

fn call(file: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open while it is borrowed, and these commands read and write
        // one `flock`, which outlives the call.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        if answer != -1 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
