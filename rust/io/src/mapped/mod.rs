//! Memory that the processes of one user share by name, and that survives any of them.
//!
//! A limiter has one file, which is never replaced and never shrinks, so that nobody who has mapped
//! it can meet the end of it. The first page is the *register*: which *region* of the file is the
//! current one, and who takes part. A region is a header that never changes and the memory that is
//! shared. Other limits, another layout or another boot take a new region further back; the
//! register's word is swapped to it when nobody is attached to the old one.
//!
//! Nothing here waits for another process. What tells the living from the dead are byte locks
//! (`locks`), each held by the one process it speaks of: a process that is stopped holds nothing
//! but its own.

mod clock;
mod directory;
mod error;
mod locks;
mod region;
mod register;

use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;

pub use clock::monotonic_nanos;
pub use directory::{DIRECTORY_VARIABLE, Directory};
pub use error::Error;
pub use register::{Member, Participant, SLOTS};

use region::{Header, LONGEST_LIMITS, Memory, REGION_HEADER};
use register::Register;

/// What a caller wants to find in the shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// How many bytes.
    pub bytes: usize,
    /// Says how they are used; two that differ never share.
    pub layout: u64,
    /// The limits that are held, in a form that errors can show. Two that differ never share.
    pub limits: &'a str,
}

/// Memory to be made ready for use; all its bytes are zero.
#[derive(Debug)]
pub struct Blank {
    /// The memory, aligned to a page.
    pub memory: NonNull<u8>,
    /// Whether an earlier region was used, of which nothing is known any more.
    pub follows: bool,
}

/// Memory shared by name, and this caller's place among those who share it.
#[derive(Debug)]
pub struct Mapped {
    register: Register,
    memory: Memory,
    header: Header,
    member: Member,
}

/// A look at memory that others share, without taking part.
#[derive(Debug)]
pub struct Glance {
    register: Register,
    memory: Memory,
    header: Header,
}

impl Mapped {
    /// Share the memory called `name`, which `prepare` makes ready where it is new.
    ///
    /// `prepare` may be called more than once: where others were faster, theirs is taken.
    pub fn open(
        directory: &Directory,
        name: &str,
        wanted: &Wanted<'_>,
        mut prepare: impl FnMut(&Blank),
    ) -> Result<Self, Error> {
        if wanted.limits.len() > LONGEST_LIMITS {
            return Err(Error::TooLong(wanted.limits.len()));
        }
        let register = Register::open_or_create(directory, name)?;
        let path = directory.path_of(name);
        let attempt = || -> io::Result<Result<Self, Error>> {
            let boot = clock::boot()?;
            let Some(member) = register.enter()? else {
                return Ok(Err(Error::Crowded(path.clone())));
            };
            loop {
                let current = register.current();
                let found = match current.region() {
                    Some(start) => Header::read(register.file(), start)?,
                    None => None,
                };
                match found {
                    Some(header) if header.is(wanted, boot) => {
                        // First the lock, then the swap: whoever wants to replace this region sees
                        // the lock, or fails because the swap came before his.
                        register.attach(current)?;
                        if register.join(current) {
                            let memory = Memory::map(&register, current.start(), wanted.bytes)?;
                            return Ok(Ok(Self {
                                register,
                                memory,
                                header,
                                member,
                            }));
                        }
                        register.detach(current)?;
                    }
                    found => {
                        if register.is_attached(current)? {
                            return Ok(Err(refusal(path.clone(), found, wanted)));
                        }
                        let start = register.reserve(REGION_HEADER + wanted.bytes as u64)?;
                        let memory = Memory::create(&register, start, wanted.bytes)?;
                        Header::new(wanted, boot).write(register.file(), start)?;
                        prepare(&Blank {
                            memory: memory.start(),
                            follows: current.region().is_some(),
                        });
                        let is_published = register.publish(current, start);
                        drop(memory);
                        if !is_published {
                            register.give_back(start, wanted.bytes as u64)?;
                        } else if let Some(old) = found
                            && !register.is_watched(current)?
                        {
                            register.give_back(current.start(), old.bytes)?;
                        }
                    }
                }
            }
        };
        match attempt() {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::system("share", &directory.path_of(name), error)),
        }
    }

    /// The shared memory, aligned to a page; all of it may be read and written while this lives.
    pub fn memory(&self) -> NonNull<u8> {
        self.memory.start()
    }

    /// The reading of [`monotonic_nanos`] from which all who share this count.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// This caller's place: no other has it while this lives.
    pub fn member(&self) -> Member {
        self.member
    }

    /// Whether this member's process has not died, and has not left.
    pub fn is_alive(&self, member: Member) -> bool {
        member == self.member || self.register.is_alive(member)
    }

    /// Give up this process's copy of the place, in the child of a fork: it is the parent's.
    /// Everything else may still be called.
    pub fn disown(&self) {
        self.register.disown();
    }

    /// Whether this is a forked child's copy, given up.
    pub fn is_disowned(&self) -> bool {
        self.register.is_disowned()
    }
}

impl Glance {
    /// Look at the memory called `name`; `None` where there is none of this boot.
    pub fn at(directory: &Directory, name: &str) -> Result<Option<Self>, Error> {
        let Some(register) = Register::open(directory, name)? else {
            return Ok(None);
        };
        let look = || -> io::Result<Option<Self>> {
            let boot = clock::boot()?;
            loop {
                let current = register.current();
                if current.region().is_none() {
                    return Ok(None);
                }
                // Its space is not given back while it is watched.
                register.watch(current)?;
                if register.current().region() == current.region() {
                    let Some(header) = Header::read(register.file(), current.start())? else {
                        return Ok(None);
                    };
                    if header.boot != boot {
                        return Ok(None);
                    }
                    let bytes = usize::try_from(header.bytes).map_err(io::Error::other)?;
                    let memory = Memory::map(&register, current.start(), bytes)?;
                    return Ok(Some(Self {
                        register,
                        memory,
                        header,
                    }));
                }
                register.unwatch(current)?;
            }
        };
        look().map_err(|error| Error::system("read", &directory.path_of(name), error))
    }

    /// The shared memory. It may be read as its users read it, written only as helping them asks.
    pub fn memory(&self) -> NonNull<u8> {
        self.memory.start()
    }

    /// How many bytes are shared.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The layout of those who share it.
    pub fn layout(&self) -> u64 {
        self.header.layout
    }

    /// The limits of those who share it, as they wrote them.
    pub fn limits(&self) -> &str {
        &self.header.limits
    }

    /// The reading of [`monotonic_nanos`] from which all who share it count.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// Whether this member's process has not died, and has not left.
    pub fn is_alive(&self, member: Member) -> bool {
        self.register.is_alive(member)
    }

    /// Who takes part now.
    pub fn participants(&self) -> Vec<Participant> {
        self.register.participants()
    }
}

fn refusal(path: PathBuf, found: Option<Header>, wanted: &Wanted<'_>) -> Error {
    match found {
        Some(header) if header.limits != wanted.limits => Error::OtherLimits {
            path,
            theirs: header.limits,
            ours: wanted.limits.to_owned(),
        },
        _ => Error::OtherLayout(path),
    }
}
