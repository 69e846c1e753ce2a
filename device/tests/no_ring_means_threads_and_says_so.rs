//! Where the kernel gives no ring, `Auto` serves the store with threads and tells why; `Ring` refuses.
//!
//! Alone in its file: the limit that it sets holds for the whole process.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;

use foliant_device::DeviceErrorKind;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::OpenOptions;
use rustix::process::Resource;
use rustix::process::Rlimit;

#[tokio::test]
async fn no_descriptor_is_left_for_a_ring() {
    let place = support::Place::new();
    let path = place.file("store");
    std::fs::write(&path, vec![5; 1 << 20]).unwrap();
    let arena = support::arena(1);
    // The numbers that the next files will get; what the process inherited may lie between them.
    let files: [File; 3] = std::array::from_fn(|_| File::open(&path).unwrap());
    let [_, second, third] = files.map(|file| file.as_raw_fd() as u64);
    let old = rustix::process::getrlimit(Resource::Nofile);
    let only_the_file = Rlimit { current: Some(second), ..old };
    rustix::process::setrlimit(Resource::Nofile, only_the_file).unwrap();
    let auto = OpenOptions::new(&path).open().await;
    let device = auto.expect("threads need no descriptor");
    let info = device.backend();
    assert_eq!(info.name, "threads");
    assert!(info.reason.contains("no file descriptor"), "{}", info.reason);
    assert_eq!(support::read(&device, &arena, 9).await.unwrap(), vec![5; 4096]);
    device.close().await.unwrap();
    drop(device);

    let ring = OpenOptions::new(&path).backend(BackendChoice::Ring).open().await;
    let error = ring.expect_err("a ring was asked for");
    assert_eq!(error.kind, DeviceErrorKind::Unsupported, "{error}");
    assert!(error.detail.contains("no file descriptor"), "{error}");

    // One more: now the ring can be had, but not the eventfd that wakes its sleeper.
    let no_signal = Rlimit { current: Some(third), ..old };
    rustix::process::setrlimit(Resource::Nofile, no_signal).unwrap();
    let device = OpenOptions::new(&path).open().await.expect("threads need no descriptor");
    let info = device.backend();
    assert_eq!(info.name, "threads");
    assert!(info.reason.contains("eventfd"), "{}", info.reason);
    device.close().await.unwrap();

    rustix::process::setrlimit(Resource::Nofile, old).unwrap();
    let device = OpenOptions::new(&path).open().await.unwrap();
    assert_eq!(device.backend().name, "io_uring", "{}", device.backend().reason);
    device.close().await.unwrap();
}
