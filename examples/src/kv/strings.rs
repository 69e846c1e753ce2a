//! The commands on values.
//!
//! What depends on the value that is there is a procedure: the writer runs it in its place among all
//! changes, so that INCR from many clients loses none. What only stores is a put. Of a value that is or
//! becomes large, APPEND and SETRANGE change a part.
//!
//! Guarantees values of at most `VALUE_BYTES_MAX` bytes. Called by `command`.

use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;

use crate::kv::arguments::Arguments;
use crate::kv::arguments::arity;
use crate::kv::arguments::float;
use crate::kv::arguments::integer;
use crate::kv::arguments::not_a_float;
use crate::kv::arguments::not_an_integer;
use crate::kv::arguments::syntax;
use crate::kv::ask::Command;
use crate::kv::ask::Refusal;
use crate::kv::ask::Shape;
use crate::kv::ask::Write;
use crate::kv::limits::LOGGED_VALUE_BYTES_MAX;
use crate::kv::limits::VALUE_BYTES_MAX;
use crate::kv::op::Change;
use crate::kv::op::Effect;
use crate::kv::op::Entry;
use crate::kv::op::Expiry;
use crate::kv::op::Op;
use crate::kv::op::Procedure;
use crate::kv::op::When;
use crate::kv::op::is_live;
use crate::kv::reply::Reply;
use crate::kv::units::Millis;
use crate::kv::value::New;
use crate::kv::value::Value;

/// What is parsed.
pub type Parsed = Result<Command, Refusal>;

/// GET key
pub fn get(all: Arguments) -> Parsed {
    Ok(Command::Read(value_of(all.rest, all.now)))
}

fn value_of(key: Vec<Bytes>, now: Millis) -> Procedure {
    Procedure::new(key, now, 0, |found| Effect::reply(value(&mut found[0])))
}

fn value(entry: &mut Option<Entry>) -> Reply {
    Reply::value(entry.take().map(|entry| entry.value))
}

/// MGET key...
pub fn mget(all: Arguments) -> Parsed {
    let body = |found: &mut [Option<Entry>]| {
        Effect::reply(Reply::Array(found.iter_mut().map(value).collect()))
    };
    Ok(Command::Read(Procedure::new(all.rest, all.now, 0, body)))
}

/// STRLEN key
pub fn strlen(all: Arguments) -> Parsed {
    let body = |found: &mut [Option<Entry>]| {
        Effect::reply(found[0].as_ref().map_or(0, |entry| entry.value.len() as i64))
    };
    Ok(Command::Read(Procedure::new(all.rest, all.now, 0, body)))
}

/// GETRANGE key start end, both of which count from the end if negative
pub fn getrange(all: Arguments) -> Parsed {
    let (start, end) = (all.integer(1)?, all.integer(2)?);
    let body = move |found: &mut [Option<Entry>]| {
        let value = found[0].as_ref().map_or(Value::default(), |entry| entry.value.clone());
        let span = span(value.len(), start, end);
        Effect::reply(match value {
            Value::Bytes(bytes) => Reply::Bulk(bytes.slice(span)),
            Value::Large(_) if span.is_empty() => Reply::Bulk(Bytes::new()),
            Value::Large(large) => Reply::Large(large.slice(span)),
        })
    };
    Ok(Command::Read(Procedure::new(vec![all.at(0)], all.now, 0, body)))
}

