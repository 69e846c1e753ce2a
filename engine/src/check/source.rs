//! A store that is looked at without being opened: read through an overlay, replayed in memory.
//!
//! Guarantees that the device is only read: what replay brings home stays in memory, bounded by
//! [`Options::memory_bytes`] and [`Options::replay_bytes`]. Damage on the way becomes findings, and what
//! can still be read is read. Does not look behind the root. Called by the rest of the room.

use foliant_device::Arena;
use foliant_device::Buffer;
use foliant_device::Device;
use foliant_device::wrap::overlay::OverlayDevice;

use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::report::Report;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::block;
use crate::format::block::BODY;
use crate::format::block::BlockKind;
use crate::format::journal_header::Slot;
use crate::format::layout::JOURNAL_HEADERS;
use crate::format::layout::Layout;
use crate::format::layout::SUPERBLOCKS;
use crate::format::root::Root;
use crate::format::superblock::Superblock;
use crate::journal::ring::Ring;
use crate::kit::memory::Memory;
use crate::kit::memory::Purpose;
use crate::meta::recover;
use crate::meta::recover::Gap;
use crate::meta::view::BlockRead;
use crate::units::BLOCK;
use crate::units::BlockNo;

/// Smallest [`Options::memory_bytes`].
pub const MEMORY_BYTES_MIN: u64 = 2 << 20;

/// How far a look has come, in blocks that belong to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Looked at.
    pub done: u64,
    /// In use, as the root says.
    pub of: u64,
}

/// How to look at a store.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Whether the checksum of every data block is compared, too: then everything stored is read.
    pub data: bool,
    /// Memory for blocks that are read, at least 2 MiB. Beside it a look keeps 1 bit per block of the
    /// groups in use and 32 bytes per name.
    pub memory_bytes: u64,
    /// Most memory for what replay brings home; a log that names more blocks is refused.
    pub replay_bytes: u64,
    /// Findings that are kept; the others are counted.
    pub findings_max: usize,
    /// Told now and then how far it is.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            data: true,
            memory_bytes: 16 << 20,
            replay_bytes: 1 << 30,
            findings_max: 1000,
            progress: None,
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { data, memory_bytes, replay_bytes, findings_max, .. } = self;
        write!(f, "Options({data}, {memory_bytes}, {replay_bytes}, {findings_max})")
    }
}

impl Options<'_> {
    pub(super) fn tell(&self, done: u64, of: u64) {
        if let Some(progress) = self.progress {
            progress(Progress { done, of });
        }
    }
}

/// What is known of the store before its trees are looked at.
#[derive(Debug)]
pub struct Source {
    /// The overlay.
    pub device: Device,
    /// For what is read.
    pub memory: Memory,
    /// What never changes.
    pub superblock: Superblock,
    /// Where everything lies.
    pub layout: Layout,
    /// The sound journal headers.
    pub slots: [Option<Slot>; 2],
    /// Where the trees start.
    pub root: Root,
}

impl Source {
    /// Reads what must be known first and replays the log in memory. `None`: the damage is such that
    /// nothing behind it can be found; the report says why.
    ///
    /// Errors: `NotAStore`, `Incompatible`, `InvalidInput` (the device is smaller than the store, too little
    /// memory), `NoSpace` (replay needs more than its bound), `OutOfMemory`, `Device` when nothing can be read.
    pub async fn open(
        device: &Device,
        options: &Options<'_>,
        report: &mut Report,
    ) -> Result<Option<Self>> {
        if options.memory_bytes < MEMORY_BYTES_MIN {
            let why =
                format!("{} bytes of memory, at least {MEMORY_BYTES_MIN}", options.memory_bytes);
            return Err(Error::invalid(why));
        }
        let bytes = usize::try_from(options.memory_bytes)
            .map_err(|_| Error::invalid("the memory exceeds the address space"))?;
        let memory = Memory::over(Arena::new(bytes)?);
        let kept = usize::try_from(options.replay_bytes / BLOCK).unwrap_or(usize::MAX);
        let device = Device::new(OverlayDevice::new(device.clone(), kept));
        let Some(superblock) = superblock(&device, &memory, report).await? else {
            return Ok(None);
        };
        let layout = superblock.layout()?;
        let slots = headers(&device, &memory, superblock.volume(), report).await?;
        let root = Root::default();
        let mut source = Self { device, memory, superblock, layout, slots, root };
        if slots.iter().any(Option::is_some) {
            source.replay(report).await?;
        }
        let whole = source.read_root(report).await?;
        Ok(whole.then_some(source))
    }

    async fn replay(&self, report: &mut Report) -> Result<()> {
        let volume = self.superblock.volume();
        match recover::recover(&self.device, &self.memory, &self.layout, volume, Gap::Accept).await
        {
            Ok(recovered) => {
                report.counts.replayed = recovered.transactions;
                if let Some(lost) = &recovered.lost {
                    let at = Ring::new(self.layout.journal).block(recovered.slot.tail);
                    let words = recover::missing(lost, at).to_string();
                    report.add_mendable(Fault::LogGap, Place::block(at), words);
                }
                Ok(())
            }
            Err(cause) => {
                let note = "what the log holds: all below is the state without it";
                report.unjudged.push(note.into());
                report.add_failure(Fault::Log, Place::block(self.layout.journal.start), cause)
            }
        }
    }

