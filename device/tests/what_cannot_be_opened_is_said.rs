//! Every wrong path, size and option gives a typed error that names the path, and leaves nothing behind.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::path::Path;
use std::process::Command;

use foliant_device::Device;
use foliant_device::DeviceError;
use foliant_device::DeviceErrorKind;
use foliant_device::Persist;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::DEPTH_MAX;
use foliant_device::backend::OpenOptions;

const BACKENDS: [BackendChoice; 2] = [BackendChoice::Ring, BackendChoice::Threads];

fn assert_refused(opened: Result<Device, DeviceError>, path: &Path, kind: DeviceErrorKind) {
    let error = opened.expect_err("it must be refused");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "names no path: {error}");
}

#[tokio::test]
async fn wrong_paths() {
    let place = support::Place::new();
    let invalid = DeviceErrorKind::InvalidInput;
    let missing = place.file("missing");
    assert_refused(OpenOptions::new(&missing).open().await, &missing, invalid);
    let directory = place.file("");
    assert_refused(OpenOptions::new(&directory).open().await, &directory, invalid);
    let directory_to_create = OpenOptions::new(&directory).create_bytes(4096);
    assert_refused(directory_to_create.open().await, &directory, invalid);
    let in_missing = place.file("no/such/directory");
    let opened = OpenOptions::new(&in_missing).create_bytes(4096).open().await;
    assert_refused(opened, &in_missing, invalid);
    let null = Path::new("/dev/null");
    assert_refused(OpenOptions::new(null).open().await, null, invalid);
}

#[tokio::test]
async fn wrong_sizes_and_depths() {
    let place = support::Place::new();
    let path = place.file("store");
    let invalid = DeviceErrorKind::InvalidInput;
    let beyond = i64::MAX as u64 / 4096 * 4096;
    for bytes in [0, 1, 4095, 4097, beyond, beyond + 4096, u64::MAX] {
        for sparse in [false, true] {
            let opened = OpenOptions::new(&path).create_bytes(bytes).sparse(sparse).open().await;
            assert_refused(opened, &path, invalid);
            assert!(!path.exists(), "{bytes} bytes left a file behind");
        }
    }
    for depth in [0, DEPTH_MAX + 1, u32::MAX] {
        let opened = OpenOptions::new(&path).create_bytes(4096).depth(depth).open().await;
        assert_refused(opened, &path, invalid);
        assert!(!path.exists(), "depth {depth} left a file behind");
    }
    for depth in [1, 3, DEPTH_MAX] {
        for backend in BACKENDS {
            let options = OpenOptions::new(&path).create_bytes(4096).depth(depth);
            let device = options.backend(backend).open().await.unwrap();
            support::write(&device, &support::arena(1), 0, 1).await.unwrap();
            device.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn files_that_are_no_whole_blocks() {
    let place = support::Place::new();
    let path = place.file("store");
    for len in [0, 1, 4095] {
        std::fs::write(&path, vec![7; len]).unwrap();
        let opened = OpenOptions::new(&path).open().await;
        assert_refused(opened, &path, DeviceErrorKind::InvalidInput);
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; len], "a refused file was changed");
    }
    std::fs::write(&path, vec![7; 3 * 4096 + 100]).unwrap();
    for backend in BACKENDS {
        let device = OpenOptions::new(&path).backend(backend).open().await.unwrap();
        assert_eq!(device.geometry().blocks, 3);
        assert!(device.backend().reason.contains("not used"), "{}", device.backend().reason);
        let arena = support::arena(4);
        assert_eq!(support::read(&device, &arena, 2).await.unwrap(), vec![7; 4096]);
        let error = support::read(&device, &arena, 3).await.unwrap_err();
        assert_eq!(error.kind, DeviceErrorKind::OutOfRange);
        device.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_grows_and_never_shrinks() {
    let place = support::Place::new();
    let path = place.file("store");
    for (asked, blocks) in [(2, 2), (5, 5), (1, 5)] {
        let options = OpenOptions::new(&path).create_bytes(asked * 4096);
        let device = options.open().await.unwrap();
        assert_eq!(device.geometry().blocks, blocks);
        let arena = support::arena(2);
        if asked == 2 {
            support::write(&device, &arena, 1, 9).await.unwrap();
        }
        assert_eq!(support::read(&device, &arena, 1).await.unwrap(), vec![9; 4096]);
        device.close().await.unwrap();
    }
}

#[test]
fn outside_of_a_runtime() {
    let place = support::Place::new();
    let path = place.file("store");
    for backend in BACKENDS {
        let opening = OpenOptions::new(&path).create_bytes(4096).backend(backend).open();
        let opened = futures_util::FutureExt::now_or_never(opening).expect("opening never waits");
        assert_refused(opened, &path, DeviceErrorKind::Unsupported);
    }
}

/// A mounted file system of one MiB; filling the machine's own disk would hurt others.
struct Small(support::Place);

impl Small {
    fn new() -> Result<Self, String> {
        let place = support::Place::new();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "foliant-test"])
            .arg(place.file(""))
            .output()
            .map_err(|e| format!("mount: {e}"))?;
        match mount.status.success() {
            true => Ok(Self(place)),
            false => Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.file("")).status();
    }
}

#[tokio::test]
async fn a_full_disk() {
    let small = match Small::new() {
        Ok(small) => small,
        Err(why) => return support::skipped(&format!("no small file system to fill: {why}")),
    };
    let path = small.0.file("store");
    for backend in BACKENDS {
        let opened = OpenOptions::new(&path).create_bytes(8 << 20).backend(backend).open().await;
        assert_refused(opened, &path, DeviceErrorKind::NoSpace);
        assert!(!path.exists(), "a file that found no space is left behind");

        let options = OpenOptions::new(&path).create_bytes(8 << 20).sparse(true);
        let device = options.backend(backend).open().await.unwrap();
        assert!(device.backend().reason.contains("sparse"), "{}", device.backend().reason);
        let arena = support::arena(1024);
        let large = vec![arena.allocate(9).unwrap().into()];
        let error = device.write(100, large, Persist::Cached).await.unwrap_err();
        assert_eq!(error.kind, DeviceErrorKind::NoSpace, "{error}");
        assert_eq!((error.offset, error.len), (100 * 4096, 2 << 20), "the place is wrong");
        device.close().await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    // A file that grows in vain keeps its size and its bytes.
    std::fs::write(&path, vec![3; 8192]).unwrap();
    let opened = OpenOptions::new(&path).create_bytes(8 << 20).open().await;
    assert_refused(opened, &path, DeviceErrorKind::NoSpace);
    assert_eq!(std::fs::read(&path).unwrap(), vec![3; 8192]);
}

#[tokio::test]
async fn a_file_that_is_cut_off_while_open() {
    let place = support::Place::new();
    for backend in BACKENDS {
        let path = place.file("store");
        let options = OpenOptions::new(&path).create_bytes(64 * 4096).backend(backend);
        let device = options.open().await.unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(10 * 4096 + 512).unwrap();
        let arena = support::arena(64);
        support::read(&device, &arena, 9).await.unwrap();
        for (block, order) in [(10, 0), (8, 2), (20, 0), (0, 5)] {
            let into = vec![arena.allocate(order).unwrap()];
            let (buffers, outcome) = device.read(block, into).await;
            let error = outcome.expect_err("behind the end of the file");
            assert_eq!(error.kind, DeviceErrorKind::Io, "{error}");
            assert_eq!(error.offset, block * 4096, "{error}");
            assert_eq!(buffers.len(), 1, "the buffers come back");
        }
        device.close().await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
