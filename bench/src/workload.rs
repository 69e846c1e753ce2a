//! The workloads as data: verb, order, how many at once, how large, when to sync.
//!
//! Does not run anything. Called by the command line and by `run.rs`.

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use foliant_device::BLOCK_SIZE;

/// The largest piece of one read or write, in bytes; it bounds the harness's own memory.
pub const PIECE_MAX: usize = 1 << 20;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What a client does over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Read,
    Write,
    Commit,
}

/// Which piece comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Random,
    Sequential,
}

/// A workload made concrete for one target.
#[derive(Debug, Clone)]
pub struct Shape {
    pub verb: Verb,
    pub order: Order,
    /// Operations in flight, each from its own client on its own pieces.
    pub clients: usize,
    /// Bytes of one operation: a power of two, from a block to [`PIECE_MAX`].
    pub piece: usize,
    /// All clients together write this many pieces, then one syncs.
    pub sync_every: Option<u64>,
    /// One sync at the end belongs to the measured time.
    pub final_sync: bool,
    /// Every piece is read, and compared whole, once before the measurement.
    pub warm: bool,
    /// In the measured time, only the head of each block is compared: where comparing costs as much
    /// as the read. All bytes are compared before (`warm`) and after.
    pub glance: bool,
    /// User data as a share of the store, in percent.
    pub fill_percent: u64,
}

/// What the command line may change about a workload.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    pub size: Option<u64>,
    pub memory: Option<u64>,
    pub clients: Option<usize>,
    pub piece: Option<u64>,
    pub sync_every: Option<u64>,
    pub fill_percent: Option<u64>,
}

/// One row of the list.
#[derive(Debug)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub size: u64,
    pub memory: u64,
    base: Shape,
    /// Clients and piece for a target without a cache of its own, where they differ.
    bare: Option<(usize, usize)>,
}

const RANDOM_READ: Shape = Shape {
    verb: Verb::Read,
    order: Order::Random,
    clients: 32,
    piece: BLOCK_SIZE,
    sync_every: None,
    final_sync: false,
    warm: false,
    glance: false,
    fill_percent: 50,
};

const COMMIT: Shape = Shape { verb: Verb::Commit, ..RANDOM_READ };

/// Every workload but `fill-verify` and `kill-reopen`, which have files of their own.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "random-read",
        about: "4 KiB reads at random, 32 at once, data eight times the memory",
        size: GIB,
        memory: 128 * MIB,
        base: RANDOM_READ,
        bare: None,
    },
    Workload {
        name: "random-write-sync",
        about: "4 KiB overwrites at random, a sync every 1024 (--sync-every)",
        size: GIB,
        memory: 128 * MIB,
        base: Shape { verb: Verb::Write, clients: 1, sync_every: Some(1024), ..RANDOM_READ },
        bare: Some((32, BLOCK_SIZE)),
    },
    Workload {
        name: "sequential-read",
        about: "4 KiB reads in order (raw: 1 MiB, 16 at once)",
        size: GIB,
        memory: 128 * MIB,
        base: Shape { order: Order::Sequential, clients: 1, ..RANDOM_READ },
        bare: Some((16, PIECE_MAX)),
    },
    Workload {
        name: "sequential-write",
        about: "1 MiB overwrites in order, one sync at the end (raw: 16 at once)",
        size: GIB,
        memory: 128 * MIB,
        base: Shape {
            verb: Verb::Write,
            order: Order::Sequential,
            clients: 1,
            piece: PIECE_MAX,
            final_sync: true,
            ..RANDOM_READ
        },
        bare: Some((16, PIECE_MAX)),
    },
    Workload {
        name: "cached-read",
        about: "4 KiB reads at random over data that fits the memory, one client",
        size: 256 * MIB,
        memory: 512 * MIB,
        base: Shape { clients: 1, warm: true, glance: true, ..RANDOM_READ },
        bare: None,
    },
    Workload {
        name: "durable-commit-1",
        about: "durable commits of one 4 KiB block at random, one client",
        size: 256 * MIB,
        memory: 128 * MIB,
        base: Shape { clients: 1, ..COMMIT },
        bare: None,
    },
    Workload {
        name: "durable-commit-16",
        about: "the same with 16 clients",
        size: 256 * MIB,
        memory: 128 * MIB,
        base: Shape { clients: 16, ..COMMIT },
        bare: None,
    },
    Workload {
        name: "durable-commit-64",
        about: "the same with 64 clients",
        size: 256 * MIB,
        memory: 128 * MIB,
        base: Shape { clients: 64, ..COMMIT },
        bare: None,
    },
];

