//! Two operations at once: some order of their pieces must explain what is there afterwards.
//!
//! Guarantees that no outcome is called wrong that the verbs allow: a write is whole in pieces of
//! 1 MiB, everything else at once, and a read sees of each byte the state before or after the
//! other operation. Does not judge the order in which they ran. Used by `play`.

use super::failure::Failure;
use super::failure::Kind;
use super::failure::fail;
use super::op::Fill;
use super::op::Op;
use super::op::Span;
use super::oracle::BLOCK;
use super::oracle::Oracle;
use super::play::Answer;
use super::play::Play;
use super::play::act;
use super::play::compare;

/// Writes are whole within multiples of this.
const PIECE_BYTES: u64 = 1 << 20;

/// The parts of `op` that happen at once, in their order.
fn pieces(op: &Op) -> Vec<Op> {
    if let Op::WriteDirect(fill, skew) = op {
        return pieces_direct(fill, *skew);
    }
    let Op::Write(fill) = op else { return vec![op.clone()] };
    let mut found = Vec::new();
    let mut at = fill.span.at;
    while at < fill.span.end() {
        let end = fill.span.end().min((at / PIECE_BYTES + 1) * PIECE_BYTES);
        let span = Span { at, len: end - at, ..fill.span };
        found.push(Op::Write(Fill { span, ..*fill }));
        at = end;
    }
    found
}

/// A direct write whose place in the buffer fits its place in the object writes its whole blocks at
/// once, with the parts of blocks around them before and after; another one is a write like others.
fn pieces_direct(fill: &Fill, skew: u64) -> Vec<Op> {
    let part = |at: u64, end: u64| {
        Op::Write(Fill { span: Span { at, len: end - at, ..fill.span }, ..*fill })
    };
    let (at, end) = (fill.span.at, fill.span.end());
    let (first, last) = (at.div_ceil(BLOCK) * BLOCK, end / BLOCK * BLOCK);
    if at % BLOCK != skew % BLOCK || first >= last {
        return pieces(&part(at, end));
    }
    let parts = [(at, first), (first, last), (last, end)];
    parts.into_iter().filter(|(at, end)| at < end).map(|(at, end)| part(at, end)).collect()
}

/// Every way to mix the pieces of two operations.
fn orders(a: &[Op], b: &[Op]) -> Vec<Vec<Op>> {
    if a.is_empty() || b.is_empty() {
        return vec![[a, b].concat()];
    }
    let put = |head: &Op, rest: Vec<Vec<Op>>| {
        rest.into_iter().map(|tail| [std::slice::from_ref(head), &tail].concat()).collect()
    };
    let mut found: Vec<Vec<Op>> = put(&a[0], orders(&a[1..], b));
    found.extend::<Vec<Vec<Op>>>(put(&b[0], orders(a, &b[1..])));
    found
}

/// A read beside `other`: each byte is one of the states before and after each piece of it.
fn judge_read(span: &Span, found: &[u8], before: &Oracle, other: &Op) -> Result<(), Failure> {
    let mut states = vec![before.clone()];
    for piece in pieces(other) {
        let last = states.last().expect("there is one");
        states.push(last.after(&piece));
    }
    let views: Vec<Vec<u8>> = states.iter().map(|s| s.object(span.object).read(span)).collect();
    let lens = views.iter().map(|v| v.len());
    let (least, most) = (lens.clone().min().unwrap_or(0), lens.max().unwrap_or(0));
    if !(least..=most).contains(&found.len()) {
        let what = format!("a read of {span} gave {} bytes, not {least} to {most}", found.len());
        return Err(fail(Kind::Size, what));
    }
    let explained = |at: usize| views.iter().any(|v| v.get(at) == Some(&found[at]));
    match (0..found.len()).find(|&at| !explained(at)) {
        Some(at) => {
            let at = span.at + at as u64;
            let what = format!("a read of {span} beside {other} saw neither state at byte {at}");
            Err(fail(Kind::Content, what))
        }
        None => Ok(()),
    }
}

fn judge_answer(op: &Op, answer: &Answer, before: &Oracle, other: &Op) -> Result<(), Failure> {
    match (op, answer) {
        (Op::Read(span) | Op::Share(span) | Op::ReadDirect(span, _), Answer::Bytes(bytes)) => {
            judge_read(span, bytes, before, other)
        }
        _ => Ok(()),
    }
}

/// Of each object that is touched, the bytes that may have changed, as one range.
fn touched(ops: [&Op; 2], before: &Oracle) -> Vec<Span> {
    let mut found: Vec<Span> = Vec::new();
    let mut add = |span: Span| match found.iter_mut().find(|s| s.object == span.object) {
        Some(known) => {
            let (at, end) = (known.at.min(span.at), known.end().max(span.end()));
            (known.at, known.len) = (at, end - at);
        }
        None => found.push(span),
    };
    for op in ops {
        let mut op = op.clone();
        if let Op::Truncate(object, size) = op {
            let old = before.object(object).bytes.len();
            add(Span { object, at: size.min(old), len: size.abs_diff(old) });
        }
        for span in op.spans() {
            // Growth changes what lies between the old end and the range.
            let old = before.object(span.object).bytes.len();
            let at = span.at.min(old).saturating_sub(BLOCK);
            add(Span { object: span.object, at, len: span.end() - at + BLOCK });
        }
    }
    found
}

