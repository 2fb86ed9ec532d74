//! Memory shared by name: whom it is shared with, and what is not trusted.
#![cfg(any(target_os = "linux", target_os = "macos"))]

mod memory;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use rustix::process::geteuid;
use tempfile::TempDir;
use tollway_io::mapped::{Blank, Directory, Error, Glance, Mapped, Participant, Wanted};

use memory::{BYTES, NAME, cell, open, private, wanted};

/// The reason for which a file is refused.
fn why(outcome: Result<Mapped, Error>) -> &'static str {
    match outcome {
        Err(Error::Refused { why, .. }) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn all_who_name_it_share_it_and_it_outlives_them() {
    let (_folder, directory) = private();
    let one = open(&directory, "rpm=1").unwrap();
    let two = open(&directory, "rpm=1").unwrap();
    cell(&one).store(42, Ordering::Relaxed);
    assert_eq!(cell(&two).load(Ordering::Relaxed), 42);
    assert_ne!(one.member().slot, two.member().slot);
    assert!(one.is_alive(two.member()) && two.is_alive(one.member()));
    assert!(one.epoch() == two.epoch());

    let (first, second) = (one.member(), two.member());
    drop(one);
    assert!(!two.is_alive(first));
    let three = open(&directory, "rpm=1").unwrap();
    assert_eq!(three.member().slot, first.slot);
    assert!(!two.is_alive(first), "its place has another holder");
    drop((two, three));

    let mut prepared = 0;
    let four = Mapped::open(&directory, NAME, &wanted("rpm=1"), |_| prepared += 1).unwrap();
    assert_eq!((prepared, cell(&four).load(Ordering::Relaxed)), (0, 42));
    assert!(!four.is_alive(second));
    assert_eq!(directory.names().unwrap(), [NAME]);
}

#[test]
fn other_limits_are_refused_while_somebody_holds_it_and_start_clean_afterwards() {
    let (_folder, directory) = private();
    let holder = open(&directory, "rpm=1").unwrap();
    cell(&holder).store(42, Ordering::Relaxed);
    let error = open(&directory, "rpm=2").unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, Error::OtherLimits { .. }), "{said}");
    assert!(said.contains("rpm=1") && said.contains("rpm=2"), "{said}");
    let other_layout = Wanted {
        layout: 8,
        ..wanted("rpm=1")
    };
    let error = Mapped::open(&directory, NAME, &other_layout, |_| {}).unwrap_err();
    assert!(matches!(error, Error::OtherLayout(_)), "{error}");

    drop(holder);
    let mut follows = Vec::new();
    let prepare = |blank: &Blank| follows.push(blank.follows);
    let changed = Mapped::open(&directory, NAME, &wanted("rpm=2"), prepare).unwrap();
    assert_eq!(cell(&changed).load(Ordering::Relaxed), 0);
    assert_eq!(follows, [true]);
    drop(changed);
    let again = Mapped::open(&directory, NAME, &other_layout, |_| {}).unwrap();
    assert_eq!(cell(&again).load(Ordering::Relaxed), 0);
}

#[test]
fn the_first_of_all_follows_nobody() {
    let (_folder, directory) = private();
    let mut follows = Vec::new();
    let prepare = |blank: &Blank| follows.push(blank.follows);
    Mapped::open(&directory, NAME, &wanted("rpm=1"), prepare).unwrap();
    assert_eq!(follows, [false]);
}

