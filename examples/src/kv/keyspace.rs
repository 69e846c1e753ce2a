//! The commands on keys: whether, until when, under which name, and which there are.
//!
//! Guarantees that a key past its end is seen by none of them. Called by `command`.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::arguments::Arguments;
use crate::kv::arguments::end;
use crate::kv::arguments::integer;
use crate::kv::arguments::not_an_integer;
use crate::kv::arguments::printable;
use crate::kv::arguments::syntax;
use crate::kv::ask::Command;
use crate::kv::ask::Range;
use crate::kv::ask::Refusal;
use crate::kv::ask::Scan;
use crate::kv::ask::Shape;
use crate::kv::ask::Write;
use crate::kv::limits::KEY_BYTES_MAX;
use crate::kv::limits::SCAN_COUNT_MAX;
use crate::kv::op::Change;
use crate::kv::op::Effect;
use crate::kv::op::Entry;
use crate::kv::op::Op;
use crate::kv::op::Procedure;
use crate::kv::op::is_live;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::strings::Parsed;
use crate::kv::units::Millis;

/// DEL key..., UNLINK key...
pub fn del(all: Arguments) -> Parsed {
    let now = all.now;
    let ops = all.rest.into_iter().map(|key| Op::Delete { key, now }).collect();
    Ok(Command::Write(Write { ops, shape: Shape::Count }))
}

/// EXISTS key..., TOUCH key...: a key counts as often as it is named
pub fn exists(all: Arguments) -> Parsed {
    look(all.rest, all.now, |found| found.iter().flatten().count() as i64)
}

fn look<R: Into<Reply>>(
    keys: Vec<Bytes>,
    now: Millis,
    body: impl Fn(&[Option<Entry>]) -> R + Send + Sync + 'static,
) -> Parsed {
    let body = move |found: &mut [Option<Entry>]| Effect::reply(body(found));
    Ok(Command::Read(Procedure::new(keys, now, 0, body).without_values()))
}

/// TYPE key
pub fn kind(all: Arguments) -> Parsed {
    look(all.rest, all.now, |found| {
        Reply::Simple(if found[0].is_some() { "string" } else { "none" })
    })
}

/// TTL key
pub fn ttl(all: Arguments) -> Parsed {
    let now = all.now;
    until(all, move |end| ((end - now) as i64 + 500) / 1000)
}

/// PTTL key
pub fn pttl(all: Arguments) -> Parsed {
    let now = all.now;
    until(all, move |end| (end - now) as i64)
}

/// EXPIRETIME key
pub fn expiretime(all: Arguments) -> Parsed {
    until(all, |end| (end as i64 + 500) / 1000)
}

/// PEXPIRETIME key
pub fn pexpiretime(all: Arguments) -> Parsed {
    until(all, |end| end as i64)
}

/// -2 without the key, -1 for one without end.
fn until(all: Arguments, show: impl Fn(Millis) -> i64 + Send + Sync + 'static) -> Parsed {
    look(all.rest, all.now, move |found| match &found[0] {
        None => -2,
        Some(entry) => entry.expires.map_or(-1, &show),
    })
}

/// EXPIRE key seconds [NX | XX | GT | LT]
pub fn expire(all: Arguments) -> Parsed {
    expire_at(all, b"EX")
}

/// PEXPIRE key milliseconds [NX | XX | GT | LT]
pub fn pexpire(all: Arguments) -> Parsed {
    expire_at(all, b"PX")
}

/// EXPIREAT key seconds [NX | XX | GT | LT]
pub fn expireat(all: Arguments) -> Parsed {
    expire_at(all, b"EXAT")
}

/// PEXPIREAT key milliseconds [NX | XX | GT | LT]
pub fn pexpireat(all: Arguments) -> Parsed {
    expire_at(all, b"PXAT")
}

