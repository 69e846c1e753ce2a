//! A reader in the middle of the moment in which a commit shows its blocks sees none of it: what needs no
//! future says that it cannot tell, what has one waits, and then gives the whole.

#![allow(clippy::unwrap_used)] // In helpers of tests as in tests: a failed unwrap is the failed test.

mod support;

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use foliant::Engine;
use foliant::Object;
use foliant::testing::Canary;
use foliant::testing::break_on_purpose;
use foliant::testing::stop;
use foliant::testing::stop::Stop;
use foliant_device::sim::SimDisk;
use foliant_device::sim::SimOptions;
use support::BLOCK;
use support::DEVICE_BLOCKS;

type Reading = Pin<Box<dyn Future<Output = Vec<u8>>>>;

/// How a reader reads.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Copy,
    Share,
    Direct,
}

fn reading(engine: &Engine, object: &Object, verb: Verb, len: usize) -> Reading {
    let (engine, object) = (engine.clone(), object.clone());
    Box::pin(async move {
        match verb {
            Verb::Copy => {
                let mut bytes = vec![0; len];
                let read = object.read_at(0, &mut bytes).await.unwrap();
                bytes.truncate(read);
                bytes
            }
            Verb::Share => object.read(0..len as u64).await.unwrap().to_vec(),
            Verb::Direct => {
                let buffer = engine.direct_buffer(len).await.unwrap();
                let (buffer, read) = object.read_direct(0, buffer, 0..len).await;
                buffer[..read.unwrap()].to_vec()
            }
        }
    })
}

/// What was seen of a commit from its middle: at once without a future, and what a reader gave that
/// was asked in the middle; and how often the middle was reached.
struct Seen {
    at_once: Vec<Option<Vec<u8>>>,
    asked: Vec<Vec<u8>>,
    visits: usize,
}

/// Four blocks of 1 become four blocks of 2, and half a block more; `laid` is the size of the first write,
/// which decides how large the folios are.
async fn look_from_the_middle(verb: Verb, laid: usize) -> Seen {
    let disk = SimDisk::new(DEVICE_BLOCKS, SimOptions::default());
    support::format(&disk).await;
    let engine = support::open(&disk).await.unwrap();
    let object = engine.create("object").await.unwrap();
    for start in (0..4 * BLOCK).step_by(laid) {
        object.write_at(start as u64, &vec![1; laid]).await.unwrap();
    }
    object.sync().await.unwrap();
    let (at_once, waiting) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    let visits = Rc::new(Cell::new(0));
    let hook = {
        let (engine, object) = (engine.clone(), object.clone());
        let (at_once, waiting, visits) = (at_once.clone(), waiting.clone(), visits.clone());
        move || {
            visits.set(visits.get() + 1);
            let mut bytes = vec![0; 5 * BLOCK];
            let read = object.try_read_at(0, &mut bytes).unwrap();
            at_once.borrow_mut().push(read.map(|len| bytes[..len].to_vec()));
            for block in 0..4 {
                let place = block * BLOCK as u64..(block + 1) * BLOCK as u64;
                let peeked = object.peek(place, |bytes| bytes.repeat(4)).unwrap();
                at_once.borrow_mut().push(peeked);
            }
            let mut reading = reading(&engine, &object, verb, 5 * BLOCK);
            match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(bytes) => at_once.borrow_mut().push(Some(bytes)),
                Poll::Pending => waiting.borrow_mut().push(reading),
            }
        }
    };
    stop::on(Stop::BeforeAttach, Some(Rc::new(hook)));
    let mut transaction = engine.transaction();
    transaction.write_at(&object, 0, &vec![2; 4 * BLOCK + BLOCK / 2]).unwrap();
    transaction.commit().await.unwrap().durable().await.unwrap();
    stop::on(Stop::BeforeAttach, None);
    let mut asked = Vec::new();
    for reading in waiting.take() {
        asked.push(reading.await);
    }
    engine.close().await.unwrap();
    Seen { at_once: at_once.take(), asked, visits: visits.get() }
}

fn is_old(bytes: &[u8]) -> bool {
    bytes.len() == 4 * BLOCK && bytes.iter().all(|&b| b == 1)
}

fn is_new(bytes: &[u8]) -> bool {
    bytes.len() == 4 * BLOCK + BLOCK / 2 && bytes.iter().all(|&b| b == 2)
}

#[test]
fn a_reader_in_the_middle_of_a_commit_sees_none_of_it() {
    for verb in [Verb::Copy, Verb::Share, Verb::Direct] {
        for laid in [BLOCK, 4 * BLOCK] {
            let seen = support::simulate(look_from_the_middle(verb, laid));
            assert_eq!(seen.visits, 5, "the middle of the commit was not reached");
            assert_eq!(seen.asked.len(), 5, "{verb:?}, laid {laid}: a reader did not wait");
            assert!(seen.at_once.iter().all(Option::is_none), "{verb:?}, laid {laid}");
            assert!(seen.asked.iter().all(|bytes| is_new(bytes)), "{verb:?}, laid {laid}");
        }
    }
}

#[test]
fn without_the_look_for_commits_readers_see_halves() {
    break_on_purpose(Some(Canary::ShowHalfCommits));
    let seen = support::simulate(look_from_the_middle(Verb::Copy, BLOCK));
    break_on_purpose(None);
    let halves = seen.at_once.iter().flatten().filter(|bytes| !is_old(bytes) && !is_new(bytes));
    assert!(halves.count() > 0, "the canary is not noticed");
}
