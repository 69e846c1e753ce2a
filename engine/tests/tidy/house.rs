//! House statistics, for people to look at: sizes, comments, assertions. Judges nothing.

use crate::source::File;

/// A table over the crates.
pub fn table(all: &[File]) -> String {
    let mut text = format!(
        "{:<10}{:>6}{:>16}{:>16}{:>10}{:>12}{:>12}\n",
        "crate", "files", "file lines", "function lines", "comments", "asserts/fn", "test/plain"
    );
    text += "                      p50/p90/max     p50/p90/max\n";
    for krate in ["device", "engine", "bench", "examples"] {
        let files: Vec<&File> = all.iter().filter(|f| f.krate == krate).collect();
        text += &row(krate, &files);
    }
    text
}

fn row(krate: &str, files: &[&File]) -> String {
    let sizes: Vec<usize> = files.iter().map(|f| f.plain().count()).collect();
    let functions: Vec<_> = files.iter().flat_map(|f| f.functions()).collect();
    let plain: Vec<_> = functions.iter().filter(|f| !f.test).collect();
    let lengths: Vec<usize> = plain.iter().map(|f| f.lines).collect();
    let asserts: usize = plain.iter().map(|f| f.asserts).sum();
    let comments: usize = files.iter().map(|f| comment_blocks(f)).sum();
    let lines: usize = files.iter().map(|f| f.lines.len()).sum();
    let plain_lines: usize = sizes.iter().sum();
    format!(
        "{krate:<10}{:>6}{:>16}{:>16}{comments:>10}{:>12.2}{:>12.2}\n",
        files.len(),
        spread(sizes),
        spread(lengths),
        asserts as f64 / plain.len().max(1) as f64,
        (lines - plain_lines) as f64 / plain_lines.max(1) as f64,
    )
}

/// Runs of comment lines that are not documentation.
fn comment_blocks(file: &File) -> usize {
    let is_comment = |raw: &str| {
        let text = raw.trim_start();
        text.starts_with("// ") && !text.starts_with("///") && !text.starts_with("//!")
    };
    let starts =
        file.lines.windows(2).filter(|pair| is_comment(&pair[1].raw) && !is_comment(&pair[0].raw));
    starts.count()
}

fn spread(mut values: Vec<usize>) -> String {
    values.sort_unstable();
    let at = |share: usize| {
        let last = values.len().saturating_sub(1);
        values.get(last * share / 100).copied().unwrap_or(0)
    };
    format!("{}/{}/{}", at(50), at(90), at(100))
}
