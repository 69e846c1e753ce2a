//! Transactions of a run: over logged and mixed objects, over names and sizes.
//!
//! Guarantees that the model has each commit before the engine has it, so that a cut inside is explained.
//! Called by `run`.

use std::collections::BTreeMap;

use foliant::Engine;
use foliant::Object;
use foliant::Result;
use foliant::Transaction;

use super::ground;
use super::ground::bytes;
use super::ground::put;
use super::model::Names;
use super::model::note;
use super::run::Handles;
use super::run::LOGGED;
use super::run::MADE;
use super::run::MIXED;
use super::run::PLAIN;
use super::run::Run;
use super::run::logged_name;

impl Run {
    /// One transaction; a tiny one changes a few bytes, and nobody waits for it.
    pub(super) async fn commit(
        &mut self,
        engine: &Engine,
        handles: &Handles,
        tiny: bool,
    ) -> Result<()> {
        let mut next = self.commits.states.last().expect("never empty").clone();
        let mut loose: BTreeMap<usize, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        let mut transaction = engine.transaction();
        for _ in 0..=self.rng.below(if tiny { 1 } else { 4 }) {
            let mut len = if tiny { self.rng.below(40) as usize + 1 } else { self.length() };
            let mut at = self.spot();
            let which = self.rng.below((LOGGED + MIXED) as u64) as usize;
            if which == LOGGED - 1 {
                (at, len) = (at % 380, len % 100 + 1);
            }
            let data = bytes(&mut self.rng, len);
            let object = match which {
                0..LOGGED => &handles.logged[which],
                _ => &handles.loose[PLAIN + which - LOGGED],
            };
            if transaction.write_at(object, at as u64, &data).is_err() {
                continue;
            }
            if which < LOGGED {
                put(next.get_mut(&logged_name(which)).expect("never removed"), at, &data);
            } else {
                loose.entry(PLAIN + which - LOGGED).or_default().push((at, data));
            }
        }
        if !tiny && self.rng.below(3) == 0 {
            self.change_names(engine, &mut transaction, &mut next).await?;
        }
        self.commits.states.push(next);
        let before = self.loose.clone();
        for (&which, writes) in &loose {
            writes.iter().for_each(|(at, data)| self.loose[which].write(*at, data));
        }
        let commit = match transaction.commit().await {
            // With a failing device it may have been decided behind the log.
            Err(cause) if cause.is_no_space() && !self.failing() => {
                self.commits.states.pop();
                self.loose = before;
                return Ok(());
            }
            outcome => outcome?,
        };
        if !tiny && self.rng.below(3) > 0 {
            commit.durable().await?;
            if !self.keeps {
                let last = self.commits.states.len() - 1;
                self.commits.states.drain(..last);
                self.commit_is_durable(&loose);
            }
            self.tally.add("commits acknowledged", 1);
        }
        Ok(())
    }

    /// A few more steps of a transaction, on names and sizes.
    async fn change_names(
        &mut self,
        engine: &Engine,
        transaction: &mut Transaction,
        next: &mut Names,
    ) -> Result<()> {
        let mut made: BTreeMap<String, Object> = BTreeMap::new();
        // The transaction knows an object by the name that it has outside.
        let mut outside: BTreeMap<String, String> =
            next.keys().map(|n| (n.clone(), n.clone())).collect();
        for _ in 0..=self.rng.below(4) {
            let fresh = format!("made-{}", self.rng.below(MADE));
            let names: Vec<String> = next.keys().cloned().collect();
            let name = names[self.rng.below(names.len() as u64) as usize].clone();
            let movable = name.starts_with("made");
            match self.rng.below(6) {
                0 | 1 if !next.contains_key(&fresh) => {
                    if let Ok(object) = transaction.create(&fresh) {
                        made.insert(fresh.clone(), object);
                        next.insert(fresh, Vec::new());
                    }
                }
                2 if movable && !next.contains_key(&fresh) => {
                    if transaction.rename(&name, &fresh).is_ok() {
                        let bytes = next.remove(&name).expect("it is there");
                        next.insert(fresh.clone(), bytes);
                        made.remove(&name).map(|object| made.insert(fresh.clone(), object));
                        outside.remove(&name).map(|old| outside.insert(fresh, old));
                    }
                }
                3 if movable => {
                    if transaction.remove(&name).is_ok() {
                        next.remove(&name);
                        made.remove(&name);
                        outside.remove(&name);
                    }
                }
                kind => {
                    let object = match made.get(&name) {
                        Some(object) => object.clone(),
                        None => engine.object(&outside[&name]).await?,
                    };
                    let bytes = next.get_mut(&name).expect("it is there");
                    self.change_and_note(transaction, (&name, &object), bytes, kind);
                }
            }
        }
        Ok(())
    }

    /// Changes an object, and notes in its attributes what it holds then, if it is one that nothing else changes.
    fn change_and_note(
        &mut self,
        transaction: &mut Transaction,
        (name, object): (&str, &Object),
        bytes: &mut Vec<u8>,
        kind: u64,
    ) {
        if !name.starts_with("made") {
            return self.change_logged(transaction, object, bytes, kind);
        }
        // The first call is charged; what the transaction has no room for must not be changed either.
        if transaction.set_attributes(object, &note(bytes)).is_ok() {
            self.change_logged(transaction, object, bytes, kind);
            transaction.set_attributes(object, &note(bytes)).expect("it was charged before");
        }
    }

    fn change_logged(
        &mut self,
        transaction: &mut Transaction,
        object: &Object,
        bytes: &mut Vec<u8>,
        kind: u64,
    ) {
        let (at, len) = (self.spot(), self.length().min(9_000));
        match kind {
            4 => {
                let to = if self.rng.below(2) == 0 { at } else { bytes.len() / 2 };
                if transaction.truncate(object, to as u64).is_ok() {
                    bytes.resize(to, 0);
                }
            }
            5 => {
                let end = (at + len).min(bytes.len());
                let range = at as u64..(at + len) as u64;
                if transaction.zero(object, range).is_ok() && at < end {
                    bytes[at..end].fill(0);
                }
            }
            _ => {
                let data = ground::bytes(&mut self.rng, len);
                if transaction.write_at(object, at as u64, &data).is_ok() {
                    put(bytes, at, &data);
                }
            }
        }
    }

    /// What the commit touched cannot fall behind it any more.
    fn commit_is_durable(&mut self, loose: &BTreeMap<usize, Vec<(usize, Vec<u8>)>>) {
        for (&which, writes) in loose {
            writes.iter().for_each(|(at, data)| self.loose[which].committed(*at..at + data.len()));
        }
    }
}
