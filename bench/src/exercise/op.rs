//! Operations, and their text form, one line each, that reads back as the same operation.
//!
//! Guarantees that an operation says all there is to it: content follows from a tag and the
//! position, so a log of operations replays without the seed. Does not run anything. Used by the
//! whole exerciser.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

/// Bytes of one of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which object.
    pub object: usize,
    /// First byte.
    pub at: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Span {
    /// The byte behind the last one.
    pub fn end(&self) -> u64 {
        self.at + self.len
    }
}

/// New bytes, which follow from the tag and their position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Where.
    pub span: Span,
    /// What; no byte is zero.
    pub tag: u32,
}

impl Fill {
    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let head = (self.span.at % 8) as usize;
        let (first, last) = (self.span.at / 8, self.span.end().div_ceil(8));
        let seed = (u64::from(self.tag) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut bytes = Vec::with_capacity((last - first) as usize * 8);
        for word in first..last {
            let mixed = seed ^ word.wrapping_mul(0xD1B5_4A32_D192_ED03);
            let mixed = mixed ^ (mixed >> 29) | 0x0101_0101_0101_0101;
            bytes.extend_from_slice(&mixed.to_le_bytes());
        }
        bytes.truncate(head + self.span.len as usize);
        bytes.drain(..head);
        bytes
    }
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Committed, and its durability awaited.
    Durable,
    /// Committed, and the handle dropped.
    Seen,
    /// Dropped before its commit.
    Dropped,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// `Object::read_at`.
    Read(Span),
    /// `Object::read`, the one without a copy; at most 2 MiB.
    Share(Span),
    /// `Object::read_direct`, into a buffer from this byte on.
    ReadDirect(Span, u64),
    /// `Object::write_at`.
    Write(Fill),
    /// `Object::write_direct`, out of a buffer from this byte on.
    WriteDirect(Fill, u64),
    /// `Object::punch`.
    Punch(Span),
    /// `Object::zero`.
    Zero(Span),
    /// `Object::preallocate`.
    Allocate(Span),
    /// `Object::truncate` to so many bytes.
    Truncate(usize, u64),
    /// `Object::sync`, and a look at its balance.
    Sync(usize),
    /// `Engine::sync`, and a look at the engine's balance.
    SyncAll,
    /// `Object::extents`, compared with what must be stored and what must not.
    Extents(usize),
    /// `Object::seek_data` and `Object::seek_hole` from this byte on, compared with the bytes and
    /// with `Object::extents`.
    Seek(usize, u64),
    /// Removes an object and makes one of the same name.
    Recreate(usize),
    /// Pushes clean folios out of the cache.
    Evict,
    /// Closes the engine and opens it again.
    Reopen,
    /// Compares every byte.
    Verify,
    /// A transaction.
    Commit(End, Vec<Fill>),
    /// Both at once, each through its own handles.
    Both(Box<Op>, Box<Op>),
}

impl Op {
    /// Its first word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Share(_) => "share",
            Self::ReadDirect(..) => "read-direct",
            Self::Write(_) => "write",
            Self::WriteDirect(..) => "write-direct",
            Self::Punch(_) => "punch",
            Self::Zero(_) => "zero",
            Self::Allocate(_) => "allocate",
            Self::Truncate(..) => "truncate",
            Self::Sync(_) => "sync",
            Self::SyncAll => "sync-all",
            Self::Extents(_) => "extents",
            Self::Seek(..) => "seek",
            Self::Recreate(_) => "recreate",
            Self::Evict => "evict",
            Self::Reopen => "reopen",
            Self::Verify => "verify",
            Self::Commit(..) => "commit",
            Self::Both(..) => "both",
        }
    }

    /// The ranges that it names, to be made smaller.
    pub fn spans(&mut self) -> Vec<&mut Span> {
        match self {
            Self::Read(span)
            | Self::Share(span)
            | Self::ReadDirect(span, _)
            | Self::Punch(span)
            | Self::Zero(span)
            | Self::Allocate(span) => vec![span],
            Self::Write(fill) | Self::WriteDirect(fill, _) => vec![&mut fill.span],
            Self::Commit(_, fills) => fills.iter_mut().map(|f| &mut f.span).collect(),
            Self::Both(a, b) => {
                let mut spans = a.spans();
                spans.extend(b.spans());
                spans
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}+{}", self.object, self.at, self.len)
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.span, self.tag)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Read(span)
            | Self::Share(span)
            | Self::Punch(span)
            | Self::Zero(span)
            | Self::Allocate(span) => write!(f, " {span}"),
            Self::Write(fill) => write!(f, " {fill}"),
            Self::ReadDirect(span, skew) => write!(f, " {span} @{skew}"),
            Self::WriteDirect(fill, skew) => write!(f, " {fill} @{skew}"),
            Self::Seek(object, at) => write!(f, " {object} {at}"),
            Self::Truncate(object, size) => write!(f, " {object} {size}"),
            Self::Sync(object) | Self::Extents(object) | Self::Recreate(object) => {
                write!(f, " {object}")
            }
            Self::SyncAll | Self::Evict | Self::Reopen | Self::Verify => Ok(()),
            Self::Commit(end, fills) => {
                let end = match end {
                    End::Durable => "durable",
                    End::Seen => "seen",
                    End::Dropped => "dropped",
                };
                let fills: Vec<String> = fills.iter().map(Fill::to_string).collect();
                write!(f, " {end} {}", fills.join(", "))
            }
            Self::Both(a, b) => write!(f, " {a} | {b}"),
        }
    }
}

