//! Random operations on one file through a mount, compared with plain bytes in memory after each: reads and writes
//! through the page cache, past it, and through a memory map; truncation, holes, zeroes, room, fsync, closing and
//! opening, and another mount in between.
//!
//! By hand: `FOLIANT_FSX=1000000 FOLIANT_FSX_SEEDS=3 cargo test --release -p foliant-examples --test
//! a_mounted_file_behaves_like_plain_bytes -- --nocapture`
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use rustix::fs::FallocateFlags;
use support::Dice;
use support::fuse::Ground;
use support::process::is_there;

const FILE_BYTES_MAX: u64 = 400_000;
const IO_BYTES_MAX: u64 = 70_000;

/// A memory map needs `unsafe`, which this crate forbids; so another process maps.
const MAPPER: &str = r#"
import mmap, os, struct, sys
path, i, o = sys.argv[1], sys.stdin.buffer, sys.stdout.buffer
fd = os.open(path, os.O_RDWR)
while True:
    head = i.read(17)
    if len(head) < 17: break
    kind, at, size = struct.unpack("<BQQ", head)
    m = mmap.mmap(fd, os.fstat(fd).st_size)
    if kind == 0: o.write(m[at:at+size])
    else:
        m[at:at+size] = i.read(size)
        if kind == 2: m.flush()
        o.write(b".")
    o.flush()
    m.close()
"#;

struct Mapper {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Mapper {
    fn start(path: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", MAPPER])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn ask(&mut self, kind: u8, at: u64, bytes: &[u8], answer: &mut [u8]) {
        let len = if kind == 0 { answer.len() } else { bytes.len() } as u64;
        let head = [&[kind][..], &at.to_le_bytes(), &len.to_le_bytes()].concat();
        self.input.write_all(&head).unwrap();
        self.input.write_all(bytes).unwrap();
        self.input.flush().unwrap();
        self.output.read_exact(answer).unwrap();
    }

    fn read(&mut self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ask(0, at, &[], &mut bytes);
        bytes
    }

    fn write(&mut self, at: u64, bytes: &[u8], flush: bool) {
        self.ask(if flush { 2 } else { 1 }, at, bytes, &mut [0]);
    }

    fn end(self) {
        let Self { mut child, input, output } = self;
        drop((input, output));
        child.wait().unwrap();
    }
}

/// Memory that direct I/O takes.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![0; IO_BYTES_MAX as usize + 3 * 4096])
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(4096);
        &mut self.0[start..start + len]
    }
}

struct Run {
    dice: Dice,
    model: Vec<u8>,
    file: File,
    direct: File,
    aligned: Aligned,
    mapper: Option<Mapper>,
    history: Vec<String>,
}

fn open(path: &Path, direct: bool) -> File {
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(false);
    if direct {
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
    }
    options.open(path).unwrap()
}

impl Run {
    fn new(path: &Path, dice: Dice, model: Vec<u8>, maps: bool) -> Self {
        let (file, direct) = (open(path, false), open(path, true));
        let mapper = maps.then(|| Mapper::start(path));
        Self { dice, model, file, direct, aligned: Aligned::new(), mapper, history: Vec::new() }
    }

    /// A range to write to; it may end behind the file.
    fn range(&mut self) -> (u64, usize) {
        let at = self.dice.below(FILE_BYTES_MAX - 1);
        let len = 1 + self.dice.below(IO_BYTES_MAX.min(FILE_BYTES_MAX - at));
        (at, len as usize)
    }

    /// A range within the file.
    fn within(&mut self) -> Option<(u64, usize)> {
        let size = self.model.len() as u64;
        let at = self.dice.below(size.max(1));
        let len = 1 + self.dice.below(IO_BYTES_MAX.min(size.saturating_sub(at)).max(1));
        (at + len <= size).then_some((at, len as usize))
    }

    fn block_range(&mut self) -> (u64, usize) {
        let at = self.dice.below(FILE_BYTES_MAX / 4096) * 4096;
        (at, 4096 * (1 + self.dice.below(16) as usize))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[at as usize..end].copy_from_slice(bytes);
    }

    fn clear(&mut self, at: u64, len: usize) {
        let end = (at as usize + len).min(self.model.len());
        if (at as usize) < end {
            self.model[at as usize..end].fill(0);
        }
    }

    fn expect(&self, at: u64, found: &[u8], how: &str) {
        let at = at as usize;
        let expected =
            &self.model[at.min(self.model.len())..(at + found.len()).min(self.model.len())];
        if found == expected {
            return;
        }
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        let tail = &self.history[self.history.len().saturating_sub(30)..];
        let (len, expected) = (found.len(), expected.len());
        panic!("{how} at {at}, {len} of {expected} bytes: differs at +{first:?}, after {tail:#?}");
    }

