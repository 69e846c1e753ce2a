//! Long arguments on their way from the socket into objects.
//!
//! Guarantees memory of one piece for each, whatever its length, that a client which stops in the middle
//! is let go, and that what came of an unfinished command is taken away. An object that cannot be
//! written does not end the connection: the argument is read to its end, and its client hears why. Does
//! not know what commands mean. Called by `connection`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kv::command::Words;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::limits::FRAME_BYTES_MAX;
use crate::kv::limits::LONG_WAIT;
use crate::kv::limits::PIECE_BYTES;
use crate::kv::resp;
use crate::kv::resp::Begun;
use crate::kv::resp::Looked;
use crate::kv::resp::Malformed;
use crate::kv::resp::Taken;
use crate::kv::resp::Why;
use crate::kv::shelf::Shelf;
use crate::kv::shelf::Staged;

/// A command with long arguments.
#[derive(Debug, Default)]
pub struct Uploaded {
    /// What came.
    pub words: Words,
    /// Why some of it is not there.
    pub failure: Option<Error>,
}

/// The command does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The client is gone, or too slow.
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// Takes the rest of a command. Dropping the future forgets the command.
pub async fn take(
    mut begun: Begun,
    stream: &mut TcpStream,
    input: &mut BytesMut,
    shelf: &Arc<Shelf>,
) -> std::result::Result<Uploaded, Broken> {
    let (mut uploaded, mut held) = (Uploaded::default(), 0);
    loop {
        held += begun.before.iter().map(Bytes::len).sum::<usize>();
        if held > FRAME_BYTES_MAX {
            return Err(Malformed(Why::Command).into());
        }
        let words = &mut uploaded.words;
        words.plain.append(&mut begun.before);
        match store(begun.bytes, stream, input, shelf).await? {
            Ok(staged) => words.long.push((words.plain.len(), staged)),
            Err(cause) => uploaded.failure = Some(cause),
        }
        words.plain.push(Bytes::new());
        while !resp::take_line_end(input)? {
            read(stream, input).await?;
        }
        let mut looked = Looked::default();
        begun = loop {
            match resp::take_behind(input, &mut looked, begun.behind)? {
                Taken::Nothing => read(stream, input).await?,
                Taken::Command(mut rest) => {
                    words.plain.append(&mut rest);
                    return Ok(uploaded);
                }
                Taken::Long(next) => break next,
            }
        };
    }
}

/// The next `bytes` bytes become an object. The outer error is of the client, the inner one of the store.
async fn store(
    bytes: usize,
    stream: &mut TcpStream,
    input: &mut BytesMut,
    shelf: &Arc<Shelf>,
) -> io::Result<Result<Arc<Staged>>> {
    let mut staged = shelf.begin().await;
    let mut at = 0;
    while at < bytes {
        let piece = PIECE_BYTES.min(bytes - at);
        while input.len() < piece {
            read(stream, input).await?;
        }
        let piece = input.split_to(piece);
        if let Ok(value) = &staged
            && let Err(cause) = value.write(at, &piece).await
        {
            staged = Err(cause);
        }
        at += piece.len();
    }
    let Ok(value) = staged else { return Ok(staged.map(Arc::new)) };
    Ok(value.finish(bytes).await.map(|()| Arc::new(value)))
}

async fn read(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<()> {
    input.reserve(PIECE_BYTES);
    match timeout(LONG_WAIT, stream.read_buf(input)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(read) => read.map(|_| ()),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