impl FromStr for Span {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (object, range) = text.split_once(' ').context("an object and a range")?;
        let (at, len) = range.split_once('+').context("a range is written at+len")?;
        let span = Self { object: object.parse()?, at: at.parse()?, len: len.parse()? };
        ensure!(span.at.checked_add(span.len).is_some(), "the range has no end");
        Ok(span)
    }
}

impl FromStr for Fill {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (span, tag) = text.split_once(" #").context("content is written #tag")?;
        Ok(Self { span: span.parse()?, tag: tag.parse()? })
    }
}

/// What stands before ` @skew`, and the skew.
fn skewed<T: FromStr<Err = anyhow::Error>>(text: &str) -> Result<(T, u64)> {
    let (what, skew) = text.split_once(" @").context("a place in a buffer is written @byte")?;
    Ok((what.parse()?, skew.parse()?))
}

fn commit(text: &str) -> Result<Op> {
    let (end, fills) = text.split_once(' ').unwrap_or((text, ""));
    let end = match end {
        "durable" => End::Durable,
        "seen" => End::Seen,
        "dropped" => End::Dropped,
        other => bail!("no transaction ends as {other}"),
    };
    let fills = fills.split(", ").filter(|f| !f.is_empty()).map(Fill::from_str);
    Ok(Op::Commit(end, fills.collect::<Result<_>>()?))
}

impl FromStr for Op {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match name {
            "read" => Self::Read(rest.parse()?),
            "share" => Self::Share(rest.parse()?),
            "read-direct" => {
                let (span, skew) = skewed(rest)?;
                Self::ReadDirect(span, skew)
            }
            "write" => Self::Write(rest.parse()?),
            "write-direct" => {
                let (fill, skew) = skewed(rest)?;
                Self::WriteDirect(fill, skew)
            }
            "punch" => Self::Punch(rest.parse()?),
            "zero" => Self::Zero(rest.parse()?),
            "allocate" => Self::Allocate(rest.parse()?),
            "truncate" => {
                let (object, size) = rest.split_once(' ').context("an object and a size")?;
                Self::Truncate(object.parse()?, size.parse()?)
            }
            "sync" => Self::Sync(rest.parse()?),
            "sync-all" => Self::SyncAll,
            "extents" => Self::Extents(rest.parse()?),
            "seek" => {
                let (object, at) = rest.split_once(' ').context("an object and a byte")?;
                Self::Seek(object.parse()?, at.parse()?)
            }
            "recreate" => Self::Recreate(rest.parse()?),
            "evict" => Self::Evict,
            "reopen" => Self::Reopen,
            "verify" => Self::Verify,
            "commit" => commit(rest)?,
            "both" => {
                let (a, b) = rest.split_once(" | ").context("two operations")?;
                Self::Both(Box::new(a.parse()?), Box::new(b.parse()?))
            }
            other => bail!("no operation is called {other:?}"),
        })
    }
}

/// Reads a log: one operation a line; lines that are empty or start with `#` are skipped.
pub fn parse_log(text: &str) -> Result<Vec<Op>> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parse = |(at, line): (usize, &str)| {
        line.parse().with_context(|| format!("line {}: {line:?}", at + 1))
    };
    lines.map(parse).collect()
}

/// The text of a log.
pub fn show_log(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_the_position_alone() {
        let span = Span { object: 0, at: 5, len: 1000 };
        let all = Fill { span, tag: 7 }.bytes();
        let part = Fill { span: Span { at: 300, len: 11, ..span }, tag: 7 }.bytes();
        assert_eq!(all.len(), 1000);
        assert_eq!(part, all[295..306]);
        assert!(all.iter().all(|&byte| byte != 0));
        assert_ne!(Fill { span, tag: 8 }.bytes(), all);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "reed 0 1+1", "read 0 1", "read 0 18446744073709551615+1", "both read 0 1+1"]
        {
            assert!(text.parse::<Op>().is_err(), "{text:?}");
        }
    }
}
