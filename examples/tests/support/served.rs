//! A server on a store in memory, with a clock that tests move, and clients that compare replies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foliant::Engine;
use foliant_device::Device;
use foliant_examples::kv::clock::Clock;
use foliant_examples::kv::options::Options;
use foliant_examples::kv::server;
use foliant_examples::kv::store::Store;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::MIB;
use super::engine_in_memory;
use super::reopen;

/// Where the clock of a test server starts, in milliseconds.
pub const START: u64 = 1_000_000_000_000;

pub struct Running {
    pub device: Device,
    pub engine: Engine,
    pub store: Store,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
    pub time: Arc<AtomicU64>,
}

pub async fn start() -> Running {
    start_with(Options::default()).await
}

/// The clock of the options is replaced by one that stands still.
pub async fn start_with(options: Options) -> Running {
    let (device, engine) = engine_in_memory(64 * MIB, 16 * MIB).await;
    serve(device, engine, options, Arc::new(AtomicU64::new(START))).await
}

async fn serve(
    device: Device,
    engine: Engine,
    mut options: Options,
    time: Arc<AtomicU64>,
) -> Running {
    let store = Store::open_with(&engine, "kv", options.promise).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let now = time.clone();
    options.clock = Clock::new(move || now.load(Ordering::SeqCst));
    let task = tokio::spawn(server::run(listener, store.clone(), options, stop.clone()));
    Running { device, engine, store, address, stop, task, time }
}

impl Running {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends words as commands, one per line, and compares all replies.
    pub async fn expect(&self, commands: &str, replies: &str) {
        say(&mut self.connect().await, commands, replies).await;
    }

    /// Time goes on.
    pub fn pass(&self, millis: u64) {
        self.time.fetch_add(millis, Ordering::SeqCst);
    }

    async fn halt(self) -> (Device, Arc<AtomicU64>) {
        self.stop.cancel();
        timeout(Duration::from_secs(5), self.task).await.expect("the server hangs").unwrap();
        self.store.close().await;
        self.engine.close().await.unwrap();
        (self.device, self.time)
    }

    pub async fn stop(self) {
        self.halt().await;
    }

    /// Stops, and starts again on the same device and clock.
    pub async fn restart(self) -> Running {
        let (device, time) = self.halt().await;
        let engine = reopen(&device, 16 * MIB).await;
        serve(device, engine, Options::default(), time).await
    }
}

pub fn pipeline(commands: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        bytes.extend(format!("*{}\r\n", words.len()).bytes());
        words.iter().for_each(|w| bytes.extend(format!("${}\r\n{w}\r\n", w.len()).bytes()));
    }
    bytes
}

pub async fn expect(stream: &mut TcpStream, replies: &str) {
    let mut found = vec![0; replies.len()];
    let reading = stream.read_exact(&mut found);
    timeout(Duration::from_secs(10), reading).await.expect("no reply").unwrap();
    assert_eq!(String::from_utf8_lossy(&found), replies);
}

/// Sends words as commands over a connection that stays, one per line, and compares all replies.
pub async fn say(stream: &mut TcpStream, commands: &str, replies: &str) {
    stream.write_all(&pipeline(commands)).await.unwrap();
    expect(stream, replies).await;
}

/// As `say`, for one command after the other: `command => reply`, the reply with blanks for line ends.
pub async fn talk(stream: &mut TcpStream, lines: &str) {
    for line in lines.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let (command, reply) = line.split_once(" => ").expect("command => reply");
        println!("{line}");
        stream.write_all(&pipeline(command)).await.unwrap();
        let whole = reply.starts_with(['-', '+']);
        let reply = if whole { reply.to_owned() } else { reply.replace(' ', "\r\n") };
        expect(stream, &format!("{reply}\r\n")).await;
    }
}

/// All that comes until the server closes.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut found = Vec::new();
    let reading = stream.read_to_end(&mut found);
    timeout(Duration::from_secs(10), reading).await.expect("not closed").unwrap();
    String::from_utf8_lossy(&found).into_owned()
}
