//! The rules: each takes files and gives sentences, one per breach.
//!
//! Guarantees that an empty answer means that the rule holds. Does not read the disk.

use crate::imports::Crate;
use crate::imports::mentions;
use crate::plan;
use crate::source::File;
use crate::source::has_word;

/// Sentences that say where and what.
pub type Breaches = Vec<String>;

fn floor(krate: &str, room: &str) -> Option<u32> {
    let mut rows = plan::FLOORS.iter();
    rows.find(|row| row.0 == krate && row.1 == room).map(|row| row.2)
}

/// Every room of the library crates has a floor, and imports run to lower ones.
pub fn floors(all: &[File], krate: &str) -> Breaches {
    let plan = Crate::new(all, krate);
    let mut found = Breaches::new();
    for file in &plan.files {
        if floor(krate, &file.room()).is_none() {
            found.push(format!("{}: its room has no floor", file.name()));
        }
    }
    for import in plan.imports() {
        let (from, to) = (plan.files[import.from], plan.files[import.to]);
        let (upper, lower) = (from.room(), to.room());
        let floors = (floor(krate, &upper), floor(krate, &lower));
        let (Some(here), Some(there)) = floors else {
            continue;
        };
        let sideways =
            plan::SIDEWAYS.iter().any(|row| row.0 == krate && row.1 == upper && row.2 == lower);
        if upper != lower && there >= here && !sideways {
            found.push(format!(
                "{}:{}: {upper} (floor {here}) imports {lower} (floor {there})",
                from.name(),
                import.line
            ));
        }
    }
    found
}

/// Pairs of engine rooms that must not meet.
pub fn never(all: &[File]) -> Breaches {
    let plan = Crate::new(all, "engine");
    let mut found = Breaches::new();
    for import in plan.imports() {
        let (from, to) = (plan.files[import.from], plan.files[import.to]);
        let row = plan::NEVER.iter().find(|row| row.0 == from.room());
        if row.is_some_and(|row| row.1.contains(&to.room().as_str())) {
            found.push(format!(
                "{}:{}: {} must never import {}",
                from.name(),
                import.line,
                from.room(),
                to.room()
            ));
        }
    }
    found
}

/// What the engine's rooms may know of the device crate.
pub fn device_rights(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    for file in all.iter().filter(|f| f.krate == "engine") {
        let rows = plan::DEVICE_RIGHTS.iter();
        let best = rows.filter(|row| file.path.starts_with(row.0)).max_by_key(|row| row.0.len());
        let rights = best.map_or(&[][..], |row| row.1);
        for mention in mentions(file, "foliant_device") {
            let item = mention.path.last().cloned().unwrap_or_default();
            let named = mention.path.iter().any(|p| rights.contains(&p.as_str()));
            if !named && !rights.contains(&"*") {
                found.push(format!(
                    "{}:{}: may not know the device crate's {item}",
                    file.name(),
                    mention.line
                ));
            }
        }
    }
    found
}

/// Which crate uses which.
pub fn crates(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    for file in all {
        let row = plan::CRATES.iter().find(|row| row.0 == file.krate);
        let allowed = row.map_or(&[][..], |row| row.1);
        for name in plan::CRATE_NAMES.iter().filter(|n| !allowed.contains(n)) {
            for mention in mentions(file, name) {
                found.push(format!(
                    "{}:{}: {} does not use {name}",
                    file.name(),
                    mention.line,
                    file.krate
                ));
            }
        }
    }
    found
}

/// No circle between the files of a crate.
pub fn circles(all: &[File], krate: &str) -> Breaches {
    let circle = Crate::new(all, krate).circle();
    let found = circle.map(|files| format!("circle: {}", files.join(" -> ")));
    found.into_iter().collect()
}

/// Every file is reached by `mod` from a root.
pub fn orphans(all: &[File], krate: &str) -> Breaches {
    let lost = Crate::new(all, krate).orphans();
    lost.iter().map(|f| format!("{f}: no `mod` leads to it")).collect()
}

/// Tasks and threads start in the named places only.
pub fn spawns(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    let libraries = |f: &&File| matches!(f.krate.as_str(), "engine" | "device");
    for file in all.iter().filter(libraries) {
        if plan::SPAWNERS.iter().any(|p| file.name().starts_with(p)) {
            continue;
        }
        found.extend(words(file, plan::SPAWNS, "starts a task or a thread"));
    }
    found
}

/// Rooms that never wait hold no `await`.
pub fn waits(all: &[File]) -> Breaches {
    let waiting = |f: &&File| plan::NEVER_WAITS.iter().any(|p| f.name().starts_with(p));
    let files = all.iter().filter(waiting);
    files.flat_map(|f| words(f, &[".await"], "waits, and this room never does")).collect()
}

/// The engine draws neither time nor chance from outside.
pub fn chance(all: &[File]) -> Breaches {
    let engine = all.iter().filter(|f| f.krate == "engine");
    engine
        .flat_map(|f| words(f, plan::CHANCE, "makes a run depend on more than its seed"))
        .collect()
}

/// The data wing names its primitives in one place.
pub fn primitives(all: &[File]) -> Breaches {
    let bound = |f: &&File| {
        let name = f.name();
        let excused = plan::RAW_SYNC_PLACES.iter().any(|row| name.starts_with(row.0));
        !excused && plan::THROUGH_SYNC.iter().any(|p| name.starts_with(p))
    };
    let files = all.iter().filter(bound);
    files.flat_map(|f| words(f, plan::RAW_SYNC, "goes around `kit::sync`")).collect()
}

