//! The public async verbs of the crate, read from its sources.
//!
//! Guarantees to find each `pub async fn` and each `pub fn` that gives a future of the rooms whose items are
//! public: `api`, and what `check` gives out. Does not parse Rust: it reads lines that went through rustfmt.

use std::collections::BTreeSet;
use std::path::Path;

/// The verbs of a source of `api`, as `Type::verb`.
pub fn verbs_of_types(source: &str) -> BTreeSet<String> {
    let mut owner = String::new();
    let mut found = BTreeSet::new();
    for (at, line) in source.lines().enumerate() {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if line.starts_with("impl") {
            let head = line.split(" {").next().unwrap();
            let name = head.rsplit([' ', '>']).find(|word| word.starts_with(char::is_alphabetic));
            owner = name.unwrap_or_default().split('<').next().unwrap().to_owned();
        }
        let rest: String = source.lines().skip(at).take(8).collect::<Vec<_>>().join(" ");
        if let Some(name) = verb(line.trim_start(), &rest) {
            let free = line.starts_with("pub");
            found.insert(if free { name } else { format!("{owner}::{name}") });
        }
    }
    found
}

/// The name of the future-giving function that begins in `line`.
fn verb(line: &str, rest: &str) -> Option<String> {
    let name = |text: &str| text.split(['(', '<']).next().unwrap().to_owned();
    if let Some(text) = line.strip_prefix("pub async fn ") {
        return Some(name(text));
    }
    let text = line.strip_prefix("pub fn ")?;
    let head = rest.split('{').next().unwrap();
    (head.contains("impl Future") || head.contains("BoxFuture")).then(|| name(text))
}

/// The functions that a room gives out by name: `pub use module::function;`, and its own.
fn given_out(room: &Path) -> BTreeSet<String> {
    let root = std::fs::read_to_string(room.join("mod.rs")).unwrap();
    let mut found: BTreeSet<String> = verbs_of_types(&root);
    for line in root.lines() {
        let Some(path) = line.strip_prefix("pub use ").and_then(|l| l.strip_suffix(';')) else {
            continue;
        };
        let (module, name) = path.split_once("::").unwrap();
        let source = std::fs::read_to_string(room.join(format!("{module}.rs"))).unwrap();
        let verbs = verbs_of_types(&source);
        found.extend(verbs.iter().filter(|verb| *verb == name).cloned());
        let of_type = format!("{name}::");
        found.extend(verbs.into_iter().filter(|verb| verb.starts_with(&of_type)));
    }
    found.into_iter().map(|name| format!("check::{name}")).collect()
}

/// All of them.
pub fn public_verbs() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = given_out(&sources.join("check"));
    for entry in std::fs::read_dir(sources.join("api")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        found.extend(verbs_of_types(&source));
    }
    found
}
