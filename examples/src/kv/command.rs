//! Which command the arguments are.
//!
//! Guarantees that a parsed command has the right number of arguments, of the right form; anything
//! else is the text of an error reply. Does not check the lengths of keys and values (`op` does) and
//! does nothing. Called by `connection`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::kv::arguments::Arguments;
use crate::kv::arguments::arity;
use crate::kv::arguments::printable;
use crate::kv::ask::Command;
use crate::kv::ask::Refusal;
use crate::kv::keyspace;
use crate::kv::reply::Reply;
use crate::kv::service;
use crate::kv::shelf::Staged;
use crate::kv::strings;
use crate::kv::units::Millis;

/// A name, how many arguments may follow it, and what reads them.
type Row = (&'static str, usize, usize, fn(Arguments) -> Result<Command, Refusal>);

const MANY: usize = usize::MAX;

/// The longest name.
const NAME_BYTES_MAX: usize = 11;

/// Every command.
const TABLE: &[Row] = &[
    ("append", 2, 2, strings::append),
    ("auth", 1, 2, service::auth),
    ("client", 1, MANY, service::client),
    ("command", 0, MANY, |all| service::command(all, TABLE.len())),
    ("config", 1, MANY, service::config),
    ("dbsize", 0, 0, service::dbsize),
    ("decr", 1, 1, strings::decr),
    ("decrby", 2, 2, strings::decrby),
    ("del", 1, MANY, keyspace::del),
    ("discard", 0, 0, service::discard),
    ("echo", 1, 1, service::echo),
    ("exec", 0, 0, service::exec),
    ("exists", 1, MANY, keyspace::exists),
    ("expire", 2, MANY, keyspace::expire),
    ("expireat", 2, MANY, keyspace::expireat),
    ("expiretime", 1, 1, keyspace::expiretime),
    ("flushall", 0, 1, keyspace::flush),
    ("flushdb", 0, 1, keyspace::flush),
    ("get", 1, 1, strings::get),
    ("getdel", 1, 1, strings::getdel),
    ("getex", 1, MANY, strings::getex),
    ("getrange", 3, 3, strings::getrange),
    ("getset", 2, 2, strings::getset),
    ("hello", 0, MANY, service::hello),
    ("incr", 1, 1, strings::incr),
    ("incrby", 2, 2, strings::incrby),
    ("incrbyfloat", 2, 2, strings::incrbyfloat),
    ("info", 0, MANY, service::info),
    ("keyrange", 2, MANY, keyspace::range),
    ("mget", 1, MANY, strings::mget),
    ("mset", 2, MANY, strings::mset),
    ("msetnx", 2, MANY, strings::msetnx),
    ("multi", 0, 0, service::multi),
    ("persist", 1, 1, keyspace::persist),
    ("pexpire", 2, MANY, keyspace::pexpire),
    ("pexpireat", 2, MANY, keyspace::pexpireat),
    ("pexpiretime", 1, 1, keyspace::pexpiretime),
    ("ping", 0, 1, service::ping),
    ("psetex", 3, 3, strings::psetex),
    ("pttl", 1, 1, keyspace::pttl),
    ("quit", 0, MANY, service::quit),
    ("randomkey", 0, 0, service::randomkey),
    ("rename", 2, 2, keyspace::rename),
    ("renamenx", 2, 2, keyspace::renamenx),
    ("reset", 0, 0, service::reset),
    ("scan", 1, MANY, keyspace::scan),
    ("select", 1, 1, service::select),
    ("set", 2, MANY, strings::set),
    ("setex", 3, 3, strings::setex),
    ("setnx", 2, 2, strings::setnx),
    ("setrange", 3, 3, strings::setrange),
    ("strlen", 1, 1, strings::strlen),
    ("substr", 3, 3, strings::getrange),
    ("time", 0, 0, service::time),
    ("touch", 1, MANY, keyspace::exists),
    ("ttl", 1, 1, keyspace::ttl),
    ("type", 1, 1, keyspace::kind),
    ("unlink", 1, MANY, keyspace::del),
    ("unwatch", 0, 0, service::unwatch),
    ("watch", 1, MANY, service::watch),
];

static ROWS: LazyLock<HashMap<&'static [u8], &'static Row>> =
    LazyLock::new(|| TABLE.iter().map(|row| (row.0.as_bytes(), row)).collect());

/// A command as it came: its arguments, and those of them that are long, which stand empty among the
/// others, with their places.
#[derive(Debug, Default)]
pub struct Words {
    /// The name and what follows it.
    pub plain: Vec<Bytes>,
    /// Where in `plain`, and what.
    pub long: Vec<(usize, Arc<Staged>)>,
}

/// Whether the argument at `index` behind the name may be long: those that are values.
fn may_be_long(name: &str, index: usize) -> bool {
    match name {
        "append" | "getset" | "set" | "setnx" => index == 1,
        "psetex" | "setex" | "setrange" => index == 2,
        "mset" | "msetnx" => index % 2 == 1,
        _ => false,
    }
}

fn row(name: &[u8]) -> Option<&'static Row> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    ROWS.get(&lower[..]).copied()
}

