//! A part of the file: a header that says what it is, and the memory that is shared.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw};

use super::Wanted;
use super::clock::monotonic_nanos;
use super::register::Register;

/// Bytes of a region before its memory.
pub(super) const REGION_HEADER: u64 = HEADER_BYTES as u64;
const HEADER_BYTES: usize = 4096;

/// Bytes of the fields before the limits: five numbers of eight.
const FIXED: usize = 40;

pub(super) const LONGEST_LIMITS: usize = 2048;

/// "tollregn"
const REGION_MAGIC: u64 = u64::from_le_bytes(*b"tollregn");

/// What a region says of itself; written once, before anybody can find it.
#[derive(Debug)]
pub(super) struct Header {
    pub layout: u64,
    pub bytes: u64,
    pub boot: u64,
    /// The clock's reading that is this region's zero.
    pub epoch: u64,
    pub limits: String,
}

impl Header {
    pub fn new(wanted: &Wanted<'_>, boot: u64) -> Self {
        Self {
            layout: wanted.layout,
            bytes: wanted.bytes as u64,
            boot,
            epoch: monotonic_nanos(),
            limits: wanted.limits.to_owned(),
        }
    }

    pub fn is(&self, wanted: &Wanted<'_>, boot: u64) -> bool {
        self.boot == boot
            && self.layout == wanted.layout
            && self.bytes == wanted.bytes as u64
            && self.limits == wanted.limits
    }

    pub fn write(&self, file: BorrowedFd<'_>, start: u64) -> io::Result<()> {
        let length = self.limits.len() as u64;
        let numbers = [
            REGION_MAGIC,
            self.layout,
            self.bytes,
            self.boot,
            self.epoch,
            length,
        ];
        let mut page = Vec::with_capacity(FIXED + 8 + self.limits.len());
        for number in numbers {
            page.extend(number.to_le_bytes());
        }
        page.extend(self.limits.as_bytes());
        write_all_at(file, &page, start)
    }

    /// `None` where there is no whole region: cut short, given back, or lost with the power.
    pub fn read(file: BorrowedFd<'_>, start: u64) -> io::Result<Option<Self>> {
        let mut page = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < page.len() {
            match rustix::io::pread(file, &mut page[filled..], start + filled as u64)? {
                0 => return Ok(None),
                more => filled += more,
            }
        }
        let mut numbers = page
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight of them")));
        let mut next = || numbers.next().unwrap_or(0);
        let magic = next();
        let (layout, bytes, boot, epoch, length) = (next(), next(), next(), next(), next());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let end = start.saturating_add(REGION_HEADER).saturating_add(bytes);
        if magic != REGION_MAGIC || length > LONGEST_LIMITS || end > size_of_file(file)? {
            return Ok(None);
        }
        let limits = &page[FIXED + 8..][..length];
        Ok(std::str::from_utf8(limits).ok().map(|limits| Self {
            layout,
            bytes,
            boot,
            epoch,
            limits: limits.to_owned(),
        }))
    }
}

/// The memory of a region.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
}

impl Memory {
    /// New memory of zeros, all of it allocated: a full disk is an error here, not a signal later.
    pub fn create(register: &Register, start: u64, bytes: usize) -> io::Result<Self> {
        let zeros = vec![0; bytes + HEADER_BYTES];
        write_all_at(register.file(), &zeros, start)
            .and_then(|()| Self::map(register, start, bytes))
            .inspect_err(|_| {
                // What was written already is of no use to anybody.
                let _ = register.give_back(start, bytes as u64);
            })
    }

    pub fn map(register: &Register, start: u64, bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new()
            .offset(start + REGION_HEADER)
            .len(bytes)
            .map_raw(&register.file().as_fd())?;
        Ok(Self { map })
    }

    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    pub fn start(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("no mapping lies at address zero")
    }
}

pub(super) fn size_of_file(file: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstat(file)?.st_size.unsigned_abs())
}

pub(super) fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}
