//! Objects out of a store, damaged or not, into files or one stream.
//!
//! Guarantees that only bytes whose checksum matches are given out, or whose checksum is lost, and then
//! the report says so; what cannot be had is a hole in the file and a finding in the report. No name
//! leads out of the directory and no file is overwritten. Does not change the store. Called by users
//! and by the command `foliant`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use foliant_device::BLOCK_SIZE;
use foliant_device::Device;
use futures_util::StreamExt;
use futures_util::stream;

use crate::check::data::Cutter;
use crate::check::data::Fetched;
use crate::check::data::fetch;
use crate::check::data::powers;
use crate::check::items::Item;
use crate::check::items::Items;
use crate::check::report::Fault;
use crate::check::report::Place;
use crate::check::report::Report;
use crate::check::source::Options;
use crate::check::source::Source;
use crate::check::source::read;
use crate::check::survey::decode_name;
use crate::check::walk::Look;
use crate::check::walk::Tree;
use crate::check::walk::Walk;
use crate::error::Error;
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::extent_record::Extent;
use crate::format::object_record::ObjectRecord;
use crate::units::BLOCK;
use crate::units::DeviceSpan;
use crate::units::ObjectId;

/// Runs that are read at once.
const IN_FLIGHT: usize = 4;
/// Longest name of a file that is made from a name as it is.
const FILE_NAME_MAX: usize = 200;

/// What was exported.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Objects.
    pub objects: u64,
    /// Bytes that were stored, holes not counted.
    pub bytes: u64,
    /// What is wrong with the rest; not a whole check.
    pub report: Report,
}

/// One object of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// By name.
    Name(&'a [u8]),
    /// By id, for an object whose name is lost.
    Id(ObjectId),
}

/// Writes every object into a sparse file of `dir`, which is made if need be.
///
/// Bytes of a name other than letters, digits and `-_+=,@.` become `%XX`, as does a leading dot; a long
/// name is cut and ends in `~ID`; an object without a name is `~ID`. An object whose removal is not finished is
/// left out. Beside the memory of the options all names are held. Errors: as [`check`](crate::check::check), and
/// `NoSpace`, `AlreadyExists`, `Device` for the files. Dropping the future leaves the files written so far.
pub async fn export(device: &Device, options: &Options<'_>, dir: &Path) -> Result<Exported> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|cause| failed(&format!("making {}", dir.display()), &cause))?;
    let mut sink = Files { dir: dir.to_owned(), file: None };
    run(device, options, None, &mut sink).await
}

/// Writes one object to `into`, holes as zeroes.
///
/// Errors: `NotFound`, and as [`export`].
pub async fn export_object(
    device: &Device,
    options: &Options<'_>,
    which: Which<'_>,
    into: &mut (dyn Write + Send),
) -> Result<Exported> {
    run(device, options, Some(which), &mut Stream { into, at: 0 }).await
}

fn failed(what: &str, cause: &io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Device,
    };
    Error::new(kind, format!("{what} failed: {cause}"))
}

/// Where objects go, one after the other, bytes in ascending order.
trait Sink: Send {
    fn begin(&mut self, id: ObjectId, name: Option<&[u8]>) -> Result<()>;
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    fn end(&mut self, size: u64) -> Result<()>;
}

/// One file for each object.
struct Files {
    dir: PathBuf,
    file: Option<(PathBuf, File)>,
}

impl Sink for Files {
    fn begin(&mut self, id: ObjectId, name: Option<&[u8]>) -> Result<()> {
        let path = self.dir.join(file_name(id, name));
        let file = File::create_new(&path);
        let file = file.map_err(|cause| failed(&format!("making {}", path.display()), &cause))?;
        self.file = Some((path, file));
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = self.file.as_ref().expect("an object has begun");
        let written = file.write_all_at(bytes, offset);
        written.map_err(|cause| failed(&format!("writing {}", path.display()), &cause))
    }

    fn end(&mut self, size: u64) -> Result<()> {
        let (path, file) = self.file.take().expect("an object has begun");
        let set = file.set_len(size);
        set.map_err(|cause| failed(&format!("sizing {} to {size} bytes", path.display()), &cause))
    }
}

/// One object as a stream of bytes.
struct Stream<'a> {
    into: &'a mut (dyn Write + Send),
    at: u64,
}

impl Stream<'_> {
    fn zeroes_up_to(&mut self, offset: u64) -> Result<()> {
        while self.at < offset {
            let count = (offset - self.at).min(BLOCK) as usize;
            self.write(&[0; BLOCK_SIZE][..count])?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.into.write_all(bytes).map_err(|cause| failed("writing the object", &cause))
    }
}

