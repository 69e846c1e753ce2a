//! Which command the arguments are.
//!
//! Guarantees that a parsed command has the right number of arguments, of the right form; anything
//! else is the text of an error reply. Does not check the lengths of keys and values (`op` does) and
//! does nothing. Called by `connection`.

use bytes::Bytes;

use crate::kv::limits::SCAN_COUNT_MAX;
use crate::kv::op::When;

/// A command that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// PING [text]
    Ping(Option<Bytes>),
    /// ECHO text
    Echo(Bytes),
    /// GET key
    Get(Bytes),
    /// MGET key...
    MGet(Vec<Bytes>),
    /// EXISTS key...
    Exists(Vec<Bytes>),
    /// SET key value [NX | XX]
    Set(Bytes, Bytes, When),
    /// DEL key...
    Del(Vec<Bytes>),
    /// MSET key value...
    MSet(Vec<(Bytes, Bytes)>),
    /// SCAN cursor [MATCH pattern] [COUNT n]
    Scan(Scan),
    /// DBSIZE
    DbSize,
    /// INFO [section]
    Info,
    /// FLUSHALL, FLUSHDB
    Flush,
    /// QUIT
    Quit,
    /// COMMAND, COMMAND DOCS, CONFIG GET of something unknown: an empty list
    EmptyList,
    /// COMMAND COUNT
    CountCommands,
    /// CONFIG GET name...
    ConfigGet(Vec<Bytes>),
    /// SELECT 0, CLIENT SETNAME, CLIENT SETINFO
    Ok,
    /// HELLO [2]
    Hello,
}

/// The arguments of SCAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// 0, or what an earlier step gave.
    pub cursor: u64,
    /// Which keys.
    pub pattern: Option<Bytes>,
    /// How many keys to look at.
    pub count: usize,
}

/// The text of an error reply.
pub type Refusal = String;

/// Reads a command. There is at least one argument.
pub fn parse(mut arguments: Vec<Bytes>) -> Result<Command, Refusal> {
    let name = arguments.remove(0).to_ascii_uppercase();
    let all = arguments;
    let wrong = || Err(arity(&name));
    let command = match (&name[..], all.len()) {
        (b"PING", 0 | 1) => Command::Ping(all.into_iter().next()),
        (b"ECHO", 1) => Command::Echo(one(all)),
        (b"GET", 1) => Command::Get(one(all)),
        (b"MGET", 1..) => Command::MGet(all),
        (b"EXISTS", 1..) => Command::Exists(all),
        (b"SET", 2..) => return set(all),
        (b"DEL" | b"UNLINK", 1..) => Command::Del(all),
        (b"MSET", 2..) if all.len().is_multiple_of(2) => {
            let pair = |pair: &[Bytes]| (pair[0].clone(), pair[1].clone());
            Command::MSet(all.chunks_exact(2).map(pair).collect())
        }
        (b"SCAN", 1..) => return scan(all),
        (b"DBSIZE", 0) => Command::DbSize,
        (b"INFO", _) => Command::Info,
        (b"FLUSHALL" | b"FLUSHDB", 0 | 1) => Command::Flush,
        (b"QUIT", _) => Command::Quit,
        (b"COMMAND", _) => match all.first() {
            Some(what) if what.eq_ignore_ascii_case(b"COUNT") => Command::CountCommands,
            _ => Command::EmptyList,
        },
        (b"CONFIG", 2..) if all[0].eq_ignore_ascii_case(b"GET") => {
            Command::ConfigGet(all[1..].to_vec())
        }
        (b"SELECT", 1) if all[0] == b"0"[..] => Command::Ok,
        (b"SELECT", 1) => return Err("ERR DB index is out of range".into()),
        (b"CLIENT", 1..) => return client(&all[0]),
        (b"HELLO", _) => return hello(&all),
        (b"PING" | b"ECHO" | b"GET" | b"MGET" | b"EXISTS" | b"SET" | b"DEL" | b"UNLINK", _) => {
            return wrong();
        }
        (b"MSET" | b"SCAN" | b"DBSIZE" | b"FLUSHALL" | b"FLUSHDB" | b"SELECT" | b"CLIENT", _) => {
            return wrong();
        }
        _ => return Err(format!("ERR unknown command '{}'", printable(&name))),
    };
    Ok(command)
}