    /// Whether there is a root to go on with.
    async fn read_root(&mut self, report: &mut Report) -> Result<bool> {
        let at = self.layout.root;
        let read = self.block(at, BlockKind::Root).await;
        match read.and_then(|image| Root::decode(&image[BODY..], at)) {
            Ok(root) if root.groups_ready > self.layout.groups() => {
                let words = format!(
                    "{} groups are in use, and there are {}",
                    root.groups_ready,
                    self.layout.groups()
                );
                report.add(Fault::Root, Place::block(at), words);
                Ok(false)
            }
            Ok(root) => {
                self.root = root;
                Ok(true)
            }
            Err(cause) => {
                report.add_failure(Fault::Root, Place::block(at), cause)?;
                report.unjudged.push("everything behind the root".into());
                Ok(false)
            }
        }
    }
}

impl BlockRead for Source {
    async fn block(&self, at: BlockNo, kind: BlockKind) -> Result<Buffer> {
        let blocks = self.device.geometry().blocks;
        if at.0 >= blocks {
            let why = format!("something points there, and the device has {blocks} blocks");
            return Err(Error::corrupt(kind.name(), at, why));
        }
        let image = read(&self.device, &self.memory, at).await?;
        block::verify(&image, kind, at, self.superblock.volume())?;
        Ok(image)
    }

    fn root(&self) -> &Root {
        &self.root
    }
}

/// One block as it is. Errors: `Device`, `OutOfMemory`.
pub async fn read(device: &Device, memory: &Memory, at: BlockNo) -> Result<Buffer> {
    let into = vec![memory.allocate(0, Purpose::Reserved).await?];
    let (mut buffers, outcome) = device.read(at.0, into).await;
    outcome?;
    Ok(buffers.pop().expect("a read gives its buffer back"))
}

/// The superblock, with findings about its copies; `None` when none is sound.
async fn superblock(
    device: &Device,
    memory: &Memory,
    report: &mut Report,
) -> Result<Option<Superblock>> {
    let mut images = [None, None];
    let mut unreadable = None;
    for (image, at) in images.iter_mut().zip(SUPERBLOCKS) {
        if at.0 < device.geometry().blocks {
            match read(device, memory, at).await {
                Ok(found) => *image = Some(found),
                Err(cause) => unreadable = Some(cause),
            }
        }
    }
    let copies = [images[0].as_deref(), images[1].as_deref()];
    let chosen = match (Superblock::choose(copies, device.geometry().blocks), unreadable) {
        (Ok(chosen), _) => Some(chosen),
        (Err(cause), None) if cause.kind() == ErrorKind::Corrupt => None,
        (Err(_), Some(unreadable)) => return Err(unreadable),
        (Err(cause), None) => return Err(cause),
    };
    for (image, at) in copies.into_iter().zip(SUPERBLOCKS) {
        let place = Place::block(at);
        let read = image.map(|image| Superblock::decode(at, image));
        match (read, &chosen) {
            (Some(Ok(copy)), Some(chosen)) if copy != *chosen => {
                report.add(Fault::SuperblocksDiffer, place, "the two copies say different things");
            }
            (Some(Ok(_)), _) => {}
            (Some(Err(cause)), Some(_)) if cause.kind() != ErrorKind::Incompatible => {
                report.add_mendable(Fault::Superblock, place, cause.to_string());
            }
            (Some(Err(cause)), _) => report.add(Fault::Superblock, place, cause.to_string()),
            (None, _) => report.add(Fault::Unreadable, place, "a superblock cannot be read"),
        }
    }
    if chosen.is_none() {
        report.unjudged.push("everything behind the superblock".into());
    }
    Ok(chosen)
}

/// The journal headers, with findings about them.
async fn headers(
    device: &Device,
    memory: &Memory,
    volume: u32,
    report: &mut Report,
) -> Result<[Option<Slot>; 2]> {
    let mut slots = [None, None];
    let mut failures = Vec::new();
    for (slot, at) in slots.iter_mut().zip(JOURNAL_HEADERS) {
        match read(device, memory, at).await.and_then(|image| Slot::decode(&image, at, volume)) {
            Ok(found) => *slot = Some(found),
            Err(cause) => failures.push((at, cause)),
        }
    }
    let other = failures.len() == 1;
    for (at, cause) in failures {
        match cause.kind() {
            ErrorKind::Corrupt if other => {
                report.add_mendable(Fault::JournalHeader, Place::block(at), cause.to_string());
            }
            _ => report.add_failure(Fault::JournalHeader, Place::block(at), cause)?,
        }
    }
    if !other && slots == [None, None] {
        report.unjudged.push("what the log holds: all below is the state without it".into());
    }
    Ok(slots)
}
