//! Who imports whom, from paths in the code.
//!
//! A name that a facade re-exports counts as an import of the file that defines it, and a facade's
//! own re-exports are marked, so that they do not close circles. Macros and globs are not followed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::source::File;
use crate::source::is_word;

/// One path in one file.
#[derive(Debug, Clone)]
pub struct Mention {
    pub line: usize,
    pub path: Vec<String>,
    /// Part of a `pub use`.
    pub exported: bool,
}

/// One import between files of a crate.
#[derive(Debug, Clone)]
pub struct Import {
    pub line: usize,
    pub from: usize,
    pub to: usize,
    pub exported: bool,
}

/// The files of one crate and the modules they are.
pub struct Crate<'a> {
    pub files: Vec<&'a File>,
    modules: BTreeMap<Vec<String>, usize>,
}

/// Paths that start with `head::` outside tests.
pub fn mentions(file: &File, head: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let start = format!("{head}::");
    for (line, text) in file.plain() {
        let exported = is_export(&text.code);
        for (at, _) in text.code.match_indices(&start) {
            let before = text.code[..at].chars().next_back();
            if before.is_some_and(|c| is_word(c) || c == ':') {
                continue;
            }
            let path = segments(&text.code[at..]);
            found.push(Mention { line, path, exported });
        }
    }
    found
}

fn is_export(code: &str) -> bool {
    let code = code.trim_start();
    code.starts_with("pub") && code.contains(" use ")
}

fn segments(code: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = code;
    loop {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if end == 0 {
            return parts;
        }
        parts.push(rest[..end].to_owned());
        match rest[end..].strip_prefix("::") {
            Some(more) => rest = more,
            None => return parts,
        }
    }
}

impl<'a> Crate<'a> {
    /// Orders the files of crate `krate` by module.
    pub fn new(all: &'a [File], krate: &str) -> Self {
        let files: Vec<&File> = all.iter().filter(|f| f.krate == krate).collect();
        let mut modules = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            if !file.path.starts_with("bin/") {
                modules.insert(file.module(), at);
            }
        }
        Self { files, modules }
    }

    /// Every import between files of this crate.
    pub fn imports(&self) -> Vec<Import> {
        let mut found = Vec::new();
        for (from, file) in self.files.iter().enumerate() {
            let module = file.module();
            let below =
                self.modules.keys().filter(|m| m.split_last().is_some_and(|s| s.1 == module));
            let below = below.filter_map(|m| m.last()).map(String::as_str);
            for head in ["crate", "super", "self"].into_iter().chain(below) {
                for mention in mentions(file, head) {
                    let Some(to) = self.resolve(&module, &mention.path) else {
                        continue;
                    };
                    let Mention { line, exported, .. } = mention;
                    if to != from {
                        found.push(Import { line, from, to, exported });
                    }
                }
            }
        }
        found
    }

    /// The file that defines what `path` names, seen from module `at`.
    fn resolve(&self, at: &[String], path: &[String]) -> Option<usize> {
        let full = absolute(at, path);
        let known = (0..=full.len()).rev().find(|&n| self.modules.contains_key(&full[..n]))?;
        let file = self.modules[&full[..known]];
        let Some(name) = full.get(known) else {
            return Some(file);
        };
        Some(self.export(file, name).unwrap_or(file))
    }

    /// Where `name` comes from, if `file` re-exports it.
    fn export(&self, file: usize, name: &str) -> Option<usize> {
        let module = self.files[file].module();
        for (_, line) in self.files[file].plain() {
            let code = line.code.trim();
            if !is_export(code) {
                continue;
            }
            let (_, path) = code.split_once(" use ")?;
            let parts = segments(path);
            let alias = path.split_once(" as ").map(|(_, alias)| segments(alias));
            let last = alias.as_ref().unwrap_or(&parts).last();
            if last.map(String::as_str) != Some(name) || parts.len() < 2 {
                continue;
            }
            let found = self.resolve(&module, &parts);
            if found != Some(file) {
                return found;
            }
        }
        None
    }

    /// A circle of files, if there is one, as file names in import order.
    pub fn circle(&self) -> Option<Vec<String>> {
        let mut next: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.files.len()];
        for import in self.imports().iter().filter(|i| !i.exported) {
            next[import.from].insert(import.to);
        }
        let mut done = vec![false; self.files.len()];
        for start in 0..self.files.len() {
            let mut trail = Vec::new();
            if let Some(circle) = follow(start, &next, &mut done, &mut trail) {
                return Some(circle.iter().map(|&f| self.files[f].name()).collect());
            }
        }
        None
    }

    /// Files that no `mod` reaches from a root.
    pub fn orphans(&self) -> Vec<String> {
        let mut reached: BTreeSet<String> = BTreeSet::new();
        let roots = self.files.iter().filter(|f| f.is_root());
        let mut open: Vec<&File> = roots.copied().collect();
        while let Some(file) = open.pop() {
            if !reached.insert(file.path.clone()) {
                continue;
            }
            for path in children(file) {
                open.extend(self.files.iter().filter(|f| path.contains(&f.path)));
            }
        }
        let lost = self.files.iter().filter(|f| !reached.contains(&f.path));
        lost.map(|f| f.name()).collect()
    }
}

fn follow(
    at: usize,
    next: &[BTreeSet<usize>],
    done: &mut [bool],
    trail: &mut Vec<usize>,
) -> Option<Vec<usize>> {
    if let Some(start) = trail.iter().position(|&f| f == at) {
        return Some(trail[start..].to_vec());
    }
    if done[at] {
        return None;
    }
    trail.push(at);
    for &to in &next[at] {
        if let Some(circle) = follow(to, next, done, trail) {
            return Some(circle);
        }
    }
    trail.pop();
    done[at] = true;
    None
}

fn absolute(at: &[String], path: &[String]) -> Vec<String> {
    let mut full = match path.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        _ => at.to_vec(),
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(full.pop()),
            name => full.push(name.to_owned()),
        }
    }
    full
}

/// The paths at which the files of `mod name;` lines may lie, one list per line.
fn children(file: &File) -> Vec<[String; 2]> {
    let folder = match file.path.rsplit_once('/') {
        Some((folder, "mod.rs" | "main.rs")) => format!("{folder}/"),
        _ if matches!(file.path.as_str(), "lib.rs" | "main.rs") => String::new(),
        Some((folder, _)) if file.is_root() => format!("{folder}/"),
        _ => format!("{}/", file.path.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    for line in &file.lines {
        let Some((before, name)) = line.code.split_once("mod ") else {
            continue;
        };
        let declared = name.trim_end().strip_suffix(';');
        let Some(name) = declared.filter(|_| !before.ends_with(is_word)) else {
            continue;
        };
        found.push([format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")]);
    }
    found
}