impl Sink for Stream<'_> {
    fn begin(&mut self, _id: ObjectId, _name: Option<&[u8]>) -> Result<()> {
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.zeroes_up_to(offset)?;
        // Extents of a damaged object may overlap; what is given out cannot be taken back.
        let known = (self.at - offset).min(bytes.len() as u64) as usize;
        self.write(&bytes[known..])
    }

    fn end(&mut self, size: u64) -> Result<()> {
        self.zeroes_up_to(size)?;
        self.into.flush().map_err(|cause| failed("writing the object", &cause))
    }
}

/// A name for a file that stays in its directory, and that no other object gets.
fn file_name(id: ObjectId, name: Option<&[u8]>) -> String {
    let Some(name) = name else { return format!("~{}", id.0) };
    let mut escaped = String::new();
    for (at, &byte) in name.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_+=,@.".contains(&byte);
        match plain && (byte != b'.' || at > 0) {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    if escaped.len() > FILE_NAME_MAX {
        escaped.truncate(FILE_NAME_MAX);
        escaped.push_str(&format!("~{}", id.0));
    }
    escaped
}

async fn run(
    device: &Device,
    options: &Options<'_>,
    which: Option<Which<'_>>,
    sink: &mut dyn Sink,
) -> Result<Exported> {
    let mut report = Report::new(options.findings_max);
    let Some(source) = Source::open(device, options, &mut report).await? else {
        return Ok(Exported { objects: 0, bytes: 0, report });
    };
    let mut look = Look::new(&source, options, &mut report);
    let (names, removed) = names(&mut look).await?;
    let only = match which {
        None => None,
        Some(Which::Id(id)) => Some(id),
        Some(Which::Name(name)) => {
            let found = names.iter().find(|(_, known)| known.as_slice() == name);
            let found = found.map(|(id, _)| *id).ok_or_else(|| {
                let name = name.escape_ascii();
                Error::new(ErrorKind::NotFound, format!("no object is named \"{name}\""))
            })?;
            Some(found)
        }
    };
    let cutter = Cutter::new(&source);
    let mut export = Export { names, removed, only, sink, cutter, now: None, objects: 0, bytes: 0 };
    export.all(&mut look).await?;
    let (objects, bytes) = (export.objects, export.bytes);
    if let (Some(id), 0) = (only, objects) {
        return Err(Error::new(ErrorKind::NotFound, format!("{id} does not exist")));
    }
    Ok(Exported { objects, bytes, report })
}

type Names = BTreeMap<ObjectId, Vec<u8>>;

/// The names that can be read, and the objects that are being removed.
async fn names(look: &mut Look<'_>) -> Result<(Names, Vec<ObjectId>)> {
    let (mut names, mut removed) = (Names::new(), Vec::new());
    let mut walk = Walk::new(look.source, Tree::Names);
    while let Some(entry) = walk.next(look).await? {
        match decode_name(&entry.key, &entry.value) {
            Some((id, true)) => removed.push(id),
            Some((id, false)) => _ = names.insert(id, entry.key),
            None => look.report.add(Fault::Name, Place::name(&entry.key), "its entry is damaged"),
        }
    }
    removed.sort_unstable();
    Ok((names, removed))
}

/// The object that is written now.
struct Now {
    id: ObjectId,
    /// Its size, if its record says one.
    size: Option<u64>,
    /// The byte behind the last one that was stored.
    end: u64,
    wanted: bool,
}

struct Export<'a> {
    names: Names,
    removed: Vec<ObjectId>,
    only: Option<ObjectId>,
    sink: &'a mut dyn Sink,
    cutter: Cutter,
    now: Option<Now>,
    objects: u64,
    bytes: u64,
}

