//! Large values as the engine sees them, and commands with any bytes in them.

use foliant::Engine;
use foliant_examples::kv::store::Store;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Objects that are being written, that the tree refers to, and that it has let go of.
pub async fn objects(engine: &Engine) -> [usize; 3] {
    let mut counts = [0; 3];
    let mut after = Vec::new();
    loop {
        let names = engine.list(&after, 100).await.unwrap();
        for (count, kind) in counts.iter_mut().zip(["kv.new/", "kv.val/", "kv.old/"]) {
            *count += names.iter().filter(|name| name.starts_with(kind.as_bytes())).count();
        }
        let Some(last) = names.last() else { return counts };
        after.clone_from(last);
    }
}

/// There is an object for each large value, and no other.
pub async fn all_is_tidy(store: &Store) -> u64 {
    store.shelf().settled().await;
    let larges = store.larges();
    assert_eq!(objects(store.engine()).await, [0, larges as usize, 0], "objects");
    larges
}

pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// One reply: its first line, and the bytes behind it if it is a bulk string.
pub async fn reply(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
    let len = line.strip_prefix('$').and_then(|len| len.parse::<usize>().ok());
    let mut bytes = vec![0; len.map_or(0, |len| len + 2)];
    stream.read_exact(&mut bytes).await?;
    bytes.truncate(len.unwrap_or(0));
    Ok((line, bytes))
}

/// Sends a command and gives its reply.
pub async fn ask(stream: &mut TcpStream, words: &[&[u8]]) -> (String, Vec<u8>) {
    stream.write_all(&command(words)).await.unwrap();
    reply(stream).await.unwrap()
}
