//! The first page of a shared file: which region is current, and who takes part.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::directory::Directory;
use super::error::Error;
use super::locks::{self, Kind};
use super::region::{REGION_HEADER, size_of_file};

/// How many can take part at once. Each limiter takes a place of its own.
pub const SLOTS: usize = 96;

/// Regions begin at multiples of this: more than a page on every system.
const GRAIN: u64 = 1 << 16;

/// Names the layout of the register and of the regions' headers.
const MAGIC: u64 = u64::from_le_bytes(*b"tollway1");

/// Bytes of the register in the file.
const BYTES: usize = 4096;

/// Which byte's lock says what: bytes from 0 that this place is taken, from here on that somebody
/// is attached to the region of this number, ...
const ATTACHED: u64 = 1 << 32;
/// ... and from here on that somebody looks at it.
const WATCHED: u64 = 1 << 33;

/// The shared page. Every field may change at any moment by the hand of another process.
#[repr(C)]
struct Page {
    magic: AtomicU64,
    /// See [`Current`].
    current: AtomicU64,
    /// Where the next region begins; bytes.
    end: AtomicU64,
    /// How many have ever taken a place.
    entered: AtomicU32,
    reserved: AtomicU32,
    /// Who took each place last: the number of its entry, and the id of its process.
    places: [AtomicU64; SLOTS],
}

const _: () = assert!(size_of::<Page>() <= BYTES);

/// The register's word: the region's number (its start in grains; 0 for none), and how often it has
/// been joined, so that a swap fails if somebody joined meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current(u64);

impl Current {
    /// Where the region begins, in bytes.
    pub fn region(self) -> Option<u64> {
        (self.number() > 0).then(|| self.start())
    }

    pub fn start(self) -> u64 {
        self.number() * GRAIN
    }

    fn number(self) -> u64 {
        self.0 >> 32
    }

    fn joined(self) -> u64 {
        self.number() << 32 | (self.0 + 1) & u64::from(u32::MAX)
    }
}

/// A place among those who share, and whose it is: two that held the same place differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The place, below [`SLOTS`].
    pub slot: usize,
    /// The how-manieth ever to enter this was.
    pub entry: u32,
}

/// Somebody who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participant {
    /// The place.
    pub slot: usize,
    /// The id of the process.
    pub process: u32,
}

#[derive(Debug)]
pub(super) struct Register {
    file: OwnedFd,
    page: MmapRaw,
    /// Set in a forked child, where `file` is no longer the register's.
    is_disowned: AtomicBool,
}

impl Register {
    pub fn open_or_create(directory: &Directory, name: &str) -> Result<Self, Error> {
        loop {
            if let Some(register) = Self::open(directory, name)? {
                return Ok(register);
            }
            let mut page = vec![0; BYTES];
            page[..8].copy_from_slice(&MAGIC.to_le_bytes());
            page[16..24].copy_from_slice(&GRAIN.to_le_bytes());
            directory.create(name, &page)?;
        }
    }

    pub fn open(directory: &Directory, name: &str) -> Result<Option<Self>, Error> {
        let Some(file) = directory.open(name)? else {
            return Ok(None);
        };
        let path = directory.path_of(name);
        let map = || -> io::Result<Option<MmapRaw>> {
            if size_of_file(file.as_fd())? < BYTES as u64 {
                return Ok(None);
            }
            MmapOptions::new().len(BYTES).map_raw(&file).map(Some)
        };
        let page = map().map_err(|error| Error::system("map", &path, error))?;
        if let Some(page) = page {
            let register = Self {
                file,
                page,
                is_disowned: AtomicBool::new(false),
            };
            if register.page().magic.load(Ordering::Relaxed) == MAGIC {
                return Ok(Some(register));
            }
        }
        Err(Error::Refused {
            path,
            why: "it is not the file of a limiter of this version; remove it once no process \
                  uses it",
        })
    }

