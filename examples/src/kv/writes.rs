//! The writes of one client that wait to be sent, and their replies.
//!
//! Write commands are gathered: those that a client has sent in a row go to the writer as one
//! request, and their replies come in order when all of them are durable. Each command is atomic (DEL
//! and MSET of more than `ATOMIC_KEYS_MAX` keys are cut, or fewer if the log takes no more), and so is a transaction, of any length.
//!
//! Does not send them. Called by `connection` and `execute`.

use crate::kv::ask::Part;
use crate::kv::ask::Shape;
use crate::kv::ask::Write;
use crate::kv::error::Error;
use crate::kv::limits::ATOMIC_KEYS_MAX;
use crate::kv::limits::LARGE_LOG_BYTES;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::reply::OK;
use crate::kv::reply::Reply;
use crate::kv::writer::Answer;

/// Write commands of one client that were not sent to the writer yet.
#[derive(Debug)]
pub struct Writes {
    groups: Vec<Group>,
    /// What to reply, in order, and how many groups each reply is about.
    replies: Vec<(Shape, usize)>,
    bytes: usize,
    /// What one transaction may take.
    log_bytes: u64,
}

impl Writes {
    /// None yet; one transaction takes `log_bytes` of the log at most.
    pub fn new(log_bytes: u64) -> Self {
        Self { groups: Vec::new(), replies: Vec::new(), bytes: 0, log_bytes }
    }

    /// Takes a write command.
    pub fn take(&mut self, Write { mut ops, shape }: Write) {
        let before = self.groups.len();
        self.bytes += ops.iter().map(Op::bytes).sum::<usize>();
        let may_be_cut = matches!(shape, Shape::Stored | Shape::Count);
        let most = self.most(&ops);
        while may_be_cut && ops.len() > most {
            let behind = ops.split_off(most);
            self.groups.push(std::mem::replace(&mut ops, behind));
        }
        if !ops.is_empty() {
            self.groups.push(ops);
        }
        self.replies.push((shape, self.groups.len() - before));
    }

    /// How many operations happen at once, if they may be cut: what a DEL takes away may be large.
    fn most(&self, ops: &[Op]) -> usize {
        let renamed = |op: &Op| match op {
            Op::Put { .. } => 2 * usize::from(op.is_large()),
            _ => 1,
        };
        let names = ops.iter().map(renamed).max().unwrap_or(0);
        match (self.log_bytes as usize).checked_div(names * LARGE_LOG_BYTES) {
            Some(fit) => fit.clamp(1, ATOMIC_KEYS_MAX),
            None => ATOMIC_KEYS_MAX,
        }
    }

    /// Takes a reply that must come behind those of the writes.
    pub fn take_reply(&mut self, reply: Reply) {
        self.bytes += reply.bytes();
        self.replies.push((Shape::Ready(reply), 0));
    }

    /// Commands in it.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Bytes of keys and values in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes to send.
    pub fn take_groups(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    /// The replies, if this is what became of the changes.
    pub fn replies(self, answer: Result<Answer, Error>) -> Vec<Reply> {
        let (mut answers, closed) = match answer {
            Ok(answer) => (answer.into_iter(), None),
            Err(cause) => (Vec::new().into_iter(), Some(cause)),
        };
        let mut replies = Vec::with_capacity(self.replies.len());
        for (shape, groups) in self.replies {
            let of_one = match &closed {
                Some(cause) if groups > 0 => Err(cause.clone()),
                _ => joined(answers.by_ref().take(groups)),
            };
            replies.push(match of_one {
                Ok(outcomes) => shaped(shape, outcomes),
                Err(cause) => failure(&cause),
            });
        }
        replies
    }
}

/// What became of a command whose changes are in these groups. All of them are taken, also behind one that failed:
/// those that follow belong to the next command.
fn joined(
    mut groups: impl Iterator<Item = Result<Vec<Outcome>, Error>>,
) -> Result<Vec<Outcome>, Error> {
    let mut all = groups.next().unwrap_or_else(|| Ok(Vec::new()));
    for group in groups {
        all = match (all, group) {
            (Ok(mut all), Ok(more)) => {
                all.extend(more);
                Ok(all)
            }
            (Err(cause), _) | (_, Err(cause)) => Err(cause),
        };
    }
    all
}

fn shaped(shape: Shape, outcomes: Vec<Outcome>) -> Reply {
    let mut outcomes = outcomes.into_iter();
    match shape {
        Shape::Ready(reply) => reply,
        Shape::Stored => match outcomes.next() {
            Some(Outcome::Refused) => Reply::Null,
            _ => OK,
        },
        Shape::Flag => Reply::from(outcomes.next() != Some(Outcome::Refused)),
        Shape::Count => {
            Reply::Integer(outcomes.filter(|o| *o == Outcome::Deleted(true)).count() as i64)
        }
        Shape::Answer => match outcomes.next() {
            Some(Outcome::Answered { reply, .. }) => reply,
            _ => Reply::err("the command had no effect"),
        },
        Shape::Exec { watched: true, .. } if outcomes.next() != Some(Outcome::Passed) => {
            Reply::NullArray
        }
        Shape::Exec { parts, .. } => exec(parts, outcomes),
    }
}

fn exec(parts: Vec<Part>, mut outcomes: std::vec::IntoIter<Outcome>) -> Reply {
    let each = parts.into_iter().map(|part| {
        let own = outcomes.by_ref().take(part.ops).collect();
        shaped(part.shape, own)
    });
    Reply::Array(each.collect())
}

/// How a failure of the store is told.
pub fn failure(cause: &Error) -> Reply {
    match cause {
        Error::Engine(cause) if cause.is_no_space() => Reply::Error(format!("OOM {cause}")),
        Error::Engine(cause) => Reply::err(format_args!("{:?}: {cause}", cause.kind())),
        other => Reply::err(other),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn deletions(count: usize) -> Write {
        let op = |number: usize| Op::Delete { key: Bytes::from(number.to_string()), now: 0 };
        Write { ops: (0..count).map(op).collect(), shape: Shape::Count }
    }

    /// A DEL of many keys is cut. When one of its groups failed, the groups behind it answered for the commands
    /// behind it: a client heard of other keys than it had asked for.
    #[test]
    fn a_command_that_fails_in_parts_leaves_the_others_their_answers() {
        let mut writes = Writes::new(u64::MAX);
        writes.take(deletions(2 * ATOMIC_KEYS_MAX + 1));
        writes.take(deletions(1));
        writes.take_reply(Reply::Simple("PONG"));
        writes.take(deletions(2));
        let groups = writes.take_groups();
        assert_eq!(groups.iter().map(Vec::len).max(), Some(ATOMIC_KEYS_MAX));
        let all_there = |group: &Group| Ok(vec![Outcome::Deleted(true); group.len()]);
        let mut answer: Answer = groups.iter().map(all_there).collect();
        assert_eq!(answer.len(), 5);
        answer[0] = Err(Error::Closed);
        answer[4] = Ok(vec![Outcome::Deleted(true), Outcome::Deleted(false)]);
        let replies = writes.replies(Ok(answer));
        assert!(matches!(replies[0], Reply::Error(_)), "{:?}", replies[0]);
        assert_eq!(replies[1..], [Reply::Integer(1), Reply::Simple("PONG"), Reply::Integer(1)]);
    }
}
