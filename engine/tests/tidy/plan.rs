//! The floor plan and the bars, as data. A rule that is not in these tables is not checked.
//!
//! Does not decide anything; `rules.rs` does. To move a wall, change the table and say why.

/// The rooms of a crate and their floors. Imports run to lower floors.
pub const FLOORS: &[(&str, &str, u32)] = &[
    ("device", "lib", 9),
    ("device", "conformance", 5),
    ("device", "backend", 4),
    ("device", "sim", 4),
    ("device", "wrap", 4),
    ("device", "contract", 3),
    ("device", "uring", 3),
    ("device", "buffer", 2),
    ("device", "geometry", 2),
    ("device", "locked", 1),
    ("device", "error", 1),
    ("engine", "lib", 12),
    ("engine", "doc", 12),
    ("engine", "models", 12),
    ("engine", "testing", 12),
    ("engine", "api", 11),
    ("engine", "volume", 10),
    ("engine", "check", 10),
    ("engine", "namespace", 9),
    ("engine", "object", 8),
    ("engine", "alloc", 7),
    ("engine", "extent", 7),
    ("engine", "meta", 6),
    ("engine", "journal", 5),
    ("engine", "iomap", 5),
    ("engine", "reclaim", 5),
    ("engine", "format", 4),
    ("engine", "folio", 4),
    ("engine", "kit", 3),
    ("engine", "limits", 2),
    ("engine", "error", 2),
    ("engine", "units", 1),
];

/// Imports between rooms of one floor that are allowed: crate, importer, imported, reason.
pub const SIDEWAYS: &[(&str, &str, &str, &str)] =
    &[("device", "buffer", "geometry", "the unit in which memory is cut is the block size")];

/// Rooms that must never import one another, whatever the floors say.
pub const NEVER: &[(&str, &[&str])] = &[
    ("kit", &["format", "folio", "iomap", "journal", "meta"]),
    ("format", &["folio", "iomap", "reclaim", "journal", "meta"]),
    ("folio", &["format", "iomap", "reclaim", "journal", "meta"]),
    ("reclaim", &["iomap", "journal", "object", "meta", "format"]),
    ("journal", &["folio", "iomap", "reclaim", "meta"]),
    ("meta", &["folio", "iomap", "reclaim", "alloc", "extent", "object"]),
    ("alloc", &["extent", "folio", "iomap", "reclaim"]),
    ("extent", &["alloc", "folio", "iomap", "reclaim"]),
    ("iomap", &["object", "extent", "alloc", "journal", "meta", "format"]),
    ("object", &["namespace", "volume", "api"]),
    ("check", &["folio", "iomap", "reclaim", "volume", "api"]),
];

/// What each place of the engine may name of the device crate; the longest matching path wins.
/// `*` is everything. A place that is not listed may name nothing.
pub const DEVICE_RIGHTS: &[(&str, &[&str])] = &[
    ("lib.rs", &["*"]),
    ("api/", &["*"]),
    ("volume/", &["*"]),
    ("check/", &["*"]),
    ("object/", &["Buffer", "Segment"]),
    ("alloc/", &["Device", "Buffer", "Segment"]),
    ("meta/", &["*"]),
    ("journal/", &["*"]),
    ("iomap/", &["Buffer", "Segment"]),
    ("iomap/bio.rs", &["*"]),
    ("reclaim/", &["Buffer"]),
    ("folio/", &["Buffer", "Segment", "Arena", "ORDER_MAX"]),
    ("kit/", &["Buffer", "Arena"]),
    ("error.rs", &["DeviceError", "DeviceErrorKind"]),
    ("units.rs", &["BLOCK_SIZE"]),
    ("testing/fuzz.rs", &["*"]),
];

/// Which of our crates a crate may use. Nothing uses bench or examples.
pub const CRATES: &[(&str, &[&str])] = &[
    ("device", &[]),
    ("engine", &["foliant", "foliant_device"]),
    ("bench", &["foliant", "foliant_bench", "foliant_device"]),
    ("examples", &["foliant", "foliant_examples"]),
];