    #[allow(clippy::cast_ptr_alignment)] // a mapping begins where a page does
    fn page(&self) -> &Page {
        // SAFETY: the mapping is aligned to a page, at least as long as a `Page` and lives as long as
        // `self`; the file never shrinks. All fields are atomics, of which any bytes are a value.
        unsafe { &*self.page.as_ptr().cast::<Page>() }
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn current(&self) -> Current {
        Current(self.page().current.load(Ordering::SeqCst))
    }

    /// Count one more who joins the region, if it is still the current one.
    pub fn join(&self, seen: Current) -> bool {
        self.swap(seen, seen.joined())
    }

    /// Make a region the current one, if nobody joined or replaced the one that was seen.
    pub fn publish(&self, seen: Current, start: u64) -> bool {
        self.swap(seen, (start / GRAIN) << 32)
    }

    fn swap(&self, seen: Current, new: u64) -> bool {
        self.page()
            .current
            .compare_exchange(seen.0, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Room for a region at the end of the file, for the caller alone: where it begins.
    pub fn reserve(&self, bytes: u64) -> io::Result<u64> {
        let end = &self.page().end;
        loop {
            let seen = end.load(Ordering::SeqCst);
            // After a loss of power the word may be older than the file.
            let start = seen.max(size_of_file(self.file())?).next_multiple_of(GRAIN);
            let new = start + bytes.next_multiple_of(GRAIN);
            if new / GRAIN > u64::from(u32::MAX) {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if end
                .compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                return Ok(start);
            }
        }
    }

    /// Return the space of a region that nobody can find any more.
    pub fn give_back(&self, start: u64, bytes: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::FallocateFlags;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let length = REGION_HEADER + bytes;
            match rustix::fs::fallocate(&self.file, flags, start, length) {
                // A file system that cannot keeps it.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (start, bytes);
            Ok(())
        }
    }

    /// Take a place; `None` if all are taken.
    pub fn enter(&self) -> io::Result<Option<Member>> {
        for slot in 0..SLOTS {
            if locks::try_lock(self.file(), Kind::Exclusive, slot as u64)? {
                let entry = self.page().entered.fetch_add(1, Ordering::SeqCst) + 1;
                let place = u64::from(entry) << 32 | u64::from(std::process::id());
                self.page().places[slot].store(place, Ordering::SeqCst);
                return Ok(Some(Member { slot, entry }));
            }
        }
        Ok(None)
    }

    pub fn is_alive(&self, member: Member) -> bool {
        let Some(place) = self.page().places.get(member.slot) else {
            return false;
        };
        // Where the system does not tell, nobody is taken for dead.
        let is_held = || {
            self.is_disowned() || locks::is_held(self.file(), member.slot as u64).unwrap_or(true)
        };
        // The place is read after the lock: its next holder writes it after taking the lock.
        is_held() && place.load(Ordering::SeqCst) >> 32 == u64::from(member.entry)
    }

    pub fn participants(&self) -> Vec<Participant> {
        let is_held = |slot: &usize| locks::is_held(self.file(), *slot as u64).unwrap_or(false);
        let participant = |slot: usize| {
            let place = self.page().places[slot].load(Ordering::SeqCst);
            Participant {
                slot,
                process: u32::try_from(place & u64::from(u32::MAX)).expect("masked"),
            }
        };
        (0..SLOTS).filter(is_held).map(participant).collect()
    }

    pub fn attach(&self, region: Current) -> io::Result<()> {
        self.share(ATTACHED + region.number())
    }

    pub fn detach(&self, region: Current) -> io::Result<()> {
        locks::unlock(self.file(), ATTACHED + region.number())
    }

    pub fn is_attached(&self, region: Current) -> io::Result<bool> {
        locks::is_held(self.file(), ATTACHED + region.number())
    }

    pub fn watch(&self, region: Current) -> io::Result<()> {
        self.share(WATCHED + region.number())
    }

    pub fn unwatch(&self, region: Current) -> io::Result<()> {
        locks::unlock(self.file(), WATCHED + region.number())
    }

    pub fn is_watched(&self, region: Current) -> io::Result<bool> {
        locks::is_held(self.file(), WATCHED + region.number())
    }

    fn share(&self, byte: u64) -> io::Result<()> {
        // Nobody takes these bytes for himself alone.
        if locks::try_lock(self.file(), Kind::Shared, byte)? {
            Ok(())
        } else {
            Err(io::Error::other("a foreign lock lies on the file"))
        }
    }

    pub fn is_disowned(&self) -> bool {
        self.is_disowned.load(Ordering::Relaxed)
    }

    /// Drop a forked child's copy of the file, with which it would hold its parent's locks.
    pub fn disown(&self) {
        self.is_disowned.store(true, Ordering::Relaxed);
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        if let Ok(nothing) = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
            // SAFETY: both descriptors are open. The number stays `self.file`'s, so that it is
            // closed once and by its owner; what it stands for is never written to.
            unsafe { libc::dup2(nothing.as_raw_fd(), self.file.as_raw_fd()) };
        }
    }
}
