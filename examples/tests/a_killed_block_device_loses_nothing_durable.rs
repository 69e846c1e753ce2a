//! A real `nbd serve` process under load, killed with SIGKILL, opened again: what was written with
//! FUA, or answered before a flush, is there, each block is one that was written, and none is torn.
#![allow(clippy::unwrap_used)] // In a test, a failed unwrap is the failed test.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use foliant_examples::nbd::wire;
use support::Dice;
use support::TempPath;
use support::nbd::Client;
use support::nbd::Process;
use support::nbd::manage;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

const CLIENTS: u64 = 6;
/// Blocks of each client.
const BLOCKS: u64 = 64;
const BLOCK: u64 = 4096;
const ROUNDS: usize = 5;

/// What one block was told to be, in order; version 0 is zero.
#[derive(Clone)]
struct Block {
    versions: Vec<u64>,
    /// The first of them that may still be there after a crash.
    durable: usize,
}

fn content(client: u64, block: u64, version: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; BLOCK as usize];
    }
    let word = (version << 16 | client << 8 | block).to_be_bytes();
    word.iter().copied().cycle().take(BLOCK as usize).collect()
}

struct Writer {
    number: u64,
    dice: Dice,
    version: u64,
    blocks: Vec<Block>,
}

impl Writer {
    fn new(number: u64) -> Self {
        let fresh = Block { versions: vec![0], durable: 0 };
        let blocks = vec![fresh; BLOCKS as usize];
        Self { number, dice: Dice::new(number), version: 0, blocks }
    }

    fn at(&self, block: u64) -> u64 {
        (self.number * BLOCKS + block) * BLOCK
    }

    /// Works until the server dies.
    async fn work(mut self, socket: PathBuf) -> Self {
        let mut client = Client::connect(&socket).await;
        client.choose("disk").await;
        while self.step(&mut client).await.is_some() {}
        self
    }

    /// Some changes on their way at once, to different blocks, and perhaps a flush behind them.
    async fn step(&mut self, client: &mut Client) -> Option<()> {
        let mut changed = Vec::new();
        let first = self.dice.below(BLOCKS - 16);
        for number in 0..1 + self.dice.below(4) {
            let blocks = first + number * 4..first + number * 4 + 1 + self.dice.below(4);
            let fua = self.dice.below(3) == 0;
            self.change(client, blocks.clone(), fua).await?;
            changed.push((blocks, fua));
        }
        for _ in &changed {
            answer(client).await?;
        }
        for (blocks, _) in changed.into_iter().filter(|(_, fua)| *fua) {
            self.settle(blocks);
        }
        if self.dice.below(3) == 0 {
            send(client, wire::CMD_FLUSH, 0, 0, 0, &[]).await?;
            answer(client).await?;
            self.settle(0..BLOCKS);
        }
        Some(())
    }

    async fn change(
        &mut self,
        client: &mut Client,
        blocks: std::ops::Range<u64>,
        fua: bool,
    ) -> Option<()> {
        let (at, len) = (self.at(blocks.start), (blocks.end - blocks.start) * BLOCK);
        let zero = self.dice.below(6) == 0;
        let mut bytes = Vec::new();
        self.version += 1;
        for block in blocks {
            let version = if zero { 0 } else { self.version };
            self.blocks[block as usize].versions.push(version);
            bytes.extend(content(self.number, block, version));
        }
        let kind = if zero { wire::CMD_WRITE_ZEROES } else { wire::CMD_WRITE };
        let payload: &[u8] = if zero { &[] } else { &bytes };
        send(client, kind, u16::from(fua), at, len as u32, payload).await
    }

    /// Nothing older than the last version may come back.
    fn settle(&mut self, blocks: std::ops::Range<u64>) {
        for block in blocks {
            let block = &mut self.blocks[block as usize];
            block.durable = block.versions.len() - 1;
        }
    }

    async fn check(&mut self, client: &mut Client) {
        let found = client.read(self.at(0), (BLOCKS * BLOCK) as u32).await;
        for (number, found) in (0..).zip(found.chunks(BLOCK as usize)) {
            let block = &mut self.blocks[number as usize];
            let possible = &block.versions[block.durable..];
            let is = |&&version: &&u64| found == content(self.number, number, version);
            let version = possible.iter().rev().find(is).copied();
            let version = version.unwrap_or_else(|| {
                panic!(
                    "client {} block {number} begins with {:x?}; may be {possible:?} of {:?}",
                    self.number,
                    &found[..16],
                    block.versions,
                )
            });
            *block = Block { versions: vec![version], durable: 0 };
        }
    }
}

async fn send(
    client: &mut Client,
    kind: u16,
    flags: u16,
    at: u64,
    len: u32,
    payload: &[u8],
) -> Option<()> {
    let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    client.stream.write_all(&bytes).await.ok()
}

async fn answer(client: &mut Client) -> Option<()> {
    let mut reply = [0; 16];
    client.stream.read_exact(&mut reply).await.ok()?;
    assert_eq!(reply[..8], [&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4]].concat());
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_restart_and_look() {
    let store = TempPath::new("nbd-killed");
    let made = manage(store.path(), &["create", "disk", "64MiB"]).await;
    assert!(made.status.success(), "{made:?}");
    let mut writers: Vec<Writer> = (0..CLIENTS).map(Writer::new).collect();
    let mut dice = Dice::new(12);
    for round in 0..ROUNDS {
        let server = Process::start(store.path(), &["--quiet"]).await;
        let mut client = Client::connect(&server.socket).await;
        client.choose("disk").await;
        for writer in &mut writers {
            writer.check(&mut client).await;
        }
        let work = |writer: Writer| tokio::spawn(writer.work(server.socket.clone()));
        let tasks: Vec<_> = writers.drain(..).map(work).collect();
        tokio::time::sleep(Duration::from_millis(400 + dice.below(800))).await;
        server.kill().await;
        for task in tasks {
            writers.push(task.await.unwrap());
        }
        let versions: Vec<u64> = writers.iter().map(|writer| writer.version).collect();
        println!("round {round}: versions {versions:?}");
        assert!(versions.iter().all(|&version| version > round as u64));
    }
    // The socket file of a killed server is in nobody's way, and an orderly end loses nothing at all.
    let server = Process::start(store.path(), &[]).await;
    let mut client = Client::connect(&server.socket).await;
    client.choose("disk").await;
    for writer in &mut writers {
        writer.check(&mut client).await;
    }
    assert_eq!(client.write(0, 60 << 20, b"not flushed").await, 0);
    server.terminate().await;
    let server = Process::start(store.path(), &[]).await;
    let mut client = Client::connect(&server.socket).await;
    client.choose("disk").await;
    assert_eq!(client.read(60 << 20, 11).await, b"not flushed");
    server.terminate().await;
}