#[test]
fn files_that_could_be_anothers_are_refused() {
    let (folder, directory) = private();
    let path = folder.path().join("limits").join(NAME);
    let elsewhere = folder.path().join("elsewhere");
    open(&directory, "rpm=1").unwrap();
    let good = fs::read(&path).unwrap();

    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert_eq!(why(open(&directory, "rpm=1")), "it is a symbolic link");
    fs::remove_file(&path).unwrap();
    fs::hard_link(&elsewhere, &path).unwrap();
    assert!(why(open(&directory, "rpm=1")).contains("hard link"));
    fs::remove_file(&elsewhere).unwrap();
    drop(open(&directory, "rpm=1").unwrap());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(why(open(&directory, "rpm=1")).contains("others may read"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    if geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1), None).unwrap();
        assert_eq!(why(open(&directory, "rpm=1")), "it belongs to another user");
    }
    fs::remove_file(&path).unwrap();

    let content: [&[u8]; 4] = [b"", b"tollway1", &vec![b'x'; 70_000], &good[1..]];
    for bytes in content {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(why(open(&directory, "rpm=1")).contains("not the file of a limiter"));
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(open(&directory, "rpm=1").is_err());
    fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_eq!(why(open(&directory, "rpm=1")), "it is not a regular file");
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("limits");
    fs::create_dir(&path).unwrap();
    for mode in [0o755, 0o710, 0o1700 | 0o007] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Directory::at(path.clone()).unwrap_err();
        assert!(error.to_string().contains("mode 0700"), "{mode:o}: {error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(Directory::at(link).is_err());
    assert!(Directory::at(path).is_ok());
}

#[test]
fn names_that_are_paths_are_refused() {
    let (_folder, directory) = private();
    let long = "x".repeat(65);
    for name in [
        "", ".", "..", ".hidden", "a/b", "../a", "a b", "é", "a\0", &long,
    ] {
        let error = Mapped::open(&directory, name, &wanted("rpm=1"), |_| {}).unwrap_err();
        assert!(matches!(error, Error::Name(_)), "{name:?}: {error}");
    }
}

#[test]
fn a_region_cut_short_or_overwritten_is_left_for_a_new_one() {
    let (folder, directory) = private();
    let path = folder.path().join("limits").join(NAME);
    cell(&open(&directory, "rpm=1").unwrap()).store(42, Ordering::Relaxed);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((1 << 16) + 5_000).unwrap();
    assert!(Glance::at(&directory, NAME).unwrap().is_none());
    let after = open(&directory, "rpm=1").unwrap();
    assert_eq!(cell(&after).load(Ordering::Relaxed), 0);
    drop(after);

    let mut bytes = fs::read(&path).unwrap();
    bytes[1 << 16..].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let mut follows = Vec::new();
    let prepare = |blank: &Blank| follows.push(blank.follows);
    let after = Mapped::open(&directory, NAME, &wanted("rpm=1"), prepare).unwrap();
    assert_eq!(
        (follows, cell(&after).load(Ordering::Relaxed)),
        (vec![true], 0)
    );
}

#[test]
fn another_boot_starts_clean() {
    let (folder, directory) = private();
    let path = folder.path().join("limits").join(NAME);
    cell(&open(&directory, "rpm=1").unwrap()).store(42, Ordering::Relaxed);
    let mut bytes = fs::read(&path).unwrap();
    // The fourth number of the region's header.
    bytes[(1 << 16) + 24] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(Glance::at(&directory, NAME).unwrap().is_none());
    let mut follows = Vec::new();
    let prepare = |blank: &Blank| follows.push(blank.follows);
    let after = Mapped::open(&directory, NAME, &wanted("rpm=1"), prepare).unwrap();
    assert_eq!(
        (follows, cell(&after).load(Ordering::Relaxed)),
        (vec![true], 0)
    );
}

#[test]
fn a_look_shows_who_is_there_and_keeps_what_it_looks_at() {
    let (_folder, directory) = private();
    assert!(Glance::at(&directory, NAME).unwrap().is_none());
    let holder = open(&directory, "rpm=1").unwrap();
    cell(&holder).store(42, Ordering::Relaxed);
    let look = Glance::at(&directory, NAME).unwrap().unwrap();
    assert_eq!(
        (look.limits(), look.layout(), look.bytes()),
        ("rpm=1", 7, BYTES)
    );
    let own = holder.member().slot;
    let alone = [Participant {
        slot: own,
        process: std::process::id(),
    }];
    assert_eq!(look.participants(), alone);
    assert!(look.is_alive(holder.member()));
    assert!(holder.epoch() == look.epoch());
    drop(holder);
    assert!(look.participants().is_empty());
    // It stands against nobody, and what it sees stays until it is gone.
    drop(open(&directory, "rpm=2").unwrap());
    // SAFETY: as long as the region, and nobody is left who could write to it.
    assert_eq!(unsafe { look.memory().cast::<u64>().read() }, 42);
}

#[test]
fn no_two_sets_of_limits_are_ever_held_at_once() {
    const SETS: [&str; 3] = ["rpm=1", "rpm=2", "rpm=3"];
    const THREADS: usize = 6;
    static HOLDERS: [AtomicI32; 3] = [const { AtomicI32::new(0) }; 3];
    let (_folder, directory) = private();
    let (directory, start) = (&directory, Barrier::new(THREADS));
    let opened: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let mut opened = 0;
                    for turn in 0..200 {
                        let set = (thread + turn) % SETS.len();
                        match open(directory, SETS[set]) {
                            Ok(mapped) => {
                                HOLDERS[set].fetch_add(1, Ordering::SeqCst);
                                for (other, holders) in HOLDERS.iter().enumerate() {
                                    let held = holders.load(Ordering::SeqCst);
                                    assert!(other == set || held == 0, "{set} beside {other}");
                                }
                                opened += 1;
                                HOLDERS[set].fetch_sub(1, Ordering::SeqCst);
                                drop(mapped);
                            }
                            Err(Error::OtherLimits { .. } | Error::OtherLayout(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    opened
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(opened > 0);
}
