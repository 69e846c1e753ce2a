//! The file system in a store: superblock, entries, inode numbers.
//!
//! Guarantees that a store that holds something else is not touched, that an inode number is never given
//! twice, whatever crashes, and that a lookup compares whole names, not hashes. Keeps no inodes in memory.
//! Called by `nodes` and the operations.

use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;

use anyhow::Context;
use anyhow::bail;
use foliant::Engine;
use foliant::ErrorKind;
use foliant::Object;
use fuser::Errno;

use crate::fuse::fault::Fault;
use crate::fuse::fault::Outcome;
use crate::fuse::keys;
use crate::fuse::keys::Place;
use crate::fuse::keys::Seed;
use crate::fuse::limits::ATTEMPTS_MAX;
use crate::fuse::limits::INOS_PER_GRANT;
use crate::fuse::limits::NAME_BYTES_MAX;
use crate::fuse::record::Inode;
use crate::fuse::record::Kind;
use crate::fuse::record::Record;
use crate::fuse::time::Time;

const MAGIC: &[u8; 8] = b"FOLIFUSE";
const VERSION: u32 = 1;

/// An open file system, seen from the side of the store.
#[derive(Debug)]
pub struct Store {
    /// The engine that holds it.
    pub engine: Engine,
    seed: Seed,
    superblock: Object,
    /// Asked by one creation after the other, and rarely across the commit that grants more.
    inos: tokio::sync::Mutex<Inos>,
}

#[derive(Debug)]
struct Inos {
    next: u64,
    granted: u64,
}

/// What the attributes of the superblock say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// How names become keys.
    pub seed: Seed,
    /// No inode has this number, or a higher one.
    pub granted: u64,
}

impl Superblock {
    fn encode(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        for number in [self.seed.0, self.seed.1, self.granted] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// `None` when it is none, or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
        let numbers: &[u8; 24] = rest.try_into().ok()?;
        let mut numbers = numbers
            .chunks_exact(8)
            .map(|number| number.try_into().map(u64::from_le_bytes).unwrap_or_default());
        let (a, b, granted) = (numbers.next()?, numbers.next()?, numbers.next()?);
        (granted > keys::ROOT_INO).then_some(Self { seed: Seed(a, b), granted })
    }
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry {
    /// Where in the directory.
    pub place: Place,
    /// Its name in the store.
    pub key: Vec<u8>,
    /// Its object.
    pub object: Object,
    /// What that says.
    pub record: Record,
}

impl Store {
    /// Opens the file system in `engine`; makes an empty one if the store is empty. Its root belongs to `owner`.
    pub async fn open(engine: Engine, owner: (u32, u32)) -> anyhow::Result<Self> {
        let superblock = match engine.object(keys::SUPERBLOCK).await {
            Ok(object) => object,
            Err(cause) if cause.kind() == ErrorKind::NotFound => make(&engine, owner).await?,
            Err(cause) => return Err(cause).context("looking for the superblock"),
        };
        let bytes = superblock.attributes().await.context("reading the superblock")?;
        let Some(Superblock { seed, granted }) = Superblock::decode(&bytes) else {
            bail!("the store holds something else than a file system of this version");
        };
        let inos = Inos { next: granted, granted }.into();
        Ok(Self { engine, seed, superblock, inos })
    }

    /// A number that no inode ever had. Errors: those of the commit that now and then is needed.
    pub async fn next_ino(&self) -> Outcome<u64> {
        let mut inos = self.inos.lock().await;
        if inos.next == inos.granted {
            let granted = inos.granted + INOS_PER_GRANT;
            let superblock = Superblock { seed: self.seed, granted };
            // What uses the numbers is committed behind it, so it cannot be durable without it.
            self.superblock.set_attributes(&superblock.encode()).await?;
            inos.granted = granted;
        }
        inos.next += 1;
        Ok(inos.next - 1)
    }

    /// The entry of this name, if there is one.
    pub async fn find(&self, directory: u64, name: &[u8]) -> Outcome<Option<Entry>> {
        Ok(self.spot(directory, name).await?.0)
    }

    /// The entry of this name, or the place for a new one; neither when 256 names with its hash are there.
    pub async fn spot(
        &self,
        directory: u64,
        name: &[u8],
    ) -> Outcome<(Option<Entry>, Option<Place>)> {
        let hash = self.seed.place(name);
        let taken = self.beside(directory, hash).await?;
        let is_free = |place: &Place| taken.iter().all(|entry| entry.place != *place);
        let free = (0..=u8::MAX).map(|probe| hash.probe(probe)).find(is_free);
        let is_this = |entry: &Entry| entry.record.home().is_some_and(|home| home.name == name);
        match taken.into_iter().find(is_this) {
            Some(entry) => Ok((Some(entry), None)),
            None => Ok((None, free)),
        }
    }

    /// The entries whose names have the same hash.
    async fn beside(&self, directory: u64, hash: Place) -> Outcome<Vec<Entry>> {
        let mut after = keys::entry(directory, hash);
        // The highest bytes below the first of them.
        after.pop();
        let mut found = Vec::new();
        loop {
            let names = self.engine.list(&after, 4).await?;
            let last = names.len() < 4;
            for key in names {
                match keys::parse_entry(&key) {
                    Some((of, place)) if of == directory && place.is_beside(hash) => {
                        found.extend(self.entry(place, key.clone()).await?);
                        after = key;
                    }
                    _ => return Ok(found),
                }
            }
            if last {
                return Ok(found);
            }
        }
    }

