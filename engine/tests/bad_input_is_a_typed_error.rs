//! Files that are no store, damaged stores, and arguments that make no sense: each gives an error that
//! says what and where, and touches nothing.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use foliant::Engine;
use foliant::Error;
use foliant::ErrorKind;

const BLOCK: u64 = 4096;
const STORE_BYTES: u64 = 48 << 20;

/// A file in the temporary directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("foliant-bad-input-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn flip(&self, block: u64, byte: u64) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&self.0).unwrap();
        let mut one = [0];
        file.read_exact_at(&mut one, block * BLOCK + byte).unwrap();
        file.write_all_at(&[one[0] ^ 0x10], block * BLOCK + byte).unwrap();
        file.sync_all().unwrap();
    }

    fn kinds(&self) -> Vec<(u64, u16)> {
        let bytes = std::fs::read(&self.0).unwrap();
        let blocks = bytes.chunks_exact(BLOCK as usize).enumerate();
        let kind = |b: &[u8]| u16::from_le_bytes([b[4], b[5]]);
        let address = |b: &[u8]| u64::from_le_bytes(b[8..16].try_into().unwrap());
        blocks
            .filter(|(n, b)| address(b) == *n as u64 && *n > 0)
            .map(|(n, b)| (n as u64, kind(b)))
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn store(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    Engine::format(scratch.path()).size_bytes(STORE_BYTES).run().await.unwrap();
    let engine = Engine::open(scratch.path()).memory_bytes(8 << 20).run().await.unwrap();
    let object = engine.create("object").await.unwrap();
    object.write_at(0, &vec![0xA5; 100_000]).await.unwrap();
    object.sync().await.unwrap();
    engine.close().await.unwrap();
    scratch
}

async fn refused(path: &Path) -> Error {
    match Engine::open(path).memory_bytes(8 << 20).run().await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(cause) => cause,
    }
}

#[tokio::test]
async fn a_file_that_is_not_a_store() {
    let scratch = Scratch::new("not-a-store");
    for content in [vec![], vec![0; 4096], vec![0x5A; 1 << 20], b"#!/bin/sh\n".repeat(9_000)] {
        std::fs::write(scratch.path(), &content).unwrap();
        let cause = refused(scratch.path()).await;
        let expected = [ErrorKind::NotAStore, ErrorKind::InvalidInput];
        assert!(expected.contains(&cause.kind()), "{cause:?}");
        assert_eq!(std::fs::read(scratch.path()).unwrap(), content, "the file was touched");
    }
}

#[tokio::test]
async fn a_missing_file_and_a_directory() {
    let scratch = Scratch::new("missing");
    let cause = refused(scratch.path()).await;
    assert!(cause.to_string().contains("foliant-bad-input"), "no path in {cause:?}");
    refused(&std::env::temp_dir()).await;
    assert!(!scratch.path().exists(), "opening made a file");
}

#[tokio::test]
async fn a_newer_incompatible_version() {
    let scratch = store("newer").await;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(scratch.path()).unwrap();
    for block in foliant::testing::superblocks() {
        let mut bytes = vec![0; BLOCK as usize];
        file.read_exact_at(&mut bytes, block * BLOCK).unwrap();
        foliant::testing::make_superblock_newer(&mut bytes);
        file.write_all_at(&bytes, block * BLOCK).unwrap();
    }
    assert_eq!(refused(scratch.path()).await.kind(), ErrorKind::Incompatible);
}

#[tokio::test]
async fn a_truncated_file() {
    let scratch = store("truncated").await;
    let file = std::fs::OpenOptions::new().write(true).open(scratch.path()).unwrap();
    file.set_len(STORE_BYTES - 8 * BLOCK).unwrap();
    let cause = refused(scratch.path()).await;
    assert!(matches!(cause.kind(), ErrorKind::Corrupt | ErrorKind::InvalidInput), "{cause:?}");
}

#[tokio::test]
async fn one_damaged_superblock_is_survived_and_two_are_not() {
    let scratch = store("superblocks").await;
    let copies = foliant::testing::superblocks();
    scratch.flip(copies[0], 100);
    let engine = Engine::open(scratch.path()).memory_bytes(8 << 20).run().await.unwrap();
    engine.close().await.unwrap();
    scratch.flip(copies[1], 100);
    let kind = refused(scratch.path()).await.kind();
    assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::NotAStore), "{kind:?}");
}

/// Opens, reads everything, and gives the first failure.
async fn read_everything(path: &Path) -> Result<(), Error> {
    let engine = Engine::open(path).memory_bytes(8 << 20).run().await?;
    let outcome = async {
        let object = engine.object("object").await?;
        let mut bytes = vec![0; 100_000];
        object.read_at(0, &mut bytes).await?;
        assert!(bytes.iter().all(|&b| b == 0xA5), "damage was returned as data");
        // Changing something reads the group's blocks as well.
        object.write_at(0, b"x").await?;
        object.sync().await
    }
    .await;
    let _ = engine.close().await;
    outcome
}

