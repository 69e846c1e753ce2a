//! Source files as the rules see them: code without strings and comments, comments, test regions.
//!
//! Guarantees that a word inside a string or a comment is never taken for code. Does not parse
//! Rust: it follows brackets, which is enough for code that went through rustfmt. Called by every
//! rule and by the canaries.

use std::path::Path;

/// One line of a file, split into what the compiler reads and what people read.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// As written.
    pub raw: String,
    /// Code with the content of strings and comments blanked.
    pub code: String,
    /// The text of comments on this line.
    pub comment: String,
    /// Inside an item under `#[cfg(test)]`.
    pub test: bool,
}

/// A function found in a file.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    /// Lines from `fn` to the closing bracket.
    pub lines: usize,
    pub asserts: usize,
    pub test: bool,
}

/// One source file of one crate.
#[derive(Debug, Clone)]
pub struct File {
    /// Which of our crates: its folder at the top level.
    pub krate: String,
    /// Path below that crate's `src`.
    pub path: String,
    pub lines: Vec<Line>,
}

/// Characters that can be part of a name.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `code` holds `word` with no letter right before or after it.
pub fn has_word(code: &str, word: &str) -> bool {
    let guard_start = word.starts_with(is_word);
    let guard_end = word.ends_with(is_word);
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !(guard_start && before.is_some_and(is_word) || guard_end && after.is_some_and(is_word))
    })
}

impl File {
    /// Splits `text` into lines.
    pub fn new(krate: &str, path: &str, text: &str) -> Self {
        let mut lines = split(text);
        mark_tests(&mut lines);
        Self { krate: krate.to_owned(), path: path.to_owned(), lines }
    }

    /// The path that people know: crate, `src`, file.
    pub fn name(&self) -> String {
        format!("{}/src/{}", self.krate, self.path)
    }

    /// The module path: `meta/tree.rs` is `["meta", "tree"]`, a root is empty.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        let last = parts.last().map(String::as_str);
        if matches!(last, Some("mod")) || self.is_root() {
            parts.pop();
        }
        if parts.first().map(String::as_str) == Some("bin") {
            parts.clear();
        }
        parts
    }

    /// A crate root: `lib.rs`, `main.rs` or a file of `bin/`.
    pub fn is_root(&self) -> bool {
        let name = self.path.as_str();
        let single = name.starts_with("bin/") && name.matches('/').count() == 1;
        let main = name.starts_with("bin/") && name.ends_with("/main.rs");
        matches!(name, "lib.rs" | "main.rs") || single || main
    }

    /// The top-level folder or file: the room.
    pub fn room(&self) -> String {
        self.module().first().cloned().unwrap_or("lib".to_owned())
    }

    /// Lines that are not under `#[cfg(test)]`, with their numbers.
    pub fn plain(&self) -> impl Iterator<Item = (usize, &Line)> {
        let numbered = self.lines.iter().enumerate();
        numbered.filter(|(_, l)| !l.test).map(|(at, line)| (at + 1, line))
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            for (column, name) in names_after_fn(&line.code) {
                let Some(end) = self.body_end(at, column) else {
                    continue;
                };
                let body = &self.lines[at..=end];
                found.push(Function {
                    name,
                    lines: end - at + 1,
                    asserts: body.iter().filter(|l| is_assertion(&l.code)).count(),
                    test: line.test,
                });
            }
        }
        found
    }

    /// The last line of the item whose text starts at `column` of line `at`, if it has a body.
    fn body_end(&self, at: usize, column: usize) -> Option<usize> {
        match item_end(&self.lines, at, column) {
            (end, true) => Some(end),
            (_, false) => None,
        }
    }
}

fn is_assertion(code: &str) -> bool {
    ["assert!(", "assert_eq!(", "assert_ne!(", "debug_assert"]
        .iter()
        .any(|word| code.contains(word))
}

fn names_after_fn(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|&c| is_word(c)).collect();
        if !name.is_empty() {
            found.push((at, name));
        }
    }
    found
}

/// Follows brackets from a place on: the line where the item ends, and whether it has a body.
fn item_end(lines: &[Line], at: usize, column: usize) -> (usize, bool) {
    let mut depth = 0i64;
    for (number, line) in lines.iter().enumerate().skip(at) {
        let skip = if number == at { column } else { 0 };
        for c in line.code.chars().skip(skip) {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' => depth -= 1,
                '}' => {
                    depth -= 1;
                    if depth <= 0 {
                        return (number, true);
                    }
                }
                ';' if depth == 0 => return (number, false),
                _ => {}
            }
        }
    }
    (lines.len() - 1, false)
}

fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let trimmed = lines[at].code.trim_start();
        if !trimmed.starts_with("#[cfg(test)]") {
            at += 1;
            continue;
        }
        let indent = lines[at].code.chars().count() - trimmed.chars().count();
        let (end, _) = item_end(lines, at, indent + "#[cfg(test)]".len());
        for line in &mut lines[at..=end] {
            line.test = true;
        }
        at = end + 1;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

fn split(text: &str) -> Vec<Line> {
    let mut state = State::Code;
    let mut lines = Vec::new();
    for raw in text.lines() {
        let mut line = Line { raw: raw.to_owned(), ..Line::default() };
        if state == State::LineComment {
            state = State::Code;
        }
        let chars: Vec<char> = raw.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let (next, used) = step(state, &chars, at);
            for &c in &chars[at..at + used] {
                // The only longer piece that starts and ends in code is a character literal.
                let code = state == State::Code && next == State::Code && used == 1;
                line.code.push(if code { c } else { ' ' });
                let comment = matches!(state, State::LineComment | State::BlockComment(_));
                if comment {
                    line.comment.push(c);
                }
            }
            at += used;
            state = next;
        }
        lines.push(line);
    }
    lines
}

/// The state after the piece at `at`, and how many characters the piece has.
fn step(state: State, chars: &[char], at: usize) -> (State, usize) {
    let rest = &chars[at..];
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    match state {
        State::LineComment => (state, 1),
        State::BlockComment(depth) if starts("*/") && depth == 1 => (State::Code, 2),
        State::BlockComment(depth) if starts("*/") => (State::BlockComment(depth - 1), 2),
        State::BlockComment(depth) if starts("/*") => (State::BlockComment(depth + 1), 2),
        State::BlockComment(_) => (state, 1),
        State::Text if starts("\\") => (state, 2.min(rest.len())),
        State::Text if starts("\"") => (State::Code, 1),
        State::Text => (state, 1),
        State::RawText(hashes) => {
            let closes = rest[0] == '"' && rest[1..].iter().take(hashes).all(|&c| c == '#');
            match closes && rest.len() > hashes {
                true => (State::Code, 1 + hashes),
                false => (state, 1),
            }
        }
        State::Code if starts("//") => (State::LineComment, 2),
        State::Code if starts("/*") => (State::BlockComment(1), 2),
        State::Code if starts("\"") => (State::Text, 1),
        State::Code => code_step(chars, at),
    }
}

fn code_step(chars: &[char], at: usize) -> (State, usize) {
    let rest = &chars[at..];
    let before = at.checked_sub(1).map(|i| chars[i]);
    if rest[0] == 'r' && !before.is_some_and(|c| is_word(c) && c != 'b') {
        let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
        if rest.get(1 + hashes) == Some(&'"') {
            return (State::RawText(hashes), 2 + hashes);
        }
    }
    if rest[0] == '\'' {
        if rest.get(1) == Some(&'\\') {
            let close = rest.iter().skip(3).position(|&c| c == '\'');
            return (State::Code, close.map_or(rest.len(), |i| i + 4));
        }
        if rest.get(2) == Some(&'\'') {
            return (State::Code, 3);
        }
    }
    (State::Code, 1)
}

/// Every `.rs` file below `src` of a crate, in path order.
pub fn read_crate(root: &Path, krate: &str) -> Vec<File> {
    let src = root.join(krate).join("src");
    let mut found = Vec::new();
    walk(&src, &src, krate, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    mark_test_files(&mut found);
    found
}

/// A module that is mounted under `#[cfg(test)]` is a test with all of its files.
pub fn mark_test_files(all: &mut [File]) {
    let mut mounted: Vec<Vec<String>> = Vec::new();
    for file in all.iter() {
        for line in file.lines.iter().filter(|l| l.test) {
            let words: Vec<&str> = line.code.split_whitespace().collect();
            if let [.., "mod", name] = words[..]
                && let Some(name) = name.strip_suffix(';')
            {
                let mut module = file.module();
                module.push(name.to_owned());
                mounted.push(module);
            }
        }
    }
    for file in all {
        if mounted.iter().any(|module| file.module().starts_with(module)) {
            file.lines.iter_mut().for_each(|line| line.test = true);
        }
    }
}

fn walk(base: &Path, at: &Path, krate: &str, found: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(at) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a listed entry can be read").path();
        if path.is_dir() {
            walk(base, &path, krate, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file is text");
            let below = path.strip_prefix(base).expect("walked from the base");
            found.push(File::new(krate, &below.to_string_lossy(), &text));
        }
    }
}
