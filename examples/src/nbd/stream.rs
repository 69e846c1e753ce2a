//! A client's bytes in both directions, whatever kind of socket carries them.
//!
//! Guarantees that no read or write of a frame waits for ever: each piece of a frame that has begun
//! has a bound. Does not understand frames. Called by `handshake`, `session` and `outbox`.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::time::Duration;

use bytes::Buf;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::time::timeout;

use crate::nbd::limits::FRAME_WAIT;
use crate::nbd::limits::PAYLOAD_BYTES_AT_ONCE;
use crate::nbd::limits::SEND_WAIT;

/// Many small requests come with one system call; a payload goes past the buffer.
const READ_BYTES: usize = 64 << 10;
/// What has to go within one wait.
const PIECE_BYTES: usize = 256 << 10;

/// What comes from a client.
pub type Input = BufReader<Box<dyn AsyncRead + Send + Unpin>>;
/// What goes to a client.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A connected client.
pub struct Stream {
    /// What it says.
    pub input: Input,
    /// What it hears.
    pub output: Output,
}

impl Stream {
    /// Puts the halves of a socket together.
    pub fn new(
        input: impl AsyncRead + Send + Unpin + 'static,
        output: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let input: Box<dyn AsyncRead + Send + Unpin> = Box::new(input);
        Self { input: BufReader::with_capacity(READ_BYTES, input), output: Box::new(output) }
    }
}

/// The next `N` bytes. Errors: the client is gone or too slow.
pub async fn take<const N: usize>(input: &mut Input) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    within(FRAME_WAIT, input.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

/// The next `len` bytes, which the caller has bounded. Memory is taken as they come.
pub async fn take_payload(input: &mut Input, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len.min(PAYLOAD_BYTES_AT_ONCE));
    while bytes.len() < len {
        let left = (len - bytes.len()) as u64;
        if within(FRAME_WAIT, (&mut *input).take(left).read_buf(&mut bytes)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

/// Drops the next `len` bytes, however many.
pub async fn skip(input: &mut Input, len: u32) -> io::Result<()> {
    let mut left = u64::from(len);
    let mut bytes = vec![0; READ_BYTES.min(len as usize)];
    while left > 0 {
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match within(FRAME_WAIT, input.read(&mut bytes[..most])).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read as u64,
        }
    }
    Ok(())
}

/// Sends all of `bytes`; a client that takes too long for a piece of them is given up.
pub async fn send(output: &mut Output, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(PIECE_BYTES) {
        within(SEND_WAIT, output.write_all(piece)).await?;
    }
    Ok(())
}

/// The same for bytes in several places, which go with one system call if the socket takes them. Dropping the
/// future leaves in `parts` what was not sent.
pub async fn send_parts(output: &mut Output, parts: &mut Parts) -> io::Result<()> {
    while parts.has_remaining() {
        let left = parts.remaining().saturating_sub(PIECE_BYTES);
        let piece = async {
            while parts.remaining() > left {
                if output.write_buf(parts).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Ok(())
        };
        within(SEND_WAIT, piece).await?;
    }
    Ok(())
}

/// Bytes in several places, none of them empty.
#[derive(Debug, Default)]
pub struct Parts(VecDeque<Bytes>);

impl Parts {
    /// Appends `part`.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.0.push_back(part);
        }
    }

    /// Copies all of them, so that nothing is kept of where they lay.
    pub fn copy_out(&mut self) {
        self.0.iter_mut().for_each(|part| *part = Bytes::copy_from_slice(part));
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| part.as_ref())
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pairs = slices.iter_mut().zip(&self.0);
        pairs.map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.0.front_mut().expect("no more than there is");
            let gone = count.min(first.len());
            first.advance(gone);
            count -= gone;
            if first.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

async fn within<T>(bound: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(bound, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_one_run_of_bytes() {
        let mut parts = Parts::default();
        for part in [&b"abc"[..], b"", b"d", b"efgh"] {
            parts.push(Bytes::from_static(part));
        }
        let mut seen = Vec::new();
        for step in [1, 2, 3, 0, 2] {
            assert_eq!(parts.remaining() + seen.len(), 8);
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = parts.chunks_vectored(&mut slices);
            let whole: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
            assert!(whole.starts_with(parts.chunk()));
            assert_eq!([seen.as_slice(), &whole].concat(), b"abcdefgh");
            seen.extend(&whole[..step]);
            parts.advance(step);
        }
        assert!(!parts.has_remaining());
    }
}