impl Export<'_> {
    async fn all(&mut self, look: &mut Look<'_>) -> Result<()> {
        let mut items = Items::new(look).await?;
        while let Some(item) = items.next(look).await? {
            match item {
                Item::Object(id, record) => self.begin(look, id, record.as_ref())?,
                Item::Extent(id, extent) => {
                    if self.now.as_ref().is_none_or(|now| now.id != id) {
                        let words = "its record is lost: its size is that of what is stored";
                        look.report.add(Fault::ExtentOwner, Place::object(id), words);
                        self.begin(look, id, None)?;
                    }
                    self.extent(look, &extent).await?;
                }
            }
        }
        self.end(look)
    }

    fn begin(
        &mut self,
        look: &mut Look<'_>,
        id: ObjectId,
        record: Option<&ObjectRecord>,
    ) -> Result<()> {
        self.end(look)?;
        let wanted = match self.only {
            Some(only) => only == id,
            None => self.removed.binary_search(&id).is_err() || self.names.contains_key(&id),
        };
        let size = record.map(|record| record.size);
        self.now = Some(Now { id, size, end: 0, wanted });
        if !wanted {
            return Ok(());
        }
        self.objects += 1;
        self.sink.begin(id, self.names.get(&id).map(Vec::as_slice))?;
        match record {
            Some(record) if !record.inline.is_empty() => self.put(0, &record.inline),
            _ => Ok(()),
        }
    }

    fn end(&mut self, look: &mut Look<'_>) -> Result<()> {
        let Some(now) = self.now.take().filter(|now| now.wanted) else { return Ok(()) };
        let ended = self.sink.end(now.size.unwrap_or(now.end));
        // A file system may not take a size that a store takes; the other objects must come out.
        match ended {
            Err(cause) if self.only.is_none() && cause.kind() == ErrorKind::Device => {
                look.report.add(Fault::Unreadable, Place::object(now.id), cause.to_string());
                Ok(())
            }
            ended => ended,
        }
    }

    /// Gives bytes out as far as the object goes.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(now) = &mut self.now else { return Ok(()) };
        let room = now.size.unwrap_or(u64::MAX).saturating_sub(offset);
        let bytes = &bytes[..room.min(bytes.len() as u64) as usize];
        if bytes.is_empty() {
            return Ok(());
        }
        now.end = now.end.max(offset + bytes.len() as u64);
        self.bytes += bytes.len() as u64;
        self.sink.put(offset, bytes)
    }

    async fn extent(&mut self, look: &mut Look<'_>, extent: &Extent) -> Result<()> {
        let Some(now) = &self.now else { return Ok(()) };
        let (id, wanted, size) = (now.id, now.wanted, now.size.unwrap_or(u64::MAX));
        if !wanted || extent.unwritten || extent.at >= size.div_ceil(BLOCK) {
            return Ok(());
        }
        let span = DeviceSpan::new(extent.start, extent.blocks);
        if !look.claim(span, Place::object(id).at(extent.start), &format!("a part of {id}")) {
            return Ok(());
        }
        let (mut runs, mut rest) = (Vec::new(), Some(*extent));
        while let Some(extent) = rest.take() {
            let (run, more) = self.cutter.cut(look.source, id, &extent).await?;
            rest = more;
            runs.extend(powers(run));
        }
        let source = look.source;
        let reads =
            runs.into_iter().map(|run| fetch(source.device.clone(), source.memory.clone(), run));
        let mut reads = stream::iter(reads).buffered(IN_FLIGHT);
        while let Some(fetched) = reads.next().await {
            self.fetched(look, fetched?).await?;
        }
        Ok(())
    }

    async fn fetched(&mut self, look: &mut Look<'_>, fetched: Fetched) -> Result<()> {
        let Fetched { run, bytes, wrong } = fetched;
        if run.sums.is_empty() {
            let range = run.at * BLOCK..(run.at + run.blocks) * BLOCK;
            let words =
                format!("its bytes {range:?} are given out unverified: their sums are lost");
            look.report.add(Fault::Checksums, Place::object(run.object).at(run.start), words);
        }
        let mut wrong = wrong.into_iter().peekable();
        for i in 0..run.blocks {
            let at = (run.at + i) * BLOCK;
            if let Some((_, cause)) = wrong.next_if(|(bad, _)| *bad == i) {
                let fault = if cause.is_corruption() { Fault::Data } else { Fault::Unreadable };
                let words = format!("its bytes {at}..{} are lost: {cause}", at + BLOCK);
                look.report.add(fault, Place::object(run.object).at(run.start.plus(i)), words);
                continue;
            }
            let place = i as usize * BLOCK_SIZE;
            match &bytes {
                Some(bytes) => self.put(at, &bytes[place..place + BLOCK_SIZE])?,
                // The run could not be read at once; this block of it could a moment ago.
                None => {
                    let (source, start) = (look.source, run.start.plus(i));
                    match read(&source.device, &source.memory, start).await {
                        Ok(block) => self.put(at, &block)?,
                        Err(cause) => {
                            let place = Place::object(run.object).at(start);
                            look.report.add_failure(Fault::Unreadable, place, cause)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_in_the_directory_and_differ() {
        let name = |name: &[u8]| file_name(ObjectId(7), Some(name));
        assert_eq!(name(b"a-b_c.d"), "a-b_c.d");
        assert_eq!(name(b".."), "%2E.");
        assert_eq!(name(b"../../etc"), "%2E.%2F..%2Fetc");
        assert_eq!(name(b"~7"), "%7E7");
        assert_eq!(name(b"a\0%\n\xFF "), "a%00%25%0A%FF%20");
        assert_eq!(file_name(ObjectId(7), None), "~7");
        let long = name(&[b'/'; 255]);
        assert!(long.len() < 255 && long.ends_with("~7"), "{long}");
    }

    #[test]
    fn a_stream_fills_holes_with_zeroes() {
        let mut bytes = Vec::new();
        let mut stream = Stream { into: &mut bytes, at: 0 };
        stream.put(3, b"abc").unwrap();
        stream.put(5, b"Xd").unwrap();
        stream.end(10).unwrap();
        assert_eq!(bytes, b"\0\0\0abcd\0\0\0");
    }
}
