//! S3-FIFO over all folios: a small queue for newcomers, a main queue, and ghosts of the evicted.
//!
//! Guarantees: a folio that was used at most once between arriving and reaching the end of the
//! small queue goes, so a scan passes through the small tenth and leaves the hot set alone; one
//! that returns soon after goes straight to the main queue. Entries do not keep folios alive;
//! their number is at most twice the live folios plus a constant. A hit touches only the folio's
//! two-bit counter, never a queue.
//!
//! Does not evict: it proposes, `shrink` tries. Queues count folios, not blocks: large folios are
//! as likely to go as small ones. Called by `shrink` and, through [`Residents`], by the folio room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;

use super::ghost::Ghost;
use super::ghost::mix;
use crate::folio::folio::Folio;
use crate::folio::folio::Residents;
use crate::kit::sync::Mutex;
use crate::kit::sync::atomic::AtomicUsize;
use crate::kit::sync::atomic::Ordering;

/// The small queue is scanned first when it holds more than this share of all entries.
const SMALL_SHARE: usize = 10;
/// Uses that carry a newcomer into the main queue. The miss that brought it in counts as one.
const PROMOTE_USES: u8 = 2;
/// Stale entries that are tolerated on top of one per live folio.
const STALE_SLACK: usize = 64;

/// The queue that a candidate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Small,
    Main,
}

/// A folio proposed for eviction; it is out of the queues until [`Lru::keep`] or
/// [`Lru::evicted`].
pub struct Candidate {
    entry: Weak<Folio>,
    origin: Origin,
    hash: u64,
}

/// The queues.
pub struct Lru {
    /// Pushes and pops of a few entries; plain, never held across eviction or a wait.
    queues: Mutex<Queues>,
    live: AtomicUsize,
}

struct Queues {
    small: VecDeque<Weak<Folio>>,
    main: VecDeque<Weak<Folio>>,
    ghost: Ghost,
}

fn hash_of(folio: &Folio) -> u64 {
    mix(mix(folio.object().0) ^ folio.index())
}

impl Lru {
    /// Queues for a memory of `capacity_blocks`.
    pub fn new(capacity_blocks: usize) -> Self {
        Self {
            queues: Mutex::new(Queues {
                small: VecDeque::new(),
                main: VecDeque::new(),
                ghost: Ghost::new(capacity_blocks),
            }),
            live: AtomicUsize::new(0),
        }
    }

    /// The next folio that should go, with the only reference that the queues will make. Takes one
    /// from `budget` for every entry it looks at and stops at 0.
    pub fn propose(&self, budget: &mut usize) -> Option<(Arc<Folio>, Candidate)> {
        let mut queues = self.queues.lock();
        while *budget > 0 {
            *budget -= 1;
            let (entry, origin) = queues.pop()?;
            let Some(folio) = entry.upgrade() else {
                continue;
            };
            let uses = folio.access();
            match origin {
                Origin::Small if uses >= PROMOTE_USES => {
                    folio.set_access(0);
                    queues.main.push_back(entry);
                }
                Origin::Main if uses > 0 => {
                    folio.set_access(uses - 1);
                    queues.main.push_back(entry);
                }
                _ => {
                    let hash = hash_of(&folio);
                    let candidate = Candidate { entry, origin, hash };
                    return Some((folio, candidate));
                }
            }
        }
        None
    }

    /// Entries of all queues, stale ones among them.
    pub fn entries(&self) -> usize {
        let queues = self.queues.lock();
        queues.small.len() + queues.main.len()
    }

    /// The candidate could not go (dirty, in use, marked). It moves on to the main queue: were it
    /// put back into the small one, a burst of dirty newcomers would be scanned again and again
    /// while clean folios sit in the other queue.
    pub fn keep(&self, candidate: Candidate) {
        self.queues.lock().main.push_back(candidate.entry);
    }

    /// The candidate is gone. One that left from the small queue is remembered.
    pub fn evicted(&self, candidate: Candidate) {
        if candidate.origin == Origin::Small {
            self.queues.lock().ghost.insert(candidate.hash);
        }
    }
}

impl Queues {
    fn pop(&mut self) -> Option<(Weak<Folio>, Origin)> {
        let total = self.small.len() + self.main.len();
        let small_first = self.small.len() * SMALL_SHARE > total;
        if small_first || self.main.is_empty() {
            return Some((self.small.pop_front()?, Origin::Small));
        }
        Some((self.main.pop_front()?, Origin::Main))
    }

    /// Entries of dead folios stay until they are met, or until there are as many as live ones.
    fn drop_stale(&mut self, live: usize) {
        if self.small.len() + self.main.len() > 2 * live + STALE_SLACK {
            self.small.retain(|entry| entry.strong_count() > 0);
            self.main.retain(|entry| entry.strong_count() > 0);
        }
    }
}

impl Residents for Lru {
    fn added(&self, folio: &Arc<Folio>) {
        let live = self.live.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::downgrade(folio);
        let mut queues = self.queues.lock();
        let window = queues.main.len().max(STALE_SLACK);
        if queues.ghost.take(hash_of(folio), window) {
            queues.main.push_back(entry);
        } else {
            queues.small.push_back(entry);
        }
        queues.drop_stale(live);
    }

    fn died(&self, _blocks: usize) {
        let before = self.live.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "more folios died than lived");
    }
}
