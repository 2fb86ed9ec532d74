//! Memory shared with other processes, some of which are stopped and killed.
#![cfg(any(target_os = "linux", target_os = "macos"))]

mod memory;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tollway_io::mapped::{Directory, Error, Glance};

use memory::{NAME, cell, open, private};

/// Between fork and exec a child holds what its parent holds, so that a place left meanwhile still
/// looks taken: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const CHILD: &str = "TOLLWAY_TEST_HOLDER";

/// Not a test of its own: what the other tests start as another process.
#[test]
fn holder() {
    let Some(path) = env::var_os(CHILD) else {
        return;
    };
    let directory = Directory::at(path.into()).unwrap();
    let mapped = open(&directory, "rpm=1").unwrap();
    println!("\nholds {} {}", mapped.member().slot, mapped.member().entry);
    loop {
        thread::park();
    }
}

/// Another process that holds the limiter, and the place it has.
fn start_holder(folder: &TempDir) -> (Child, String) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env(CHILD, folder.path().join("limits"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let place = output
        .lines()
        .map(|line| line.unwrap())
        .find(|line| line.starts_with("holds"))
        .unwrap();
    (child, place)
}

#[test]
fn the_dead_are_known_and_the_stopped_stand_in_nobodys_way() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, directory) = private();
    let (mut child, place) = start_holder(&folder);
    let mut numbers = place.split(' ').skip(1);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::STOP).unwrap();

    let mapped = open(&directory, "rpm=1").unwrap();
    let mut theirs = mapped.member();
    theirs.slot = numbers.next().unwrap().parse().unwrap();
    theirs.entry = numbers.next().unwrap().parse().unwrap();
    assert!(mapped.is_alive(theirs), "stopped is not dead");
    let look = Glance::at(&directory, NAME).unwrap().unwrap();
    let processes = || -> Vec<u32> {
        let participants = look.participants().into_iter();
        participants
            .map(|participant| participant.process)
            .collect()
    };
    assert_eq!(processes(), [child.id(), std::process::id()]);
    assert!(matches!(
        open(&directory, "rpm=2"),
        Err(Error::OtherLimits { .. })
    ));

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!mapped.is_alive(theirs));
    assert_eq!(processes(), [std::process::id()]);
    drop(mapped);
    assert!(open(&directory, "rpm=2").is_ok());
}

#[test]
fn a_full_disk_is_an_error_and_leaves_what_was_there() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, _) = private();
    let (mut child, _) = start_holder(&folder);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    let status = command
        .args(["--exact", "writer_with_no_room", "--nocapture"])
        .env(CHILD, folder.path().join("limits"))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Not a test of its own: a process whose files may not grow.
#[test]
fn writer_with_no_room() {
    let Some(path) = env::var_os(CHILD) else {
        return;
    };
    // SAFETY: ignores one signal, before any thread of ours could mind: the limit is then an
    // error of the call that meets it, as a full disk is.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let room = rustix::process::Rlimit {
        current: Some((1 << 17) + 10_000),
        maximum: None,
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, room).unwrap();
    let directory = Directory::at(path.into()).unwrap();
    for _ in 0..3 {
        let error = open(&directory, "rpm=9").unwrap_err();
        assert!(matches!(error, Error::System { .. }), "{error}");
    }
    let mapped = open(&directory, "rpm=1").unwrap();
    assert_eq!(cell(&mapped).load(Ordering::Relaxed), 0);
}
