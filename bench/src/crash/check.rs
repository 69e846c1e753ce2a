//! Looks: at the open engine, which must show exactly what the model says, and at the reopened one.
//!
//! Panics where something is wrong, and says what. Called by `run` and `outcomes`.

use foliant::Engine;
use foliant::Result;

use super::ground::read_all;
use super::model::Names;
use super::model::note;
use super::run::MIXED;
use super::run::PLAIN;
use super::run::Run;
use super::run::loose_name;

impl Run {
    /// One object, as readers see it now.
    pub(super) async fn look(&mut self, engine: &Engine) -> Result<()> {
        let names: Vec<String> =
            self.commits.states.last().expect("never empty").keys().cloned().collect();
        let which = self.rng.below((names.len() + PLAIN + MIXED) as u64) as usize;
        let (name, want) = match which.checked_sub(PLAIN + MIXED) {
            None => (loose_name(which), &self.loose[which].bytes),
            Some(i) => {
                let state = self.commits.states.last().expect("never empty");
                (names[i].clone(), &state[&names[i]])
            }
        };
        let object = engine.object(&name).await?;
        let mut found = vec![0; object.size() as usize];
        object.read_at(0, &mut found).await?;
        let differ = want.iter().zip(&found).position(|(a, b)| a != b);
        let sizes = (want.len(), found.len());
        assert!(found == *want, "{name} shows other bytes at {differ:?} of sizes {sizes:?}");
        self.tally.add("looks", 1);
        Ok(())
    }

    /// Compares the reopened volume with the model, and makes what was found the model.
    pub(super) async fn check(&mut self, engine: &Engine) {
        let mut found = Names::new();
        for name in engine.list("", 100).await.expect("names can be listed") {
            let name = String::from_utf8(name).expect("names of ours");
            if !(0..PLAIN + MIXED).any(|i| loose_name(i) == name) {
                let bytes = read(engine, &name).await;
                self.check_note(engine, &name, &bytes).await;
                found.insert(name, bytes);
            }
        }
        let known = self.commits.states.iter().rposition(|state| *state == found);
        let known = known.unwrap_or_else(|| self.explain(&found));
        self.commits.states = vec![self.commits.states.swap_remove(known)];
        for i in 0..PLAIN + MIXED {
            let found = read(engine, &loose_name(i)).await;
            self.loose[i].check(&loose_name(i), &found);
            self.loose[i].bytes = found;
            self.loose[i].synced();
        }
        assert_eq!(self.disk.overlaps(), 0, "requests in flight overlapped");
    }

    /// What a transaction noted in the attributes is what the object holds.
    async fn check_note(&mut self, engine: &Engine, name: &str, bytes: &[u8]) {
        let object = engine.object(name).await.expect("it was listed");
        let noted = object.attributes().await.expect("the record can be read");
        if noted.is_empty() {
            assert!(
                !name.starts_with("made") || bytes.is_empty(),
                "{name} has lost its attributes"
            );
            return;
        }
        assert!(noted == note(bytes), "{name} holds something else than its attributes say");
        self.tally.add("attributes compared", 1);
    }

    fn explain(&self, found: &Names) -> usize {
        for (n, state) in self.commits.states.iter().enumerate() {
            let names = (state.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
            eprintln!("after commit {n}: names {names:?}");
            for (name, want) in state {
                let Some(got) = found.get(name) else { continue };
                let differ = want.iter().zip(got).position(|(a, b)| a != b);
                let sizes = (want.len(), got.len());
                eprintln!("    {name}: sizes {sizes:?}, first difference {differ:?}");
            }
        }
        panic!("the logged objects are at no commit since the last acknowledged one");
    }
}

async fn read(engine: &Engine, name: &str) -> Vec<u8> {
    read_all(&engine.object(name).await.expect("the object exists")).await
}