fn one(arguments: Vec<Bytes>) -> Bytes {
    arguments.into_iter().next().expect("the arity was checked")
}

fn arity(name: &[u8]) -> Refusal {
    let name = printable(name).to_ascii_lowercase();
    format!("ERR wrong number of arguments for '{name}' command")
}

/// The start of what a client sent, fit for a reply.
fn printable(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(64)].escape_ascii().to_string()
}

fn set(arguments: Vec<Bytes>) -> Result<Command, Refusal> {
    let mut rest = arguments.into_iter();
    let (Some(key), Some(value)) = (rest.next(), rest.next()) else { return Err(arity(b"set")) };
    let mut when = When::Always;
    for option in rest {
        when = match &option.to_ascii_uppercase()[..] {
            b"NX" if when == When::Always => When::Missing,
            b"XX" if when == When::Always => When::Present,
            _ => return Err("ERR syntax error".into()),
        };
    }
    Ok(Command::Set(key, value, when))
}

fn scan(arguments: Vec<Bytes>) -> Result<Command, Refusal> {
    let cursor = number(&arguments[0]).ok_or("ERR invalid cursor")?;
    let mut scan = Scan { cursor, pattern: None, count: 10 };
    for option in arguments[1..].chunks(2) {
        let [name, value] = option else { return Err("ERR syntax error".into()) };
        match &name.to_ascii_uppercase()[..] {
            b"MATCH" => scan.pattern = Some(value.clone()),
            b"COUNT" => match number(value) {
                None => return Err("ERR value is not an integer or out of range".into()),
                Some(0) => return Err("ERR syntax error".into()),
                Some(count) => scan.count = count.min(SCAN_COUNT_MAX as u64) as usize,
            },
            _ => return Err("ERR syntax error".into()),
        }
    }
    Ok(Command::Scan(scan))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn client(what: &[u8]) -> Result<Command, Refusal> {
    match &what.to_ascii_uppercase()[..] {
        b"SETNAME" | b"SETINFO" => Ok(Command::Ok),
        other => Err(format!("ERR unknown subcommand '{}'", printable(other))),
    }
}

fn hello(arguments: &[Bytes]) -> Result<Command, Refusal> {
    match arguments.first() {
        None => Ok(Command::Hello),
        Some(version) if version[..] == *b"2" => Ok(Command::Hello),
        Some(_) => Err("NOPROTO unsupported protocol version".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &'static str) -> Result<Command, Refusal> {
        parse(line.split(' ').map(Bytes::from_static_str).collect())
    }

    trait Static {
        fn from_static_str(text: &'static str) -> Self;
    }

    impl Static for Bytes {
        fn from_static_str(text: &'static str) -> Self {
            Bytes::from_static(text.as_bytes())
        }
    }

    #[test]
    fn commands_are_recognized_in_any_case() {
        assert_eq!(words("get k"), Ok(Command::Get("k".into())));
        assert_eq!(words("SeT k v nx"), Ok(Command::Set("k".into(), "v".into(), When::Missing)));
        let scan = Scan { cursor: 5, pattern: Some("a*".into()), count: SCAN_COUNT_MAX };
        assert_eq!(words("SCAN 5 COUNT 99999999 MATCH a*"), Ok(Command::Scan(scan)));
    }

    #[test]
    fn wrong_forms_are_refused() {
        for line in [
            "GET",
            "GET a b",
            "SET a",
            "SET a b EX 5",
            "SET a b NX XX",
            "MSET a",
            "MSET a b c",
            "SCAN x",
            "SCAN -1",
            "SCAN 0 COUNT",
            "SCAN 0 COUNT 0",
            "SELECT 1",
            "NOSUCH",
            "HELLO 3",
            "DBSIZE 1",
            "CLIENT",
            "CONFIG SET a b",
        ] {
            assert!(words(line).is_err(), "{line}");
        }
    }
}
