//! Redis patterns: `*`, `?`, `[a-z]`, `[^a]`, `\x`.
//!
//! Guarantees time proportional to the product of the lengths: a star only remembers the last one,
//! so a hostile pattern does not take for ever. Called by `execute`.

/// Whether all of `text` fits `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit here.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match (text.get(t), p < pattern.len()) {
            (None, false) => return true,
            (Some(&byte), true) => fits(&pattern[p..], byte),
            _ => None,
        };
        if let Some(len) = step {
            (p, t) = (p + len, t + 1);
            continue;
        }
        match retry {
            Some((after, from)) if from < text.len() => {
                (p, t) = (after, from + 1);
                retry = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

/// The length of the pattern's first element if `byte` fits it.
fn fits(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => fits_set(set, byte).map(|len| len + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
        [] => None,
    }
}

fn fits_set(set: &[u8], byte: u8) -> Option<usize> {
    let negated = set.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    while at < set.len() && set[at] != b']' {
        let rest = &set[at..];
        at += match rest {
            [b'\\', one, ..] => {
                found |= *one == byte;
                2
            }
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                3
            }
            [one, ..] => {
                found |= *one == byte;
                1
            }
            [] => unreachable!("the loop ends before"),
        };
    }
    (found != negated).then_some(set.len().min(at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_redis_says_they_fit() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("[", "[", false),
            ("user:*", "user:17", true),
            ("**", "anything", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = b"*a".repeat(2000);
        assert!(!matches(&pattern, &b"a".repeat(1999)));
        assert!(!matches(&b"a*".repeat(500), &b"b".repeat(100_000)));
    }
}