impl Play {
    /// Plays both at once, and finds the order that explains the outcome.
    pub(super) async fn both(&mut self, a: &Op, b: &Op) -> Result<(), Failure> {
        let one = act(self.engine.clone(), self.hands[0].clone(), a.clone());
        let two = act(self.engine.clone(), self.hands[1].clone(), b.clone());
        let (one, two) = if self.spawn {
            let (one, two) = (tokio::spawn(one), tokio::spawn(two));
            let ended = |e: tokio::task::JoinError| fail(Kind::Panic, e.to_string());
            (one.await.map_err(ended)?, two.await.map_err(ended)?)
        } else {
            futures_util::future::join(one, two).await
        };
        let before = self.oracle.clone();
        let (one, two) = (one?.untouched()?, two?.untouched()?);
        judge_answer(a, &one, &before, b)?;
        judge_answer(b, &two, &before, a)?;
        let mut found = Vec::new();
        for span in touched([a, b], &before) {
            let mut bytes = vec![0xEE; span.len as usize];
            let read = self.hands[0][span.object].read_at(span.at, &mut bytes).await?;
            bytes.truncate(read);
            found.push((span, bytes));
        }
        self.settle(&before, &found, orders(&pieces(a), &pieces(b)))?;
        self.check_sizes()
    }

    /// Takes the outcome that matches what was found, and merges what else matches.
    fn settle(
        &mut self,
        before: &Oracle,
        found: &[(Span, Vec<u8>)],
        orders: Vec<Vec<Op>>,
    ) -> Result<(), Failure> {
        let mut taken = None;
        let mut why = None;
        for order in orders {
            let mut outcome = before.clone();
            order.iter().for_each(|op| outcome.apply(op));
            let same = |hand: &(Span, Vec<u8>)| {
                let model = outcome.object(hand.0.object);
                let len = self.hands[0][hand.0.object].size();
                compare(&hand.0, &hand.1, &model.read(&hand.0))?;
                match len == model.bytes.len() {
                    true => Ok(()),
                    false => Err(fail(Kind::Size, format!("{len} bytes in the end"))),
                }
            };
            match (found.iter().try_for_each(same), &mut taken) {
                (Err(cause), _) => why = Some(cause),
                (Ok(()), None) => taken = Some((order, outcome)),
                (Ok(()), Some((_, first))) => first.merge(&outcome),
            }
        }
        match (taken, why) {
            (Some((order, outcome)), _) => {
                self.oracle = outcome;
                order.iter().try_for_each(|op| self.follow_unseen(op))?;
                order.iter().try_for_each(|op| self.look_beside(op))
            }
            (None, Some(cause)) => {
                let what =
                    format!("no order explains the outcome; in the last one, {}", cause.what);
                Err(fail(cause.kind, what))
            }
            (None, None) => unreachable!("there is an order"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_whole_in_pieces_and_all_mixes_count() {
        let op = |text: &str| text.parse::<Op>().unwrap();
        let long = pieces(&op("write 0 1048570+20 #3"));
        assert_eq!(long, [op("write 0 1048570+6 #3"), op("write 0 1048576+14 #3")]);
        assert_eq!(orders(&long, &long).len(), 6);
        assert_eq!(orders(&long, &pieces(&op("punch 0 1+2"))).len(), 3);
        let direct = pieces(&op("write-direct 0 4090+4110 #3 @4090"));
        let parts = ["write 0 4090+6 #3", "write 0 4096+4096 #3", "write 0 8192+8 #3"].map(op);
        assert_eq!(direct, parts);
        let skewed = pieces(&op("write-direct 0 1048570+20 #3 @0"));
        assert_eq!(skewed, long);
    }

    #[test]
    fn a_read_may_mix_states_by_byte_and_nothing_else() {
        let op = |text: &str| text.parse::<Op>().unwrap();
        let before = Oracle::new(1).after(&op("write 0 0+100 #1"));
        let over = op("write 0 50+100 #2");
        let span = Span { object: 0, at: 40, len: 80 };
        let mut mixed = before.after(&over).object(0).read(&span);
        mixed[15] = before.object(0).bytes.read(55..56)[0];
        judge_read(&span, &mixed, &before, &over).unwrap();
        judge_read(&span, &mixed[..60], &before, &over).unwrap();
        judge_read(&span, &mixed[..59], &before, &over).unwrap_err();
        mixed[15] = 0;
        judge_read(&span, &mixed, &before, &over).unwrap_err();
    }
}