fn words(file: &File, banned: &[&str], what: &str) -> Breaches {
    let mut found = Breaches::new();
    for (line, text) in file.plain() {
        let hits = banned.iter().filter(|w| has_word(&text.code, w));
        found.extend(hits.map(|word| format!("{}:{line}: `{word}` {what}", file.name())));
    }
    found
}

/// Banned words, in code and in comments.
pub fn banned(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    for file in all {
        for (at, line) in file.lines.iter().enumerate() {
            let code = plan::BANNED.iter();
            let in_code = code
                .filter(|(word, tests)| has_word(&line.code, word) && !(*tests && line.test))
                .map(|(word, _)| word);
            let comments = plan::BANNED_IN_COMMENTS.iter();
            let in_comments = comments.filter(|word| has_word(&line.comment, word));
            for word in in_code.chain(in_comments) {
                found.push(format!("{}:{}: `{word}`", file.name(), at + 1));
            }
        }
    }
    found
}

/// `unsafe` in its places only, each with a reason; the other crates forbid it.
pub fn unsafety(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    for file in all {
        let allowed = plan::UNSAFE.contains(&file.name().as_str());
        for (at, line) in file.lines.iter().enumerate() {
            if !has_word(&line.code, "unsafe") {
                continue;
            }
            let place = format!("{}:{}", file.name(), at + 1);
            let above = &file.lines[at.saturating_sub(plan::SAFETY_REACH)..=at];
            let reasoned = |l: &crate::source::Line| {
                l.comment.contains("SAFETY:") || l.comment.contains("# Safety")
            };
            if !allowed {
                found.push(format!("{place}: `unsafe` has no place here"));
            } else if !above.iter().any(reasoned) {
                found.push(format!("{place}: `unsafe` without a reason"));
            }
        }
        let must_forbid = plan::FORBID_UNSAFE.contains(&file.krate.as_str()) && file.is_root();
        let forbids = |l: &crate::source::Line| l.code.starts_with("#![forbid(unsafe_code)]");
        if must_forbid && !file.lines.iter().any(forbids) {
            found.push(format!("{}: does not forbid `unsafe`", file.name()));
        }
    }
    found
}

/// Each file says first what it is for.
pub fn headers(all: &[File]) -> Breaches {
    let silent = all.iter().filter(|f| {
        let first = f.lines.first();
        !first.is_some_and(|l| l.raw.starts_with("//! ") && l.raw.len() > 12)
    });
    silent.map(|f| format!("{}: does not open with `//!`", f.name())).collect()
}

/// One item per `use`, outside tests.
pub fn single_uses(all: &[File]) -> Breaches {
    let mut found = Breaches::new();
    for file in all {
        for (at, line) in file.plain() {
            let code = line.code.trim_start();
            let is_use =
                code.starts_with("use ") || code.starts_with("pub") && code.contains(" use ");
            if is_use && (code.contains('{') || code.matches(';').count() > 1) {
                found.push(format!("{}:{at}: more than one item in a `use`", file.name()));
            }
        }
    }
    found
}

/// Functions and files are small, but for the exceptions, which may only shrink.
pub fn sizes(all: &[File], exceptions: &[plan::Exception]) -> Breaches {
    let mut found = Breaches::new();
    let mut unused: Vec<&plan::Exception> = exceptions.iter().collect();
    let mut judge = |rule: &str, place: String, lines: usize, bar: usize| {
        let mut debt = exceptions.iter();
        let debt = debt.find(|e| e.rule == rule && e.place == place && lines > bar);
        unused.retain(|e| debt.is_none_or(|d| !std::ptr::eq(*e, d)));
        let allowed = debt.map_or(bar, |d| d.lines);
        if lines > allowed {
            found.push(format!("{place}: {lines} lines, the bar is {allowed}"));
        } else if debt.is_some() && lines < allowed {
            found.push(format!("{place}: shrank to {lines}; so must its exception"));
        }
    };
    for file in all {
        for function in file.functions() {
            let place = format!("{}::{}", file.name(), function.name);
            judge("function", place, function.lines, plan::FUNCTION_LINES_MAX);
        }
        let lines = file.plain().count();
        judge("file", file.name(), lines, plan::FILE_LINES_MAX);
    }
    found.extend(unused.iter().map(|e| format!("{}: excused for nothing", e.place)));
    found
}

/// Places outside the repository that nothing inside may mention.
pub fn outside(name: &str, text: &str) -> Breaches {
    // In pieces, so that this file may itself be checked.
    let roots = [concat!("/wo", "rk/"), concat!("../sha", "red"), concat!("/tmp/", "plan")];
    let mut found = Breaches::new();
    for (at, line) in text.lines().enumerate() {
        let document = line.match_indices(concat!("sha", "red/")).any(|(i, word)| {
            let next = line[i + word.len()..].chars().next();
            next.is_some_and(char::is_uppercase)
        });
        if document || roots.iter().any(|root| line.contains(root)) {
            found.push(format!("{name}:{}: names a place outside", at + 1));
        }
    }
    found
}

/// The top level holds what the plan says.
pub fn top_level(paths: &[String]) -> Breaches {
    let mut found = Breaches::new();
    for path in paths {
        let head = path.split('/').next().unwrap_or(path);
        if !plan::TOP_LEVEL.contains(&head) {
            found.push(format!("{path}: has no place at the top level"));
        }
    }
    found
}
