//! Two sides, interleaved: A B B A, until enough undisturbed pairs are there.
//!
//! Guarantees that every block that was measured is reported: a disturbed pair is repeated, and
//! logged with its reason and with what it gave. Pairs alternate their order, so two of them are one
//! A B B A. When repeating does not help, disturbed pairs count and are marked as such. Does not
//! know what the sides do. Called by the rows.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::compare::interval;
use crate::measure::median;
use crate::rows::watch::Disturbance;
use crate::rows::watch::Watch;

/// What one block of one side gave.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub ops: f64,
    pub bytes: f64,
    pub seconds: f64,
    pub cpu_seconds: Option<f64>,
}

/// One of two things that are compared.
pub trait Side {
    fn name(&self) -> String;

    /// Works for about `time`; `stretch` gives each block its own random choices.
    fn block(&mut self, time: Duration, stretch: u64) -> Result<Reading>;

    /// It works in another process that is still there after a block: what that used is no disturbance.
    fn works_apart(&self) -> bool {
        false
    }
}

/// What is made of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes per second, subject over peer.
    Ratio,
    /// Nanoseconds per operation, subject less peer.
    NanosecondsMore,
    /// Bytes of memory per cached 4 KiB; not made of pairs.
    Bytes,
    /// Time per operation, subject over peer: how much dearer the subject is.
    Times,
    /// Milliseconds; not made of pairs.
    Milliseconds,
    /// A plain number of which less is better; not made of pairs.
    Count,
}

impl Unit {
    fn of(self, subject: &Reading, peer: &Reading) -> f64 {
        let nanoseconds = |r: &Reading| r.seconds * 1e9 / r.ops.max(1.0);
        let rate = |r: &Reading| r.bytes / r.seconds.max(1e-9);
        match self {
            Self::Ratio => rate(subject) / rate(peer).max(1e-9),
            Self::Times => nanoseconds(subject) / nanoseconds(peer).max(1e-9),
            Self::NanosecondsMore | Self::Bytes | Self::Milliseconds | Self::Count => {
                nanoseconds(subject) - nanoseconds(peer)
            }
        }
    }

    fn more_is_better(self) -> bool {
        self == Self::Ratio
    }
}

/// The gate and what we are here for; none for a figure that is only told.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Levels {
    pub ship: Option<f64>,
    pub goal: Option<f64>,
}

impl Levels {
    pub const NONE: Self = Self { ship: None, goal: None };

    pub fn new(ship: f64, goal: f64) -> Self {
        Self { ship: Some(ship), goal: Some(goal) }
    }
}

/// How a figure stands to its levels; the worse end of the interval decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Goal,
    Ship,
    /// The interval lies on both sides of the gate.
    Undecided,
    Lost,
    /// There are no levels.
    Told,
}

/// How often and how long.
#[derive(Debug, Clone)]
pub struct Rules {
    pub pairs: usize,
    pub time: Duration,
    pub seed: u64,
    /// Repeat disturbed pairs, up to as many again.
    pub repeat: bool,
}

/// One measured block.
#[derive(Debug, Clone, Serialize)]
pub struct Block {
    pub pair: usize,
    pub side: String,
    pub ops_per_second: f64,
    pub bytes_per_second: f64,
    pub cpu_us_per_op: Option<f64>,
    pub disturbance: Disturbance,
    /// Its pair was repeated and does not count.
    pub discarded: bool,
}

/// A pair that was repeated.
#[derive(Debug, Clone, Serialize)]
pub struct Discard {
    pub pair: usize,
    pub value: f64,
    pub why: String,
}

/// The whole contest.
#[derive(Debug, Clone, Serialize)]
pub struct Contest {
    pub what: String,
    pub subject: String,
    pub peer: String,
    pub unit: Unit,
    pub blocks: Vec<Block>,
    pub discards: Vec<Discard>,
    /// Pairs that count although the machine was disturbed.
    pub disturbed_pairs: usize,
    pub values: Vec<f64>,
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub levels: Levels,
    pub standing: Standing,
}