fn expire_at(all: Arguments, unit: &[u8]) -> Parsed {
    let (mut only_new, mut only_old, mut later, mut earlier) = (false, false, false, false);
    for option in all.options(2) {
        match &option.to_ascii_uppercase()[..] {
            b"NX" => only_new = true,
            b"XX" => only_old = true,
            b"GT" => later = true,
            b"LT" => earlier = true,
            _ => return Err(format!("ERR Unsupported option {}", printable(option))),
        }
    }
    if only_new && (only_old || later || earlier) {
        let why = "NX and XX, GT or LT options at the same time are not compatible";
        return Err(format!("ERR {why}"));
    }
    if later && earlier {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let time = end(unit, all.integer(1)?, all.now).ok_or_else(|| all.invalid_time())?;
    let (key, now) = (all.at(0), all.now);
    let body = move |found: &mut [Option<Entry>]| {
        let Some(entry) = &found[0] else { return Effect::reply(false) };
        // An entry without end ends later than any other.
        let old = entry.expires.unwrap_or(Millis::MAX);
        let refused = (only_new && entry.expires.is_some())
            || (only_old && entry.expires.is_none())
            || (later && time <= old)
            || (earlier && time >= old);
        match refused {
            true => Effect::reply(false),
            false if is_live(Some(time), now) => {
                Effect::change(Change::Expire(key.clone(), Some(time)), true)
            }
            false => Effect::change(Change::Remove(key.clone()), true),
        }
    };
    Ok(call(Procedure::new(vec![all.at(0)], now, 0, body).without_values()))
}

fn call(procedure: Procedure) -> Command {
    let ops = vec![Op::Call(Arc::new(procedure))];
    Command::Write(Write { ops, shape: Shape::Answer })
}

/// PERSIST key
pub fn persist(all: Arguments) -> Parsed {
    let key = all.at(0);
    let body = move |found: &mut [Option<Entry>]| match &found[0] {
        Some(entry) if entry.expires.is_some() => {
            Effect::change(Change::Expire(key.clone(), None), true)
        }
        _ => Effect::reply(false),
    };
    Ok(call(Procedure::new(all.rest, all.now, 0, body).without_values()))
}

/// RENAME key new
pub fn rename(all: Arguments) -> Parsed {
    moved(all, OK, None)
}

/// RENAMENX key new
pub fn renamenx(all: Arguments) -> Parsed {
    moved(all, Reply::Integer(1), Some(Reply::Integer(0)))
}

/// `taken` is the answer if the new name is in use; none: what it stands for goes.
fn moved(all: Arguments, done: Reply, taken: Option<Reply>) -> Parsed {
    let (from, to) = (all.at(0), all.at(1));
    let body = move |found: &mut [Option<Entry>]| {
        if found[0].is_none() {
            return Effect::reply(Reply::err("no such key"));
        }
        match &taken {
            Some(taken) if found[1].is_some() => return Effect::reply(taken.clone()),
            _ if from == to => return Effect::reply(done.clone()),
            _ => {}
        }
        Effect::change(Change::Rename(from.clone(), to.clone()), done.clone())
    };
    Ok(call(Procedure::new(all.rest, all.now, 0, body).without_values()))
}

/// FLUSHDB, FLUSHALL
pub fn flush(_: Arguments) -> Parsed {
    Ok(Command::Write(Write { ops: vec![Op::Clear], shape: Shape::Stored }))
}

/// SCAN cursor [MATCH pattern] [COUNT n] [TYPE name]
pub fn scan(all: Arguments) -> Parsed {
    let cursor = std::str::from_utf8(&all.rest[0]).ok().and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or("ERR invalid cursor")?;
    let mut scan = Scan { cursor, pattern: None, count: 10, none: false, now: all.now };
    for option in all.rest[1..].chunks(2) {
        let [name, value] = option else { return Err(syntax()) };
        match &name.to_ascii_uppercase()[..] {
            b"MATCH" => scan.pattern = Some(value.clone()),
            b"COUNT" => scan.count = count(value)?,
            b"TYPE" => scan.none = !value.eq_ignore_ascii_case(b"string"),
            _ => return Err(syntax()),
        }
    }
    Ok(Command::Scan(scan))
}

fn count(text: &[u8]) -> Result<usize, Refusal> {
    match integer(text) {
        None => Err(not_an_integer()),
        Some(..=0) => Err(syntax()),
        Some(count) => Ok(count.min(SCAN_COUNT_MAX as i64) as usize),
    }
}

/// KEYRANGE min max [COUNT n] [VALUES]: keys in order. A bound is `[key` (with it), `(key` (without
/// it), `-` (before all) or `+` (behind all). To go on, begin with `(` and the last key.
pub fn range(all: Arguments) -> Parsed {
    let (from, from_inclusive) = match &all.rest[0][..] {
        b"-" => (Bytes::new(), true),
        b"+" => (vec![0xFF; KEY_BYTES_MAX + 1].into(), true),
        _ => bound(&all.rest[0])?,
    };
    let (to, to_inclusive) = match &all.rest[1][..] {
        b"+" => (None, true),
        b"-" => (Some(Bytes::new()), false),
        _ => bound(&all.rest[1]).map(|(key, inclusive)| (Some(key), inclusive))?,
    };
    // The least key behind another one is that one and a zero.
    let from = if from_inclusive { from } else { [&from[..], &[0]].concat().into() };
    let (count, values, now) = (SCAN_COUNT_MAX, false, all.now);
    let mut range = Range { from, to, to_inclusive, count, values, now };
    let mut options = all.options(2);
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            b"VALUES" => range.values = true,
            b"COUNT" => range.count = self::count(options.next().ok_or_else(syntax)?)?,
            _ => return Err(syntax()),
        }
    }
    Ok(Command::Range(range))
}

fn bound(text: &Bytes) -> Result<(Bytes, bool), Refusal> {
    match text.first() {
        Some(b'[') => Ok((text.slice(1..), true)),
        Some(b'(') => Ok((text.slice(1..), false)),
        _ => Err("ERR min or max not valid string range item".into()),
    }
}
