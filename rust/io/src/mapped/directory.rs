//! The private directory of shared limiters, and the files in it.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::process::geteuid;

use super::error::Error;
use super::region::write_all_at;

/// Names a directory for the files of shared limiters instead of the user's own.
pub const DIRECTORY_VARIABLE: &str = "TOLLWAY_LIMITS_DIR";

const LONGEST_NAME: usize = 64;

/// A directory that belongs to this user and that nobody else can reach into.
#[derive(Debug)]
pub struct Directory {
    folder: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// The directory that `TOLLWAY_LIMITS_DIR` names, else one in `XDG_RUNTIME_DIR` where that is
    /// private, else one for this user among the temporary files. Created if absent.
    pub fn of_user() -> Result<Self, Error> {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty());
        if let Some(path) = named(DIRECTORY_VARIABLE) {
            return Self::at(PathBuf::from(path));
        }
        if let Some(runtime) = named("XDG_RUNTIME_DIR").map(PathBuf::from)
            && open_folder(&runtime).is_ok_and(|folder| is_private(&folder))
        {
            return Self::at(runtime.join("tollway"));
        }
        Self::at(env::temp_dir().join(format!("tollway-{}", geteuid().as_raw())))
    }

    /// This directory, created if absent.
    pub fn at(path: PathBuf) -> Result<Self, Error> {
        match fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::system("create", &path, error.into())),
        }
        let folder =
            open_folder(&path).map_err(|error| Error::system("open", &path, error.into()))?;
        if !is_private(&folder) {
            return Err(Error::Refused {
                path,
                why: "it must be a directory of this user that nobody else can open (mode 0700)",
            });
        }
        // Held for as long as the directory is open: what cleans temporary files by age leaves a
        // directory alone that is locked so. Nothing depends on it.
        let _ = fs::flock(&folder, FlockOperation::NonBlockingLockShared);
        Ok(Self { folder, path })
    }

    /// The names of the limiters that have a file here, sorted.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::Dir::read_from(&self.folder)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().to_str()
                    && is_name(name)
                {
                    names.push(name.to_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        read().map_err(|error| Error::system("list", &self.path, error))
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Open a limiter's file, `None` if there is none.
    pub(super) fn open(&self, name: &str) -> Result<Option<OwnedFd>, Error> {
        if !is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        // Not blocking: a pipe of that name would be waited for.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path_of(name);
        let refused = |why| {
            Err(Error::Refused {
                path: path.clone(),
                why,
            })
        };
        let file = match fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return refused("it is a symbolic link"),
            Err(error) => return Err(Error::system("open", &path, error.into())),
        };
        let stat = fs::fstat(&file).map_err(|error| Error::system("read", &path, error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return refused("it is not a regular file");
        }
        if stat.st_uid != geteuid().as_raw() {
            return refused("it belongs to another user");
        }
        if permissions(&stat) != (Mode::RUSR | Mode::WUSR) {
            return refused("others may read or write it (its mode must be 0600)");
        }
        if stat.st_nlink > 1 {
            return refused("it has a second name (a hard link)");
        }
        Ok(Some(file))
    }

    /// Create a limiter's file with these bytes in it, whole or not at all; where another process
    /// was faster its file stands.
    pub(super) fn create(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let path = self.path_of(name);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // A name of no limiter, as it begins with a dot.
        let temporary = format!(".{name}.{}.{serial}", std::process::id());
        let make = || -> io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = fs::openat(&self.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
            // The mode that was asked for is narrowed by the umask.
            fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            write_all_at(file.as_fd(), content, 0)?;
            // After a loss of power an empty file would be refused for ever.
            fs::fsync(&file)?;
            let (from, to) = (&self.folder, &self.folder);
            match fs::renameat_with(from, &temporary, to, name, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) => {
                    fs::unlinkat(&self.folder, &temporary, AtFlags::empty())?;
                }
                done => done?,
            }
            Ok(())
        };
        make().map_err(|error| {
            let _ = fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
            Error::system("create", &path, error)
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty())
}

fn is_private(folder: &OwnedFd) -> bool {
    fs::fstat(folder)
        .is_ok_and(|stat| stat.st_uid == geteuid().as_raw() && permissions(&stat) == Mode::RWXU)
}

fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode) & (Mode::RWXU | Mode::RWXG | Mode::RWXO)
}