impl Workload {
    /// Finds a workload by name; the error lists all names.
    pub fn named(name: &str) -> Result<&'static Self> {
        if let Some(found) = WORKLOADS.iter().find(|w| w.name == name) {
            return Ok(found);
        }
        let known: Vec<&str> = WORKLOADS.iter().map(|w| w.name).collect();
        bail!("no workload {name:?}; for a measurement there are {}", known.join(", "));
    }

    /// The shape for a target with or without a cache of its own. Errors name the bad wish.
    pub fn shape(&self, caches: bool, wishes: &Wishes) -> Result<Shape> {
        let mut shape = self.base.clone();
        if let Some((clients, piece)) = self.bare.filter(|_| !caches) {
            (shape.clients, shape.piece) = (clients, piece);
        }
        shape.clients = wishes.clients.unwrap_or(shape.clients);
        shape.piece = wishes.piece.map_or(shape.piece, |p| p as usize);
        shape.fill_percent = wishes.fill_percent.unwrap_or(shape.fill_percent);
        if shape.sync_every.is_some() || wishes.sync_every.is_some() {
            shape.sync_every = wishes.sync_every.or(shape.sync_every);
        }
        shape.check()?;
        Ok(shape)
    }

    /// Bytes of user data, rounded down so that every client has as many pieces as the next.
    pub fn size(&self, shape: &Shape, wishes: &Wishes) -> Result<u64> {
        let unit = shape.piece as u64 * shape.clients as u64;
        let size = wishes.size.unwrap_or(self.size) / unit * unit;
        ensure!(size > 0, "--size is less than one piece for each client ({unit} bytes)");
        Ok(size)
    }
}

impl Shape {
    fn check(&self) -> Result<()> {
        let (piece, clients) = (self.piece, self.clients);
        let whole = piece.is_power_of_two() && (BLOCK_SIZE..=PIECE_MAX).contains(&piece);
        ensure!(whole, "--piece must be a power of two from 4KiB to 1MiB");
        ensure!((1..=1024).contains(&clients), "--clients must be 1 to 1024");
        ensure!((1..=100).contains(&self.fill_percent), "--fill must be 1 to 100 percent");
        let Some(every) = self.sync_every else {
            return Ok(());
        };
        ensure!(self.verb == Verb::Write, "--sync-every is for workloads that write");
        let even = every >= clients as u64 && every.is_multiple_of(clients as u64);
        ensure!(even, "--sync-every must be a multiple of --clients ({clients})");
        Ok(())
    }
}

/// Bytes of the file around `size` bytes of data: journal, metadata and free room.
pub fn store_bytes(size: u64, fill_percent: u64) -> u64 {
    let room = size.saturating_mul(100) / fill_percent;
    room.max(size + size / 64) + 64 * MIB + (size / 64).clamp(4 * MIB, 128 * MIB)
}

/// Reads a number of bytes such as `4096`, `64KiB` or `8GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    let scale = match unit.trim() {
        "" | "B" => 1,
        "K" | "KiB" => KIB,
        "M" | "MiB" => MIB,
        "G" | "GiB" => GIB,
        "T" | "TiB" => GIB * 1024,
        other => return Err(format!("{other:?} is no unit; use KiB, MiB, GiB or TiB")),
    };
    number.checked_mul(scale).ok_or_else(|| format!("{text:?} is too large"))
}

/// Writes a number of bytes for people.
pub fn show_bytes(bytes: u64) -> String {
    let units = [(GIB * 1024, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.iter().find(|(scale, _)| bytes >= *scale) {
        Some((scale, unit)) if bytes.is_multiple_of(*scale) => format!("{} {unit}", bytes / scale),
        Some((scale, unit)) => format!("{:.1} {unit}", bytes as f64 / *scale as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 * GIB));
        assert_eq!(parse_bytes("64 KiB"), Ok(64 * KIB));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in ["", "GiB", "8GB", "-1", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(8 * GIB), "8 GiB");
        assert_eq!(show_bytes(GIB + GIB / 2), "1.5 GiB");
        assert_eq!(show_bytes(17), "17 B");
    }

    #[test]
    fn every_workload_has_a_sound_shape_for_both_kinds_of_target() {
        for workload in WORKLOADS {
            for caches in [true, false] {
                let shape = workload.shape(caches, &Wishes::default()).unwrap();
                let size = workload.size(&shape, &Wishes::default()).unwrap();
                assert_eq!(size, workload.size, "{} loses data to rounding", workload.name);
            }
        }
        assert!(Workload::named("no-such").unwrap_err().to_string().contains("durable-commit-16"));
    }

    #[test]
    fn absurd_wishes_are_refused() {
        let workload = Workload::named("random-write-sync").unwrap();
        let refused = |wishes: Wishes| workload.shape(true, &wishes).is_err();
        let none = Wishes::default;
        assert!(refused(Wishes { clients: Some(0), ..none() }));
        assert!(refused(Wishes { piece: Some(5000), ..none() }));
        assert!(refused(Wishes { piece: Some(2 << 20), ..none() }));
        assert!(refused(Wishes { clients: Some(3), ..none() }));
        assert!(refused(Wishes { fill_percent: Some(0), ..none() }));
        let reading = Workload::named("random-read").unwrap();
        assert!(reading.shape(true, &Wishes { sync_every: Some(64), ..none() }).is_err());
    }

    #[test]
    fn a_store_has_room_beyond_its_data() {
        for size in [MIB, GIB, 100 * GIB] {
            assert!(store_bytes(size, 100) > size + size / 64 + 64 * MIB);
            assert!(store_bytes(size, 50) > 2 * size);
        }
    }
}