fn span(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let len = len as i64;
    let place = |at: i64| if at < 0 { len.saturating_add(at).max(0) } else { at };
    // An end before the first byte stands for the first one only if the start does not lie behind it.
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let (start, end) = (place(start), place(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

/// SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]
pub fn set(all: Arguments) -> Parsed {
    let (mut when, mut expires, mut wants_old) = (When::Always, Expiry::Never, false);
    let mut options = all.options(2);
    while let Some(option) = options.next() {
        match &option.to_ascii_uppercase()[..] {
            b"NX" if when != When::Present => when = When::Missing,
            b"XX" if when != When::Missing => when = When::Present,
            b"GET" => wants_old = true,
            b"KEEPTTL" if expires == Expiry::Never => expires = Expiry::Keep,
            unit @ (b"EX" | b"PX" | b"EXAT" | b"PXAT") if expires == Expiry::Never => {
                expires = all.expiry(unit, options.next())?;
            }
            _ => return Err(syntax()),
        }
    }
    let put = Op::Put { key: all.at(0), value: all.value(1), when, expires, now: all.now };
    if !wants_old {
        return Ok(write([put], Shape::Stored));
    }
    let old = Op::Call(Arc::new(value_of(vec![all.at(0)], all.now)));
    Ok(write([old, put], Shape::Answer))
}

fn write(ops: impl Into<Vec<Op>>, shape: Shape) -> Command {
    Command::Write(Write { ops: ops.into(), shape })
}

/// SETNX key value
pub fn setnx(all: Arguments) -> Parsed {
    let (key, value, now) = (all.at(0), all.value(1), all.now);
    let put = Op::Put { key, value, when: When::Missing, expires: Expiry::Never, now };
    Ok(write([put], Shape::Flag))
}

/// SETEX key seconds value
pub fn setex(all: Arguments) -> Parsed {
    set_for(all, b"EX")
}

/// PSETEX key milliseconds value
pub fn psetex(all: Arguments) -> Parsed {
    set_for(all, b"PX")
}

fn set_for(all: Arguments, unit: &[u8]) -> Parsed {
    let expires = all.expiry(unit, Some(&all.at(1)))?;
    let (key, value, now) = (all.at(0), all.value(2), all.now);
    Ok(write([Op::Put { key, value, when: When::Always, expires, now }], Shape::Stored))
}

/// GETSET key value
pub fn getset(all: Arguments) -> Parsed {
    let old = Op::Call(Arc::new(value_of(vec![all.at(0)], all.now)));
    Ok(write([old, Op::put(all.at(0), all.value(1))], Shape::Answer))
}

/// MSET key value...
pub fn mset(all: Arguments) -> Parsed {
    let pairs = pairs(&all)?;
    let puts = pairs.into_iter().map(|(key, value)| Op::put(key, value));
    Ok(write(puts.collect::<Vec<Op>>(), Shape::Stored))
}

/// MSETNX key value...: all or none
pub fn msetnx(all: Arguments) -> Parsed {
    let pairs = pairs(&all)?;
    let keys = pairs.iter().map(|(key, _)| key.clone()).collect();
    let bytes = pairs.iter().map(|(_, value)| value.held()).sum();
    let body = move |found: &mut [Option<Entry>]| {
        if found.iter().any(Option::is_some) {
            return Effect::reply(0);
        }
        let put = |(key, value): &(Bytes, New)| put(key, value.clone(), None);
        Effect { changes: pairs.iter().map(put).collect(), reply: Reply::Integer(1) }
    };
    let procedure = Procedure::new(keys, all.now, bytes, body).without_values();
    Ok(call(procedure))
}

fn pairs(all: &Arguments) -> Result<Vec<(Bytes, New)>, Refusal> {
    if !all.rest.len().is_multiple_of(2) {
        return Err(arity(all.name));
    }
    let pair = |index: usize| (all.at(index), all.value(index + 1));
    Ok((0..all.rest.len()).step_by(2).map(pair).collect())
}

fn put(key: &Bytes, value: impl Into<New>, expires: Option<u64>) -> Change {
    Change::Put(key.clone(), value.into(), expires)
}

fn call(procedure: Procedure) -> Command {
    write([Op::Call(Arc::new(procedure))], Shape::Answer)
}

/// GETDEL key
pub fn getdel(all: Arguments) -> Parsed {
    let key = all.at(0);
    let body = move |found: &mut [Option<Entry>]| match found[0].take() {
        None => Effect::reply(Reply::Null),
        Some(entry) => Effect::change(Change::Remove(key.clone()), entry.value),
    };
    Ok(call(Procedure::new(all.rest, all.now, 0, body)))
}

/// GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]
pub fn getex(all: Arguments) -> Parsed {
    if all.rest.len() == 1 {
        return get(all);
    }
    let mut options = all.options(1);
    let expires = match options.next().map(|option| option.to_ascii_uppercase()).as_deref() {
        Some(b"PERSIST") => None,
        Some(unit @ (b"EX" | b"PX" | b"EXAT" | b"PXAT")) => {
            match all.expiry(unit, options.next())? {
                Expiry::At(time) => Some(time),
                Expiry::Never | Expiry::Keep => None,
            }
        }
        _ => return Err(syntax()),
    };
    if options.next().is_some() {
        return Err(syntax());
    }
    let (key, now) = (all.at(0), all.now);
    let body = move |found: &mut [Option<Entry>]| match &found[0] {
        None => Effect::reply(Reply::Null),
        Some(entry) if entry.expires.is_none() && expires.is_none() => {
            Effect::reply(entry.value.clone())
        }
        Some(entry) if !is_live(expires, now) => {
            Effect::change(Change::Remove(key.clone()), entry.value.clone())
        }
        Some(entry) => Effect::change(Change::Expire(key.clone(), expires), entry.value.clone()),
    };
    Ok(call(Procedure::new(vec![all.at(0)], all.now, 0, body)))
}

/// INCR key
pub fn incr(all: Arguments) -> Parsed {
    add(all, 1)
}

/// DECR key
pub fn decr(all: Arguments) -> Parsed {
    add(all, -1)
}

/// INCRBY key n
pub fn incrby(all: Arguments) -> Parsed {
    let by = all.integer(1)?;
    add(all, by)
}

/// DECRBY key n
pub fn decrby(all: Arguments) -> Parsed {
    let by = all.integer(1)?.checked_neg().ok_or("ERR decrement would overflow")?;
    add(all, by)
}

fn add(all: Arguments, by: i64) -> Parsed {
    let key = all.at(0);
    let body = move |found: &mut [Option<Entry>]| {
        let old = found[0].as_ref();
        let Some(number) = old.map_or(Some(0), |entry| integer(entry.value.bytes()?)) else {
            return Effect::reply(Reply::Error(not_an_integer()));
        };
        let Some(sum) = number.checked_add(by) else {
            return Effect::reply(Reply::err("increment or decrement would overflow"));
        };
        let expires = old.and_then(|entry| entry.expires);
        Effect::change(put(&key, sum.to_string(), expires), sum)
    };
    Ok(call(Procedure::new(vec![all.at(0)], all.now, 0, body)))
}

/// INCRBYFLOAT key n
pub fn incrbyfloat(all: Arguments) -> Parsed {
    let key = all.at(0);
    let by = float(&all.rest[1]).ok_or_else(not_a_float)?;
    let body = move |found: &mut [Option<Entry>]| {
        let old = found[0].as_ref();
        let Some(number) = old.map_or(Some(0.0), |entry| float(entry.value.bytes()?)) else {
            return Effect::reply(Reply::Error(not_a_float()));
        };
        let sum = number + by;
        if !sum.is_finite() {
            return Effect::reply(Reply::err("increment would produce NaN or Infinity"));
        }
        let text = shown(sum);
        let expires = old.and_then(|entry| entry.expires);
        Effect::change(put(&key, text.clone(), expires), text)
    };
    Ok(call(Procedure::new(vec![all.at(0)], all.now, 0, body)))
}

/// The shortest text that is the number up to its last bit or two: 0.3, not 0.30000000000000004.
fn shown(number: f64) -> String {
    let short = format!("{number:.14e}").parse().unwrap_or(number);
    // A whole number is exact as it is.
    let near = number.fract() != 0.0 && (short - number).abs() <= 4.0 * f64::EPSILON * number.abs();
    format!("{}", if near { short } else { number } + 0.0)
}

/// APPEND key value
pub fn append(all: Arguments) -> Parsed {
    let (key, tail) = (all.at(0), all.value(1));
    let bytes = tail.held();
    let body = move |found: &mut [Option<Entry>]| {
        let at = found[0].as_ref().map_or(0, |entry| entry.value.len());
        patched(&key, &found[0], at, &tail)
    };
    Ok(call(Procedure::new(vec![all.at(0)], all.now, bytes, body)))
}

/// SETRANGE key offset value
pub fn setrange(all: Arguments) -> Parsed {
    let (key, part) = (all.at(0), all.value(2));
    let at = usize::try_from(all.integer(1)?).map_err(|_| "ERR offset is out of range")?;
    let bytes = part.held();
    let body = move |found: &mut [Option<Entry>]| match part.is_empty() {
        true => Effect::reply(found[0].as_ref().map_or(0, |entry| entry.value.len() as i64)),
        false => patched(&key, &found[0], at, &part),
    };
    Ok(call(Procedure::new(vec![all.at(0)], all.now, bytes, body)))
}

/// The value with `part` in it from `at` on, zeroes between them; the reply is its length.
fn patched(key: &Bytes, old: &Option<Entry>, at: usize, part: &New) -> Effect {
    let (before, expires) = match old {
        Some(entry) => (Some(&entry.value), entry.expires),
        None => (None, None),
    };
    let end = at.saturating_add(part.len());
    if end > VALUE_BYTES_MAX {
        let why = "string exceeds maximum allowed size (proto-max-bulk-len)";
        return Effect::reply(Reply::err(why));
    }
    let len = before.map_or(0, Value::len).max(end);
    if part.is_empty() && before.is_some() {
        return Effect::reply(len as i64);
    }
    let small = before.map_or(Some(&[][..]), |value| value.bytes().map(|bytes| &bytes[..]));
    let (Some(before), New::Bytes(bytes), true) = (small, part, len <= LOGGED_VALUE_BYTES_MAX)
    else {
        return Effect::change(Change::Patch(key.clone(), at, part.clone()), len as i64);
    };
    let mut value = BytesMut::from(before);
    value.resize(len, 0);
    value[at..end].copy_from_slice(bytes);
    Effect::change(put(key, value, expires), len as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_of_redis() {
        for ((start, end), part) in [
            ((0, 3), "This"),
            ((-3, -1), "ing"),
            ((0, -1), "This is a string"),
            ((10, 100), "string"),
            ((5, 3), ""),
            ((-1, -5), ""),
            ((-100, 0), "T"),
            ((100, 200), ""),
            ((i64::MIN, i64::MAX), "This is a string"),
        ] {
            let text = "This is a string";
            assert_eq!(&text[span(text.len(), start, end)], part, "{start} {end}");
        }
        assert_eq!(span(0, 0, -1), 0..0);
    }

    #[test]
    fn sums_are_shown_short_and_exact() {
        assert_eq!(shown(0.1 + 0.2), "0.3");
        assert_eq!(shown(10.5 + 0.1), "10.6");
        assert_eq!(shown(5000.0 + 200.0), "5200");
        assert_eq!(shown(-0.0), "0");
        assert_eq!(shown(9007199254740993.0), "9007199254740992");
    }
}