#[tokio::test]
async fn a_flipped_bit_in_each_kind_of_metadata_block() {
    let scratch = store("bits").await;
    let whole = std::fs::read(scratch.path()).unwrap();
    let blocks = scratch.kinds();
    let mut seen = std::collections::BTreeSet::new();
    for (block, kind) in blocks {
        for byte in [0, 9, 20, 60, 4000] {
            std::fs::write(scratch.path(), &whole).unwrap();
            scratch.flip(block, byte);
            let cause = read_everything(scratch.path()).await.expect_err("damage went unseen");
            let stopped = matches!(cause.kind(), ErrorKind::Corrupt | ErrorKind::WritesStopped);
            assert!(stopped, "block {block} of kind {kind}: {cause:?}");
            assert!(cause.to_string().contains(&block.to_string()), "no place in {cause:?}");
        }
        seen.insert(kind);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4], "kinds of blocks found");
}

#[tokio::test]
async fn a_flipped_bit_in_data() {
    let scratch = store("data").await;
    let bytes = std::fs::read(scratch.path()).unwrap();
    let data = bytes.chunks_exact(4096).position(|b| b.iter().all(|&x| x == 0xA5)).unwrap();
    scratch.flip(data as u64, 77);
    let engine = Engine::open(scratch.path()).memory_bytes(8 << 20).run().await.unwrap();
    let object = engine.object("object").await.unwrap();
    let mut found = vec![0; 100_000];
    let cause = object.read_at(0, &mut found).await.expect_err("damage went unseen");
    assert!(cause.is_corruption() && cause.to_string().contains(&data.to_string()), "{cause:?}");
    let mut end = vec![0; 1_000];
    object.read_at(98_304, &mut end).await.expect("the rest can be read");
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_device_that_is_too_small() {
    let scratch = Scratch::new("small");
    for bytes in [4096, 1 << 20, 4 << 20] {
        let made = Engine::format(scratch.path()).size_bytes(bytes).run().await;
        assert_eq!(made.expect_err("too small").kind(), ErrorKind::InvalidInput);
        let _ = std::fs::remove_file(scratch.path());
    }
}

#[tokio::test]
async fn absurd_options() {
    let scratch = store("options").await;
    for memory in [0, 1, 4096, u64::MAX] {
        let opened = Engine::open(scratch.path()).memory_bytes(memory).run().await;
        assert_eq!(opened.expect_err("absurd").kind(), ErrorKind::InvalidInput);
    }
    let again = Engine::format(scratch.path()).run().await;
    assert_eq!(again.expect_err("a store is there").kind(), ErrorKind::AlreadyExists);
    for journal in [0, 4095, u64::MAX, STORE_BYTES * 2] {
        let made = Engine::format(scratch.path()).force(true).journal_bytes(journal).run().await;
        assert_eq!(made.expect_err("absurd").kind(), ErrorKind::InvalidInput);
    }
    read_everything(scratch.path()).await.expect("nothing was touched");
}

#[tokio::test]
async fn a_second_opener() {
    let scratch = store("locked").await;
    let engine = Engine::open(scratch.path()).memory_bytes(8 << 20).run().await.unwrap();
    assert_eq!(refused(scratch.path()).await.kind(), ErrorKind::Locked);
    engine.close().await.unwrap();
    read_everything(scratch.path()).await.expect("the lock is gone");
}

#[tokio::test]
async fn names_and_offsets_out_of_range() {
    let scratch = store("arguments").await;
    let engine = Engine::open(scratch.path()).memory_bytes(8 << 20).run().await.unwrap();
    for name in [vec![], vec![b'n'; 256]] {
        assert_eq!(
            engine.create(&name).await.expect_err("bad name").kind(),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            engine.object(&name).await.expect_err("bad name").kind(),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            engine.remove(&name).await.expect_err("bad name").kind(),
            ErrorKind::InvalidInput
        );
    }
    for name in [vec![b'n'; 255], vec![0], vec![0xFF; 255], b"a/b\n".to_vec()] {
        engine.create(&name).await.expect("bytes are bytes");
        assert_eq!(engine.create(&name).await.expect_err("taken").kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(engine.object("nobody").await.expect_err("none").kind(), ErrorKind::NotFound);
    let object = engine.object("object").await.unwrap();
    let size = object.size();
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
        let cause = object.write_at(offset, b"ab").await.expect_err("out of range");
        assert_eq!(cause.kind(), ErrorKind::InvalidInput);
        let mut transaction = engine.transaction();
        let cause = transaction.write_at(&object, offset, b"ab").expect_err("out of range");
        assert_eq!(cause.kind(), ErrorKind::InvalidInput);
    }
    for bad in [1 << 63, u64::MAX] {
        assert_eq!(object.truncate(bad).await.expect_err("range").kind(), ErrorKind::InvalidInput);
        assert_eq!(
            object.preallocate(0..bad).await.expect_err("range").kind(),
            ErrorKind::InvalidInput
        );
    }
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = object.punch(9..3).await;
    assert_eq!(backwards.expect_err("backwards").kind(), ErrorKind::InvalidInput);
    assert_eq!(object.size(), size, "a refused call changed something");
    object.write_at(u64::MAX, b"").await.expect_err("even an empty write must be in range");
    object.write_at(5, b"").await.expect("nothing to do");
    assert_eq!(object.read_at(size, &mut [0; 8]).await.unwrap(), 0);
    engine.remove("object").await.unwrap();
    assert_eq!(object.read_at(0, &mut [0; 8]).await.expect_err("gone").kind(), ErrorKind::Closed);
    assert_eq!(object.write_at(0, b"x").await.expect_err("gone").kind(), ErrorKind::Closed);
    engine.close().await.unwrap();
}