    /// The entries among the next `limit` names behind a place, all without one, in their order; and behind which
    /// place to go on.
    pub async fn page(
        &self,
        directory: u64,
        after: Option<Place>,
        limit: usize,
    ) -> Outcome<(Vec<Entry>, Option<Place>)> {
        let start = keys::directory_start(directory);
        let after = after.map_or(start, |place| keys::entry(directory, place));
        let names = self.engine.list(&after, limit).await?;
        let (whole, mut next, mut page) = (names.len() == limit, None, Vec::new());
        for key in names {
            match keys::parse_entry(&key) {
                Some((of, place)) if of == directory => {
                    next = Some(place).filter(|_| whole);
                    page.extend(self.entry(place, key).await?);
                }
                _ => return Ok((page, None)),
            }
        }
        Ok((page, next))
    }

    /// Whether nothing is in the directory.
    pub async fn is_empty(&self, directory: u64) -> Outcome<bool> {
        let first = self.engine.list(&keys::directory_start(directory), 1).await?;
        let of = first.first().and_then(|key| keys::parse_entry(key));
        Ok(of.is_none_or(|(of, _)| of != directory))
    }

    /// None if it went meanwhile.
    async fn entry(&self, place: Place, key: Vec<u8>) -> Outcome<Option<Entry>> {
        let object = match self.engine.object(&key).await {
            Ok(object) => object,
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        match object.attributes().await {
            Ok(bytes) => match Record::decode(&bytes) {
                Some(record) => Ok(Some(Entry { place, key, object, record })),
                None => Err(Fault::damaged("the record of an entry is not sound", place.number())),
            },
            Err(cause) if cause.kind() == ErrorKind::Closed => Ok(None),
            Err(cause) => Err(cause.into()),
        }
    }

    /// The object of the inode that an entry is or names. Errors: ESTALE if it went meanwhile.
    pub async fn inode_of(&self, entry: &Entry) -> Outcome<Object> {
        match &entry.record {
            Record::Inode(_) => Ok(entry.object.clone()),
            Record::Link(link) => match self.engine.object(keys::alone(link.ino)).await {
                Err(cause) if cause.kind() == ErrorKind::NotFound => Err(Fault(Errno::ESTALE)),
                found => Ok(found?),
            },
        }
    }

    /// The name in the store under which this inode lies.
    pub fn key_of(&self, inode: &Inode) -> Vec<u8> {
        match &inode.home {
            Some(home) => {
                let place = self.seed.place(&home.name).probe(home.probe);
                keys::entry(home.parent, place)
            }
            None if inode.ino == keys::ROOT_INO => keys::ROOT.to_vec(),
            None if inode.nlink == 0 => keys::orphan(inode.ino),
            None => keys::alone(inode.ino),
        }
    }

    /// How many attempts a search that meets changes may take. Errors: EAGAIN behind the last one.
    pub fn attempts() -> impl Iterator<Item = Outcome<()>> {
        let good = std::iter::repeat_n(Ok(()), ATTEMPTS_MAX);
        good.chain(std::iter::once(Err(Fault(Errno::EAGAIN))))
    }
}

/// Refuses names that cannot be.
pub fn check_name(name: &[u8]) -> Outcome<()> {
    match name {
        [] | b"." | b".." => Err(Fault(Errno::EINVAL)),
        name if name.len() > NAME_BYTES_MAX => Err(Fault(Errno::ENAMETOOLONG)),
        name if name.contains(&b'/') || name.contains(&0) => Err(Fault(Errno::EINVAL)),
        _ => Ok(()),
    }
}

/// Makes an empty file system in an empty store; gives its superblock.
async fn make(engine: &Engine, owner: (u32, u32)) -> anyhow::Result<Object> {
    if !engine.list("", 1).await.context("looking at the store")?.is_empty() {
        bail!("the store holds something else than a file system");
    }
    let random = || RandomState::new().build_hasher().finish();
    let seed = Seed(random(), random());
    let now = Time::now();
    let root = Inode::new(keys::ROOT_INO, Kind::Directory, 0o755, owner, now);
    let mut transaction = engine.transaction();
    let superblock = transaction.create(keys::SUPERBLOCK)?;
    let granted = keys::ROOT_INO + 1;
    transaction.set_attributes(&superblock, &Superblock { seed, granted }.encode())?;
    let directory = transaction.create(keys::ROOT)?;
    transaction.set_attributes(&directory, &root.encode())?;
    transaction.create(keys::RESERVE)?;
    let commit = transaction.commit().await.context("making the file system")?;
    commit.durable().await.context("making the file system")?;
    Ok(superblock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_read_back_or_refused() {
        let superblock = Superblock { seed: Seed(3, 4), granted: 99 };
        let bytes = superblock.encode();
        assert_eq!(Superblock::decode(&bytes), Some(superblock));
        assert_eq!(Superblock::decode(&bytes[1..]), None);
        assert_eq!(Superblock::decode(b""), None);
        assert_eq!(Superblock::decode(&Superblock { granted: 1, ..superblock }.encode()), None);
    }

    #[test]
    fn names_are_any_bytes_but_two() {
        let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
        assert_eq!(check_name(&all), Ok(()));
        assert_eq!(check_name(&[b'n'; 256]), Err(Fault(Errno::ENAMETOOLONG)));
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(check_name(bad), Err(Fault(Errno::EINVAL)));
        }
    }
}