/// Reads a command that came at `now`. There is at least one argument. A refusal is an unknown name or a
/// wrong number of arguments, which spoil a transaction; what else is wrong is an error in the command's
/// place of it, as in Redis.
pub fn parse(words: Words, now: Millis) -> Result<Command, Refusal> {
    let Words { plain: mut rest, mut long } = words;
    let name = rest.remove(0);
    let Some((name, least, most, read)) = row(&name) else {
        let words = rest.iter().take(8).map(|word| format!("'{}' ", printable(word)));
        let words: String = words.collect();
        let name = printable(&name);
        return Err(format!("ERR unknown command '{name}', with args beginning with: {words}"));
    };
    if !(*least..=*most).contains(&rest.len()) {
        return Err(arity(name));
    }
    long.iter_mut().for_each(|(at, _)| *at = at.saturating_sub(1));
    if !long.iter().all(|(at, _)| may_be_long(name, *at)) {
        return Ok(Command::Ready(Reply::err(format_args!("an argument of '{name}' is too long"))));
    }
    let read = read(Arguments { name, rest, long, now });
    Ok(read.unwrap_or_else(|refusal| Command::Ready(Reply::Error(refusal))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::ask::Scan;
    use crate::kv::limits::SCAN_COUNT_MAX;
    use crate::kv::op::Expiry;
    use crate::kv::op::Op;
    use crate::kv::op::When;

    fn words(line: &'static str) -> Result<Command, Refusal> {
        let word = |word: &'static str| Bytes::from_static(word.as_bytes());
        let plain = line.split(' ').map(word).collect();
        parse(Words { plain, long: Vec::new() }, 1000)
    }

    #[test]
    fn commands_are_recognized_in_any_case() {
        assert!(matches!(words("get k"), Ok(Command::Read(p)) if p.keys() == ["k"]));
        let Ok(Command::Write(set)) = words("SeT k v nx Px 5") else { panic!("no write") };
        let [Op::Put { when, expires, .. }] = set.ops[..] else { panic!("no put") };
        assert_eq!((when, expires), (When::Missing, Expiry::At(1005)));
        let Ok(Command::Scan(scan)) = words("SCAN 5 COUNT 99999999 MATCH a*") else {
            panic!("no scan")
        };
        let (pattern, count) = (Some("a*".into()), SCAN_COUNT_MAX);
        assert_eq!(scan, Scan { cursor: 5, pattern, count, none: false, now: 1000 });
    }

    #[test]
    fn the_table_is_in_order_and_nothing_is_in_it_twice() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(TABLE.iter().map(|row| row.0.len()).max(), Some(NAME_BYTES_MAX));
    }

    #[test]
    fn wrong_forms_are_refused() {
        for line in [
            "GET",
            "GET a b",
            "SET a",
            "SET a b EX",
            "SET a b EX 0",
            "SET a b EX -1",
            "SET a b EX x",
            "SET a b EX 9223372036854775807",
            "SET a b EX 1 PX 1",
            "SET a b EX 1 KEEPTTL",
            "SET a b NX XX",
            "MSET a",
            "MSET a b c",
            "MSETNX a b c",
            "SCAN x",
            "SCAN -1",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT 0",
            "SELECT 1",
            "NOSUCH",
            "HELLO 4",
            "HELLO 3 AUTH a",
            "DBSIZE 1",
            "CLIENT",
            "CONFIG SET a b",
            "EXPIRE a 1 NX XX",
            "EXPIRE a 1 GT LT",
            "EXPIRE a 1 QQ",
            "INCRBY a 1.5",
            "DECRBY a -9223372036854775808",
            "INCRBYFLOAT a nan",
            "SETRANGE a -1 x",
            "GETEX a EX",
            "GETEX a PERSIST EX 1",
            "KEYRANGE a b",
        ] {
            let refused = matches!(words(line), Err(_) | Ok(Command::Ready(Reply::Error(_))));
            assert!(refused, "{line}");
        }
    }
}
