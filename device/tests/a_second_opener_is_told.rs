//! The exclusive lock: in this process, across processes, on files and block devices, and after every
//! way in which a holder can end.

#![allow(clippy::unwrap_used)] // In helpers, too: a failed unwrap is the failed test.

mod support;

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use foliant_device::Device;
use foliant_device::DeviceError;
use foliant_device::DeviceErrorKind;
use foliant_device::backend::BackendChoice;
use foliant_device::backend::OpenOptions;

const BYTES: u64 = 1 << 20;
const BACKENDS: [BackendChoice; 2] = [BackendChoice::Ring, BackendChoice::Threads];
/// Set for the second process of this test: the path it must find locked.
const HELPER: &str = "FOLIANT_TEST_LOCKED_PATH";

async fn open(path: &Path, backend: BackendChoice) -> Result<Device, DeviceError> {
    OpenOptions::new(path).backend(backend).open().await
}

async fn open_is_refused(path: &Path) {
    for backend in BACKENDS {
        let error = open(path, backend).await.expect_err("a second opener");
        assert_eq!(error.kind, DeviceErrorKind::Locked, "{error}");
        assert!(error.detail.contains(&path.display().to_string()), "{error}");
    }
}

/// The holder ends in the background, so the lock may take a moment to go.
async fn becomes_free(path: &Path) -> Device {
    for _ in 0..2000 {
        match open(path, BackendChoice::Auto).await {
            Ok(device) => return device,
            Err(e) => assert_eq!(e.kind, DeviceErrorKind::Locked, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the lock never goes");
}

#[tokio::test]
async fn a_second_opener_in_the_same_process() {
    let place = support::Place::new();
    let path = place.file("store");
    for backend in BACKENDS {
        let device = OpenOptions::new(&path).create_bytes(BYTES).backend(backend).open().await;
        let device = device.unwrap();
        open_is_refused(&path).await;
        device.close().await.unwrap();
        // The handle still lives: closing is what gives up the lock, at once.
        open(&path, backend).await.expect("the lock went with closing").close().await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_device_gives_up_its_lock() {
    let place = support::Place::new();
    let path = place.file("store");
    for backend in BACKENDS {
        let device = OpenOptions::new(&path).create_bytes(BYTES).backend(backend).open().await;
        drop(device.unwrap());
        becomes_free(&path).await.close().await.unwrap();
    }
}

#[test]
fn a_runtime_that_ends_gives_up_the_lock() {
    let place = support::Place::new();
    let path = place.file("store");
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for backend in BACKENDS {
        let first = runtime();
        let device = first.block_on(async {
            let device = OpenOptions::new(&path).create_bytes(BYTES).backend(backend).open().await;
            let device = device.unwrap();
            drop(support::write(&device, &support::arena(1), 3, 7));
            device
        });
        drop(first);
        runtime().block_on(async {
            let arena = support::arena(1);
            let gone = support::read(&device, &arena, 3).await.unwrap_err();
            assert_eq!(gone.kind, DeviceErrorKind::Gone, "{gone}");
            drop(device);
            becomes_free(&path).await.close().await.unwrap();
        });
    }
}

#[tokio::test]
async fn a_block_device_is_exclusive_too() {
    let disk = match support::Loop::new(BYTES) {
        Ok(disk) => disk,
        Err(why) => return support::skipped(&format!("no loop device to test on: {why}")),
    };
    for backend in BACKENDS {
        let device = open(&disk.path, backend).await.unwrap();
        open_is_refused(&disk.path).await;
        device.close().await.unwrap();
        open(&disk.path, backend).await.expect("closing gave it up").close().await.unwrap();
    }
}

/// A store on a loop device was closed and opened again 280 times, and then once refused as being in
/// use: a request of the former opener that had just completed still held the file, and with it
/// the claim on the device, for a moment.
#[tokio::test]
async fn a_claim_that_is_given_up_a_moment_later_does_not_refuse_the_next_opener() {
    let disk = match support::Loop::new(BYTES) {
        Ok(disk) => disk,
        Err(why) => return support::skipped(&format!("no loop device to test on: {why}")),
    };
    for backend in BACKENDS {
        let mut claim = std::fs::File::options();
        let claim = claim.read(true).custom_flags(libc::O_EXCL).open(&disk.path).unwrap();
        let given_up = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(claim);
        };
        let ((), device) = tokio::join!(given_up, open(&disk.path, backend));
        device.expect("it waits for the claim to go").close().await.unwrap();
    }
}

/// Not a test of its own: the second process of the test below.
#[tokio::test]
async fn helper_in_another_process() {
    if let Some(path) = std::env::var_os(HELPER) {
        open_is_refused(Path::new(&path)).await;
        println!("it is locked");
    }
}

#[tokio::test]
async fn a_second_opener_in_another_process() {
    let place = support::Place::new();
    let path = place.file("store");
    for backend in BACKENDS {
        let device = OpenOptions::new(&path).create_bytes(BYTES).backend(backend).open().await;
        let device = device.unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_in_another_process", "--nocapture"])
            .env(HELPER, &path)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("it is locked"), "{told}");
        device.close().await.unwrap();
    }
}