/// Runs pairs of `subject` and `peer` and judges them.
pub fn run(
    what: &str,
    rules: &Rules,
    (unit, levels): (Unit, Levels),
    subject: &mut dyn Side,
    peer: &mut dyn Side,
) -> Result<Contest> {
    let (mut blocks, mut discards, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut disturbed_pairs = 0;
    while values.len() < rules.pairs {
        let pair = values.len();
        let stretch = (rules.seed << 20) + (pair + discards.len()) as u64;
        let first_block = blocks.len();
        let (mine, theirs) = if pair.is_multiple_of(2) {
            let mine = block(subject, pair, rules.time, stretch, &mut blocks)?;
            (mine, block(peer, pair, rules.time, stretch, &mut blocks)?)
        } else {
            let theirs = block(peer, pair, rules.time, stretch, &mut blocks)?;
            (block(subject, pair, rules.time, stretch, &mut blocks)?, theirs)
        };
        let value = unit.of(&mine, &theirs);
        let why = blocks[first_block..].iter().find_map(|b: &Block| b.disturbance.reason());
        match why {
            Some(why) if rules.repeat && discards.len() < rules.pairs => {
                eprintln!("{what}: pair {pair} gave {value:.3}, discarded: {why}");
                blocks[first_block..].iter_mut().for_each(|b| b.discarded = true);
                discards.push(Discard { pair, value, why });
            }
            why => {
                disturbed_pairs += usize::from(why.is_some());
                values.push(value);
            }
        }
    }
    let mut contest = judged(what, (unit, levels), values, rules.seed);
    (contest.subject, contest.peer) = (subject.name(), peer.name());
    (contest.blocks, contest.discards) = (blocks, discards);
    contest.disturbed_pairs = disturbed_pairs;
    Ok(contest)
}

/// Median, interval and standing of values that were gathered elsewhere.
pub fn judged(what: &str, (unit, levels): (Unit, Levels), values: Vec<f64>, seed: u64) -> Contest {
    let (low, high) = interval(&values, seed);
    Contest {
        what: what.to_owned(),
        subject: String::new(),
        peer: String::new(),
        unit,
        blocks: Vec::new(),
        discards: Vec::new(),
        disturbed_pairs: 0,
        median: median(&mut values.clone()),
        values,
        low,
        high,
        levels,
        standing: standing(unit, levels, low, high),
    }
}

fn standing(unit: Unit, levels: Levels, low: f64, high: f64) -> Standing {
    let (Some(ship), Some(goal)) = (levels.ship, levels.goal) else {
        return Standing::Told;
    };
    // Turned so that more is better.
    let turn = |x: f64| if unit.more_is_better() { x } else { -x };
    let (worse, better) = if unit.more_is_better() { (low, high) } else { (-high, -low) };
    match () {
        () if worse >= turn(goal) => Standing::Goal,
        () if worse >= turn(ship) => Standing::Ship,
        () if better >= turn(ship) => Standing::Undecided,
        () => Standing::Lost,
    }
}

fn block(
    side: &mut dyn Side,
    pair: usize,
    time: Duration,
    stretch: u64,
    blocks: &mut Vec<Block>,
) -> Result<Reading> {
    let watch = Watch::start();
    let reading = side.block(time, stretch)?;
    let apart = reading.cpu_seconds.filter(|_| side.works_apart());
    let disturbance = watch.stop(apart.unwrap_or(0.0));
    let block = Block {
        pair,
        side: side.name(),
        ops_per_second: reading.ops / reading.seconds.max(1e-9),
        bytes_per_second: reading.bytes / reading.seconds.max(1e-9),
        cpu_us_per_op: reading.cpu_seconds.map(|cpu| cpu * 1e6 / reading.ops.max(1.0)),
        disturbance,
        discarded: false,
    };
    eprintln!(
        "pair {pair} {:42} {:11.0} ops/s {:8.1} MiB/s  others {:3.0} %",
        block.side,
        block.ops_per_second,
        block.bytes_per_second / f64::from(1 << 20),
        block.disturbance.others_share * 100.0,
    );
    blocks.push(block);
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock {
        name: &'static str,
        bytes: f64,
        log: std::rc::Rc<std::cell::RefCell<String>>,
    }

    impl Side for Clock {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn block(&mut self, time: Duration, _: u64) -> Result<Reading> {
            self.log.borrow_mut().push_str(self.name);
            let seconds = time.as_secs_f64();
            Ok(Reading { ops: 100.0, bytes: self.bytes, seconds, cpu_seconds: None })
        }
    }

    fn contest(unit: Unit, levels: Levels) -> (Contest, String) {
        let log = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
        let side = |name, bytes| Clock { name, bytes, log: log.clone() };
        let rules = Rules { pairs: 4, time: Duration::from_millis(10), seed: 1, repeat: false };
        let contest =
            run("test", &rules, (unit, levels), &mut side("A", 30.0), &mut side("B", 10.0));
        let order = log.borrow().clone();
        (contest.unwrap(), order)
    }

    #[test]
    fn pairs_alternate_and_the_median_is_judged() {
        let (found, order) = contest(Unit::Ratio, Levels::new(2.0, 4.0));
        assert_eq!(order, "ABBAABBA");
        assert_eq!((found.values.len(), found.blocks.len()), (4, 8));
        assert!((found.median - 3.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.standing, Standing::Ship);
    }

    #[test]
    fn the_worse_end_of_the_interval_decides() {
        let levels = Levels::new(2.0, 3.0);
        let ratio = |low, high| standing(Unit::Ratio, levels, low, high);
        assert_eq!(ratio(3.0, 4.0), Standing::Goal);
        assert_eq!(ratio(2.9, 4.0), Standing::Ship);
        assert_eq!(ratio(1.9, 4.0), Standing::Undecided);
        assert_eq!(ratio(1.0, 1.9), Standing::Lost);
        let bytes = |low, high| standing(Unit::Bytes, Levels::new(48.0, 24.0), low, high);
        assert_eq!(bytes(10.0, 24.0), Standing::Goal);
        assert_eq!(bytes(10.0, 25.0), Standing::Ship);
        assert_eq!(bytes(40.0, 50.0), Standing::Undecided);
        assert_eq!(bytes(49.0, 50.0), Standing::Lost);
        assert_eq!(standing(Unit::Ratio, Levels::NONE, 1.0, 2.0), Standing::Told);
        let times = |low, high| standing(Unit::Times, Levels::new(4.0, 2.5), low, high);
        assert_eq!(times(2.0, 2.6), Standing::Ship);
        assert_eq!(times(4.1, 5.0), Standing::Lost);
    }
}
