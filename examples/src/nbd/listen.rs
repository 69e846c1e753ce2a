//! Where clients come in: a socket file, or an address of this host.
//!
//! NBD has no authentication: whoever reaches the socket owns the disks. So an address that others
//! can reach needs an explicit word, and a socket file can be used by its owner alone.
//!
//! Guarantees that a socket file is closed to others before anybody can connect, that one left
//! behind by a killed server is replaced and one of a living server is not, and that it goes with
//! the listener. Called by `serve`, `server` and tests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::TcpListener;
use tokio::net::UnixListener;

use crate::nbd::stream::Stream;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// An address of this host; port 0 takes any.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("'unix:' is followed by a path".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("'{text}' is neither unix:PATH nor an address like 127.0.0.1:10809")
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl Address {
    /// Whether other hosts could reach it.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }

    /// Begins to listen.
    pub async fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Self::Unix(path) => bind_unix(path),
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    if UnixStream::connect(path).is_ok() {
        let why = format!("somebody listens on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    if path.try_exists()? && !is_socket(path)? {
        let why = format!("{} is there and no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let mut file = SocketFile(beside.into());
    let listener = UnixListener::bind(&file.0)?;
    std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&file.0, path)?;
    path.clone_into(&mut file.0);
    Ok(Listener::Unix(listener, file))
}

fn is_socket(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
}

/// A socket file that goes with the value.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(cause) = std::fs::remove_file(&self.0) {
            tracing::debug!("{} stays: {cause}", self.0.display());
        }
    }
}

/// A socket that takes clients.
#[derive(Debug)]
pub enum Listener {
    /// With a file.
    Unix(UnixListener, SocketFile),
    /// With an address.
    Tcp(TcpListener),
}

impl Listener {
    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
        }
    }

    /// The next client.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => {
                let (input, output) = listener.accept().await?.0.into_split();
                Ok(Stream::new(input, output))
            }
            Self::Tcp(listener) => {
                let socket = listener.accept().await?.0;
                // Replies are gathered already; waiting for more would only add a delay.
                if let Err(cause) = socket.set_nodelay(true) {
                    tracing::debug!("no nodelay: {cause}");
                }
                let (input, output) = socket.into_split();
                Ok(Stream::new(input, output))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_those_of_others_are_known() {
        let unix: Address = "unix:/tmp/a b.sock".parse().unwrap();
        assert_eq!(unix, Address::Unix("/tmp/a b.sock".into()));
        assert!(!unix.is_remote());
        for (text, remote) in
            [("127.0.0.1:10809", false), ("[::1]:1", false), ("0.0.0.0:1", true), ("[::]:1", true)]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.is_remote(), address.to_string()), (remote, text.to_owned()));
        }
        for bad in ["unix:", "localhost:10809", "/tmp/socket", ""] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
