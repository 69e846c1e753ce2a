//! A client of the network block device protocol that does what it is told, sound or not, and the
//! server, in this process or as one of its own.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use foliant::Engine;
use foliant_examples::nbd::catalog::Catalog;
use foliant_examples::nbd::listen::Address;
use foliant_examples::nbd::server;
use foliant_examples::nbd::wire;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::TempPath;
use super::process;

/// What every test waits for at most.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server in this process.
pub struct Served {
    pub path: PathBuf,
    pub stop: CancellationToken,
    task: JoinHandle<()>,
    _file: TempPath,
}

pub const TERMS: server::Terms = server::Terms { connections: 16, idle: None, handshake: PATIENCE };

pub async fn serve(engine: &Engine, name: &str, read_only: bool, terms: server::Terms) -> Served {
    let file = TempPath::new(&format!("nbd-{name}.sock"));
    let path = file.path().to_owned();
    let listener = Address::Unix(path.clone()).bind().await.unwrap();
    let stop = CancellationToken::new();
    let catalog = Catalog::new(engine.clone(), read_only);
    let task = tokio::spawn(server::run(listener, catalog, terms, stop.clone()));
    Served { path, stop, task, _file: file }
}

impl Served {
    pub async fn client(&self) -> Client {
        Client::connect(&self.path).await
    }

    /// A client that has chosen `name`, with structured replies and block status.
    pub async fn chosen(&self, name: &str) -> Client {
        let mut client = self.client().await;
        client.choose(name).await;
        client
    }

    pub async fn ended(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server does not stop").unwrap();
    }
}

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    pub errno: u32,
    pub data: Vec<u8>,
    /// Length and state of each run.
    pub runs: Vec<(u32, u32)>,
}

pub struct Client {
    pub stream: UnixStream,
    cookie: u64,
    pub size: u64,
    pub flags: u16,
}

