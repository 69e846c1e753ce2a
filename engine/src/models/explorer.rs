//! Runs a model under many schedules.
//!
//! Guarantees: fixed seeds, so the same build explores the same schedules; half of them by random
//! priorities with few changes (PCT, good at races that need a few unlucky moments), half step by
//! step at random. A failure prints its schedule; `FOLIANT_MODEL_REPLAY` runs that one alone.
//! `FOLIANT_MODEL_ITERATIONS` multiplies the number of schedules. Does not know what is modelled.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Poll;

use shuttle::Config;
use shuttle::MaxSteps;
use shuttle::Runner;
use shuttle::future::JoinHandle;
use shuttle::rand::Rng;
use shuttle::scheduler::PctScheduler;
use shuttle::scheduler::RandomScheduler;
use shuttle::scheduler::ReplayScheduler;
use shuttle::scheduler::Scheduler;

use crate::kit::fault::Fault;
use crate::kit::fault::break_on_purpose;

const SEED: u64 = 0x5eed;
/// Moments at which the order of priorities changes.
const CHANGES: usize = 3;
/// A canary is looked for this long; most are caught by one of the first schedules.
pub const CANARY: usize = 10_000;
/// A model takes some hundred steps; one that takes so many runs in circles.
const STEPS_MAX: usize = 100_000;

fn config() -> Config {
    let mut config = Config::new();
    // Debug builds of nested futures need more than the default of 60 KiB.
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    // A failed run stops where it is: its futures would meet a half-made state.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config.silence_warnings = true;
    config
}

/// A model: one closed run of some tasks, with its assertions.
pub trait Model: Fn() + Copy + Send + Sync + 'static {}

impl<M: Fn() + Copy + Send + Sync + 'static> Model for M {}

fn multiplier() -> usize {
    let text = std::env::var("FOLIANT_MODEL_ITERATIONS").ok();
    text.map_or(1, |text| text.parse().expect("FOLIANT_MODEL_ITERATIONS is a number"))
}

fn run(scheduler: impl Scheduler + 'static, model: impl Model, count: &Arc<AtomicUsize>) {
    let count = Arc::clone(count);
    Runner::new(scheduler, config()).run(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
}

fn run_both(schedules: usize, model: impl Model, count: &Arc<AtomicUsize>) {
    run(PctScheduler::new_from_seed(SEED, CHANGES, schedules.div_ceil(2)), model, count);
    run(RandomScheduler::new_from_seed(SEED, schedules / 2), model, count);
}

/// The model holds under `schedules` schedules (times the multiplier).
pub fn explore(name: &str, schedules: usize, model: impl Model) {
    let count = Arc::new(AtomicUsize::new(0));
    if let Ok(schedule) = std::env::var("FOLIANT_MODEL_REPLAY") {
        run(ReplayScheduler::new_from_encoded(&schedule), model, &count);
        return;
    }
    run_both(schedules * multiplier(), model, &count);
    println!("model {name}: holds under {} schedules", count.load(Ordering::Relaxed));
}

/// The broken model fails under one of `schedules` schedules. `fault` breaks the engine; without one
/// the model is broken by itself.
pub fn expect_caught(name: &str, schedules: usize, fault: Option<Fault>, model: impl Model) {
    let count = Arc::new(AtomicUsize::new(0));
    break_on_purpose(fault);
    let outcome = catch_unwind(AssertUnwindSafe(|| run_both(schedules, model, &count)));
    break_on_purpose(None);
    let count = count.load(Ordering::Relaxed);
    assert!(outcome.is_err(), "{name}: not caught in {count} schedules");
    println!("canary {name}: caught by schedule {count}");
}

/// Starts a task of the model.
pub fn start<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    shuttle::future::spawn(task)
}

/// Waits for all tasks.
pub async fn join<T>(tasks: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("nobody aborts a task of a model"));
    }
    results
}

/// A number below `limit`, chosen by the scheduler's seed.
pub fn below(limit: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..limit)
}

/// Drops `future` at one of its first `awaits` pauses, or lets it end.
pub async fn dropped_within<F: Future>(awaits: usize, future: F) -> Option<F::Output> {
    let mut left = below(awaits + 1);
    let mut future: Pin<Box<F>> = Box::pin(future);
    std::future::poll_fn(move |context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}