    fn step(&mut self) {
        let kind = self.dice.below(100);
        self.history.push(format!("{kind} with {} bytes", self.model.len()));
        match kind {
            0..22 => {
                let (at, len) = self.range();
                let bytes = self.dice.bytes(len);
                self.file.write_all_at(&bytes, at).unwrap();
                self.put(at, &bytes);
                self.note("write", at, len);
            }
            22..42 => {
                let (at, len) = self.range();
                let mut bytes = vec![0; len];
                let read = read_full(&self.file, &mut bytes, at);
                self.expect(at, &bytes[..read], "read");
            }
            42..52 => self.write_direct(),
            52..62 => {
                let (at, len) = self.block_range();
                let len = len.min(IO_BYTES_MAX as usize);
                let read = read_full(&self.direct, self.aligned.bytes(len), at);
                let found = self.aligned.bytes(len)[..read].to_vec();
                self.expect(at, &found, "direct read");
            }
            62..72 => self.map(),
            72..78 => {
                let size = self.dice.below(FILE_BYTES_MAX);
                self.file.set_len(size).unwrap();
                self.model.resize(size as usize, 0);
                self.note("truncate", size, 0);
            }
            78..92 => self.allocate(),
            92..96 => self.file.sync_all().unwrap(),
            _ => self.file.sync_data().unwrap(),
        }
        let size = self.file.metadata().unwrap().len();
        assert_eq!(size, self.model.len() as u64, "after {:?}", self.history.last());
    }

    fn note(&mut self, what: &str, at: u64, len: usize) {
        self.history.push(format!("{what} {at}+{len}"));
    }

    fn write_direct(&mut self) {
        let (at, len) = self.block_range();
        let len = len.min(IO_BYTES_MAX as usize / 4096 * 4096);
        let bytes = self.dice.bytes(len);
        self.aligned.bytes(len).copy_from_slice(&bytes);
        self.direct.write_all_at(self.aligned.bytes(len), at).unwrap();
        self.put(at, &bytes);
        self.note("direct write", at, len);
    }

    fn map(&mut self) {
        let Some((at, len)) = self.within() else { return };
        let kind = self.dice.below(4);
        let bytes = self.dice.bytes(len);
        let Some(mapper) = &mut self.mapper else { return };
        if kind < 2 {
            let found = mapper.read(at, len);
            return self.expect(at, &found, "map read");
        }
        mapper.write(at, &bytes, kind == 2);
        self.put(at, &bytes);
        self.note("map write", at, len);
    }

    fn allocate(&mut self) {
        let (at, len) = self.range();
        let kind = self.dice.below(5);
        let keep = FallocateFlags::KEEP_SIZE;
        let mode = match kind {
            0 | 1 => FallocateFlags::PUNCH_HOLE | keep,
            2 => FallocateFlags::ZERO_RANGE | keep,
            3 => FallocateFlags::ZERO_RANGE,
            _ => FallocateFlags::empty(),
        };
        rustix::fs::fallocate(&self.file, mode, at, len as u64).unwrap();
        if kind != 4 {
            self.clear(at, len);
        }
        let end = at as usize + len;
        if kind > 2 && self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.note(&format!("fallocate {mode:?}"), at, len);
    }

    fn end(self) -> (Dice, Vec<u8>) {
        if let Some(mapper) = self.mapper {
            mapper.end();
        }
        (self.dice, self.model)
    }
}

/// As much as there is.
fn read_full(file: &File, bytes: &mut [u8], at: u64) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64).unwrap() {
            0 => break,
            read => done += read,
        }
    }
    done
}

async fn exercise(ground: &Ground, seed: u64, operations: u64, maps: bool) {
    let (mut dice, mut model) = (Dice::new(seed), Vec::new());
    let _ = std::fs::remove_file(ground.store());
    let stretch = (operations / 4).max(1);
    let mut done = 0;
    while done < operations {
        // Little memory, so that the store is read and written, not only its cache.
        let mounted = ground.mount_with(&["--store-size", "128MiB", "--memory", "8MiB"]).await;
        let path = mounted.path("file");
        let end = operations.min(done + stretch);
        while done < end {
            let mut run = Run::new(&path, dice, model, maps);
            // Closed and opened again now and then.
            for _ in 0..(end - done).min(2_000) {
                run.step();
                done += 1;
            }
            (dice, model) = run.end();
        }
        assert!(std::fs::read(&path).unwrap() == model, "all of it after {done}");
        match dice.below(2) {
            0 => mounted.unmount().await,
            _ => mounted.terminate().await,
        }
        ground.is_sound().await;
    }
    println!("seed {seed}: {operations} operations");
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buffered_direct_and_mapped() {
    let Some(ground) = Ground::new("fsx") else { return };
    let maps = is_there("python3", "python3");
    let (first, count) = (number("FOLIANT_FSX_SEED", 1), number("FOLIANT_FSX_SEEDS", 1));
    for seed in first..first + count {
        exercise(&ground, seed, number("FOLIANT_FSX", 4_000), maps).await;
    }
}