/// The names under which the crates are imported.
pub const CRATE_NAMES: &[&str] =
    &["foliant", "foliant_device", "foliant_bench", "foliant_examples"];

/// The only places of the library crates that start tasks or threads.
pub const SPAWNERS: &[&str] =
    &["engine/src/volume/", "device/src/uring/driver", "device/src/backend/threads"];

/// What starting a task or a thread looks like.
pub const SPAWNS: &[&str] =
    &["tokio::spawn", "task::spawn", ".spawn(", "thread::spawn", "spawn_blocking", "spawn_local"];

/// Rooms that never wait.
pub const NEVER_WAITS: &[&str] = &["engine/src/format/", "engine/src/reclaim/"];

/// The only places for `unsafe`.
pub const UNSAFE: &[&str] =
    &["device/src/buffer.rs", "device/src/uring/ring.rs", "device/src/backend/ioctl.rs"];

/// How far above an `unsafe` its reason may start, in lines.
pub const SAFETY_REACH: usize = 8;

/// Crates whose roots forbid `unsafe`.
pub const FORBID_UNSAFE: &[&str] = &["engine", "bench", "examples"];

/// Rooms whose locks, atomics and waits are named in `kit::sync` alone, because the models swap them
/// there: what goes around it is no step that a model can see.
pub const THROUGH_SYNC: &[&str] =
    &["engine/src/kit/", "engine/src/folio/", "engine/src/iomap/", "engine/src/reclaim/"];

/// What going around looks like.
pub const RAW_SYNC: &[&str] = &[
    "parking_lot",
    "std::sync::atomic",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "tokio::sync",
    "tokio::time",
    "shuttle",
];

/// Who may, and why.
pub const RAW_SYNC_PLACES: &[(&str, &str)] = &[
    ("engine/src/kit/sync", "the place itself"),
    ("engine/src/kit/watermark.rs", "the log's: the data wing does not wait there"),
    (
        "engine/src/kit/lock_order.rs",
        "watches the others, in debug builds; its own steps are none of a model",
    ),
    ("engine/src/kit/stop.rs", "stops tests; empty in every other build"),
];

/// Words that must not stand in code, and whether tests may use them.
pub const BANNED: &[(&str, bool)] = &[
    ("dbg!", false),
    (".unwrap()", true),
    ("unbounded_channel", false),
    ("thread::sleep", false),
    ("todo!", false),
    ("unimplemented!", false),
    ("#[ignore", false),
];

/// Words that must not stand in comments either.
pub const BANNED_IN_COMMENTS: &[&str] = &["FIXME", "XXX", "TODO"];

/// Sources of chance and time that the engine may not draw from.
pub const CHANCE: &[&str] = &[
    "std::time::Instant",
    "SystemTime",
    "thread_rng",
    "RandomState",
    "getrandom",
    "thread::current",
];

/// Lines of a function, tests included.
pub const FUNCTION_LINES_MAX: usize = 70;

/// Lines of a file that are not under `#[cfg(test)]`.
pub const FILE_LINES_MAX: usize = 600;

/// What may stand at the top level of the repository.
pub const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".github",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bench",
    "clippy.toml",
    "deny.toml",
    "device",
    "engine",
    "examples",
    "rust-toolchain.toml",
    "rustfmt.toml",
];

/// A bar that a file does not meet yet, with the size that it has. It may only shrink.
#[derive(Debug, Clone)]
pub struct Exception {
    /// `function` or `file`.
    pub rule: &'static str,
    /// `crate/src/path.rs`, and `::name` for a function.
    pub place: &'static str,
    pub lines: usize,
}

/// Debt, with sizes. An entry that is larger than what it excuses fails the test.
pub const EXCEPTIONS: &[Exception] = &[];
