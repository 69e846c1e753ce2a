//! Makes a failing log small: drops operations, then lowers sizes, while it fails the same way.
//!
//! Guarantees that the answer fails as well, and that the work ends after a bounded number of
//! tries. Does not judge a failure: the caller does. Used by the program and its tests.

use super::op::Op;

struct Shrinker<'a> {
    ops: Vec<Op>,
    fails: &'a mut dyn FnMut(&[Op]) -> bool,
    tries: usize,
}

impl Shrinker<'_> {
    fn accept(&mut self, candidate: Vec<Op>) -> bool {
        if self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        let fails = (self.fails)(&candidate);
        if fails {
            self.ops = candidate;
        }
        fails
    }

    /// Drops pieces of `len` operations, from the end, where the least depends on them.
    fn drop_pieces(&mut self, len: usize) -> bool {
        let mut dropped = false;
        let mut end = self.ops.len();
        while end > 0 && self.tries > 0 {
            let start = end.saturating_sub(len);
            let mut candidate = self.ops.clone();
            candidate.drain(start..end);
            dropped |= self.accept(candidate);
            end = start;
        }
        dropped
    }

    fn drop_ops(&mut self) {
        let mut len = self.ops.len().div_ceil(2);
        loop {
            let dropped = self.drop_pieces(len);
            if self.tries == 0 || (len == 1 && !dropped) {
                return;
            }
            // Singles are tried until none of them can go.
            len = if len == 1 { 1 } else { len.div_ceil(2) };
        }
    }

    fn simplify(&mut self, at: usize) {
        let half = match &self.ops[at] {
            Op::Both(a, b) => vec![(**a).clone(), (**b).clone()],
            Op::Commit(end, fills) if fills.len() > 1 => {
                let without = |skip: usize| {
                    let mut left = fills.clone();
                    left.remove(skip);
                    Op::Commit(*end, left)
                };
                (0..fills.len()).map(without).collect()
            }
            _ => return,
        };
        for op in half {
            let mut candidate = self.ops.clone();
            candidate[at] = op;
            if self.accept(candidate) {
                return self.simplify(at);
            }
        }
    }

    /// Tries to shorten each range: by steps that halve, from its end and from its start.
    fn lower(&mut self, at: usize, span: usize, from_start: bool) {
        let mut step = match self.ops[at].clone().spans().get(span) {
            Some(span) => span.len / 2,
            None => return,
        };
        while step > 0 && self.tries > 0 {
            let mut candidate = self.ops.clone();
            let mut spans = candidate[at].spans();
            let Some(found) = spans.get_mut(span) else { return };
            if found.len <= step {
                step /= 2;
                continue;
            }
            found.len -= step;
            if from_start {
                found.at += step;
            }
            if !self.accept(candidate) {
                step /= 2;
            }
        }
    }
}

/// A smaller log for which `fails` says yes, found with at most `tries` questions.
pub fn shrink(ops: Vec<Op>, tries: usize, fails: &mut dyn FnMut(&[Op]) -> bool) -> Vec<Op> {
    let mut work = Shrinker { ops, fails, tries };
    work.drop_ops();
    for at in (0..work.ops.len()).rev() {
        work.simplify(at);
    }
    for at in 0..work.ops.len() {
        for span in 0..work.ops[at].clone().spans().len() {
            work.lower(at, span, false);
            work.lower(at, span, true);
        }
    }
    work.drop_ops();
    work.ops
}

#[cfg(test)]
mod tests {
    use super::super::op::parse_log;
    use super::super::op::show_log;
    use super::*;

    #[test]
    fn what_matters_is_left() {
        let mut log = String::new();
        for at in 0..200 {
            log += &format!("read 0 {at}+100\nwrite 1 {at}+5000 #1\n");
        }
        log += "both truncate 1 4097 | sync 0\n";
        // Fails if object 1 is written over byte 150 and truncated later.
        let mut fails = |ops: &[Op]| {
            let over = |op: &Op| match op {
                Op::Write(f) => f.span.object == 1 && (f.span.at..f.span.end()).contains(&150),
                _ => false,
            };
            let cuts = |op: &Op| match op {
                Op::Both(a, _) => matches!(**a, Op::Truncate(..)),
                op => matches!(op, Op::Truncate(..)),
            };
            ops.iter().position(over).is_some_and(|at| ops[at..].iter().any(cuts))
        };
        let small = shrink(parse_log(&log).unwrap(), 10_000, &mut fails);
        assert_eq!(small.len(), 2, "{}", show_log(&small));
        assert_eq!(small[0].clone().spans()[0].len, 1);
        assert_eq!(small[1], Op::Truncate(1, 4097));
    }
}
