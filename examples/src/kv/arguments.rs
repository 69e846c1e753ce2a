//! The arguments of a command: numbers, times and options.
//!
//! Guarantees the texts that Redis has for what is wrong. Called by the rooms of the commands.

use std::sync::Arc;

use bytes::Bytes;

use crate::kv::ask::Refusal;
use crate::kv::op::Expiry;
use crate::kv::shelf::Staged;
use crate::kv::units::Millis;
use crate::kv::value::New;

/// A command's name and what follows it; their number was checked.
#[derive(Debug)]
pub struct Arguments {
    /// In small letters.
    pub name: &'static str,
    /// Without the name; empty where a long one stands.
    pub rest: Vec<Bytes>,
    /// The long ones, and where they stand in `rest`.
    pub long: Vec<(usize, Arc<Staged>)>,
    /// The time of the server.
    pub now: Millis,
}

impl Arguments {
    /// The argument at `index`, which exists.
    pub fn at(&self, index: usize) -> Bytes {
        self.rest[index].clone()
    }

    /// The value at `index`, long or not.
    pub fn value(&self, index: usize) -> New {
        let long = self.long.iter().find(|(at, _)| *at == index);
        long.map_or_else(|| New::Bytes(self.at(index)), |(_, value)| New::Staged(value.clone()))
    }

    /// The number at `index`.
    pub fn integer(&self, index: usize) -> Result<i64, Refusal> {
        integer(&self.rest[index]).ok_or_else(not_an_integer)
    }

    /// Options from `index` on.
    pub fn options(&self, index: usize) -> impl Iterator<Item = &Bytes> {
        self.rest[index..].iter()
    }

    /// The time of a time option like `EX`, and what was given for it.
    pub fn expiry(&self, unit: &[u8], given: Option<&Bytes>) -> Result<Expiry, Refusal> {
        let given = given.ok_or_else(syntax)?;
        let number = integer(given).ok_or_else(not_an_integer)?;
        let time = end(unit, number, self.now).filter(|_| number > 0);
        time.map(Expiry::At).ok_or_else(|| self.invalid_time())
    }

    /// A time that cannot be.
    pub fn invalid_time(&self) -> Refusal {
        format!("ERR invalid expire time in '{}' command", self.name)
    }
}

/// The time that `number` of a unit means: `EX`, `PX` from now on, `EXAT`, `PXAT` since 1970. None if
/// there is no such time. What is long past is 1970.
pub fn end(unit: &[u8], number: i64, now: Millis) -> Option<Millis> {
    let (factor, from) = match unit {
        b"EX" => (1000, now as i64),
        b"PX" => (1, now as i64),
        b"EXAT" => (1000, 0),
        _ => (1, 0),
    };
    let time = number.checked_mul(factor)?.checked_add(from)?;
    Some(time.max(0) as Millis)
}

/// A whole number in its one form: no plus, no leading zeroes.
pub fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        b"0" => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    plain.then_some(())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A number that is finite or infinite, and not "not a number".
pub fn float(text: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(number)
}

/// The start of what a client sent, fit for a reply.
pub fn printable(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(128)].escape_ascii().to_string()
}

/// The arguments make no sense together.
pub fn syntax() -> Refusal {
    "ERR syntax error".into()
}

/// The text is no number.
pub fn not_an_integer() -> Refusal {
    "ERR value is not an integer or out of range".into()
}

/// The text is no number with a point.
pub fn not_a_float() -> Refusal {
    "ERR value is not a valid float".into()
}

/// The command has another number of arguments.
pub fn arity(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_one_form() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("+1", None),
            ("01", None),
            ("-0", None),
            ("", None),
            ("-", None),
            ("1 ", None),
            ("1.0", None),
        ] {
            assert_eq!(integer(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn times_do_not_overflow() {
        assert_eq!(end(b"EX", 2, 500), Some(2500));
        assert_eq!(end(b"PXAT", 2, 500), Some(2));
        assert_eq!(end(b"EX", -10, 500), Some(0));
        assert_eq!(end(b"EX", i64::MAX / 10, 500), None);
        assert_eq!(end(b"PX", i64::MAX, 500), None);
    }
}