impl Client {
    /// Connects, and takes the greeting.
    pub async fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        let mut client = Self { stream, cookie: 100, size: 0, flags: 0 };
        client.send(&3_u32.to_be_bytes()).await;
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.stream.read_exact(&mut bytes);
        tokio::time::timeout(PATIENCE, read).await.expect("no reply in time").unwrap();
        bytes
    }

    pub async fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).await.try_into().unwrap())
    }

    pub async fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take(8).await.try_into().unwrap())
    }

    /// Whether the server has hung up.
    pub async fn is_over(&mut self) -> bool {
        let read = async {
            let mut byte = [0];
            matches!(self.stream.read(&mut byte).await, Ok(0) | Err(_))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server holds on")
    }

    pub async fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes).await;
    }

    /// All answers to an option, the last one an ACK or an error.
    pub async fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data).await;
        let mut answers = Vec::new();
        loop {
            assert_eq!(self.u64().await, wire::OPTION_REPLY_MAGIC);
            assert_eq!(self.u32().await, option);
            let kind = self.u32().await;
            let len = self.u32().await as usize;
            answers.push((kind, self.take(len).await));
            if kind == wire::REP_ACK || kind > wire::REP_ERR_UNSUP - 1 {
                return answers;
            }
        }
    }

    pub async fn choose(&mut self, name: &str) {
        assert_eq!(self.option(wire::OPT_STRUCTURED_REPLY, b"").await, [(wire::REP_ACK, vec![])]);
        let mut query = counted(name);
        query.extend(1_u32.to_be_bytes());
        query.extend(counted(wire::ALLOCATION));
        let answers = self.option(wire::OPT_SET_META_CONTEXT, &query).await;
        assert_eq!(answers.len(), 2, "{answers:?}");
        self.go(name).await;
    }

    pub async fn go(&mut self, name: &str) {
        let mut data = counted(name);
        data.extend([0, 0]);
        let answers = self.option(wire::OPT_GO, &data).await;
        assert_eq!(answers.last().unwrap().0, wire::REP_ACK, "{answers:?}");
        let (kind, info) = &answers[0];
        assert_eq!((*kind, info.len(), &info[..2]), (wire::REP_INFO, 12, &[0, 0][..]));
        self.size = u64::from_be_bytes(info[2..10].try_into().unwrap());
        self.flags = u16::from_be_bytes(info[10..].try_into().unwrap());
    }

    /// Sends a request and gives its cookie.
    pub async fn request(&mut self, kind: u16, flags: u16, offset: u64, len: u32) -> u64 {
        self.cookie += 1;
        let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        self.send(&bytes).await;
        self.cookie
    }

    /// The next reply; what a simple one to a read carries is left to the caller.
    pub async fn reply(&mut self) -> Reply {
        let magic = self.u32().await;
        if magic == wire::SIMPLE_REPLY_MAGIC {
            let errno = self.u32().await;
            return Reply { cookie: self.u64().await, errno, data: vec![], runs: vec![] };
        }
        assert_eq!(magic, wire::STRUCTURED_REPLY_MAGIC);
        let kinds = self.u32().await;
        assert_eq!(kinds >> 16, u32::from(wire::REPLY_FLAG_DONE), "one chunk each");
        let cookie = self.u64().await;
        let len = self.u32().await as usize;
        let body = self.take(len).await;
        let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        let mut reply = Reply { cookie, errno: 0, data: vec![], runs: vec![] };
        match kinds as u16 {
            wire::REPLY_OFFSET_DATA => reply.data = body[8..].to_vec(),
            wire::REPLY_BLOCK_STATUS => {
                assert_eq!(word(0), wire::ALLOCATION_ID);
                reply.runs = (4..len).step_by(8).map(|at| (word(at), word(at + 4))).collect();
            }
            wire::REPLY_ERROR => reply.errno = word(0),
            other => panic!("chunk of kind {other}"),
        }
        reply
    }

    /// One request and its reply.
    pub async fn call(&mut self, kind: u16, flags: u16, offset: u64, len: u32) -> Reply {
        let cookie = self.request(kind, flags, offset, len).await;
        let reply = self.reply().await;
        assert_eq!(reply.cookie, cookie);
        reply
    }

    pub async fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        let reply = self.call(wire::CMD_READ, 0, offset, len).await;
        assert_eq!(reply.errno, 0);
        reply.data
    }

    /// Writes; gives the errno.
    pub async fn write(&mut self, flags: u16, offset: u64, bytes: &[u8]) -> u32 {
        let cookie = self.request(wire::CMD_WRITE, flags, offset, bytes.len() as u32).await;
        self.send(bytes).await;
        let reply = self.reply().await;
        assert_eq!(reply.cookie, cookie);
        reply.errno
    }

    /// The block status of the whole export, asked for until its end.
    pub async fn map(&mut self) -> Vec<(u64, u64, u32)> {
        let (mut at, mut map) = (0, Vec::new());
        while at < self.size {
            let len = u32::try_from(self.size - at).unwrap_or(u32::MAX);
            let reply = self.call(wire::CMD_BLOCK_STATUS, 0, at, len).await;
            assert!(reply.errno == 0 && !reply.runs.is_empty(), "{reply:?}");
            for (len, state) in reply.runs {
                map.push((at, at + u64::from(len), state));
                at += u64::from(len);
            }
        }
        assert_eq!(at, self.size);
        map
    }
}

pub fn counted(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// An `nbd serve` of its own.
pub struct Process {
    pub child: Child,
    pub socket: PathBuf,
}

impl Process {
    pub async fn start(store: &Path, more: &[&str]) -> Self {
        let mut socket = store.as_os_str().to_owned();
        socket.push(".sock");
        let socket = PathBuf::from(socket);
        let mut command = Command::new(env!("CARGO_BIN_EXE_nbd"));
        command.args(["serve", "--memory", "32MiB", "--store"]).arg(store);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let (child, _) = process::listening(command.args(more)).await;
        Self { child, socket }
    }

    /// The address as `libnbd` and `qemu` spell it.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    pub async fn terminate(mut self) {
        process::end(&mut self.child).await;
        assert!(!self.socket.exists(), "the socket file goes with the server");
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Runs one of the other commands of `nbd` on `store`.
pub async fn manage(store: &Path, command: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_nbd"))
        .arg(command[0])
        .args(["--memory", "32MiB", "--store-size", "256MiB", "--store"])
        .arg(store)
        .args(&command[1..])
        .output()
        .await
        .unwrap()
}
