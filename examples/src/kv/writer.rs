//! The writer: one task that turns requests into commits.
//!
//! It takes what has gathered in its queue, plans all of it in one draft (or several, where one
//! transaction would become too large), commits, and goes on with what has gathered meanwhile. A
//! task per commit waits for durability and then answers. No timers: the batch is what came while
//! `COMMITS_IN_FLIGHT_MAX` commits were on their way, or before the threads had nothing else to do: where
//! processors are scarce, batches are large, and where the device is slow, nobody waits for others.
//!
//! Guarantees: each group is applied whole or not at all; an answer comes after durability; answers
//! of one client keep its order; what one group does wrong harms no other. On an engine failure all
//! groups of the commit hear it. Ends when all senders are gone and everything is answered.
//!
//! With `Promise::EverySecond` an answer comes when its commit is visible, and one task makes durable
//! once a second what has been committed. The end of the writer is durable in any case.
//!
//! Does not check operations (`op`) and does not read for clients. Called by `store`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use foliant::Commit;
use foliant::Engine;
use foliant::ErrorKind;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::kv::draft::Draft;
use crate::kv::draft::Finished;
use crate::kv::error::Error;
use crate::kv::error::Result;
use crate::kv::ground::Ground;
use crate::kv::limits::BATCH_REQUESTS_MAX;
use crate::kv::limits::COMMITS_IN_FLIGHT_MAX;
use crate::kv::limits::PAGE_BYTES;
use crate::kv::limits::SETTLE_PAUSE;
use crate::kv::limits::WARM_READS_MAX;
use crate::kv::meta::Meta;
use crate::kv::op::Group;
use crate::kv::op::Op;
use crate::kv::op::Outcome;
use crate::kv::op::Promise;
use crate::kv::plan;
use crate::kv::plan::Job;
use crate::kv::plan::Place;
use crate::kv::plan::Plan;
use crate::kv::removal;
use crate::kv::shelf::Grave;
use crate::kv::snapshot::Snapshot;
use crate::kv::view::Views;
use crate::kv::watch::Watches;

/// The answer to a request: for each of its groups what became of its operations.
pub type Answer = Vec<Result<Vec<Outcome>>>;

/// Groups of one client, in its order.
#[derive(Debug)]
pub struct Request {
    /// Each is atomic.
    pub groups: Vec<Group>,
    /// Where the answer goes; nobody may be there any more.
    pub reply: oneshot::Sender<Answer>,
}

/// The writer's state.
pub struct Writer {
    engine: Engine,
    ground: Ground,
    views: Views,
    meta: Meta,
    watches: Arc<Watches>,
    promise: Promise,
    /// Bounds the commits on their way to durability.
    in_flight: Arc<Semaphore>,
    /// The answering tasks.
    tasks: TaskTracker,
    /// Blocks that the engine had to fetch up to the last batch: as long as there are more each time,
    /// the tree does not fit the memory.
    misses: u64,
    /// The last commit: a group that changed nothing may still build on it.
    last: Option<Commit>,
    /// The same, for the task that makes it durable once a second.
    newest: watch::Sender<Option<Commit>>,
}

/// A planned batch is committed, refused, or must be tried in smaller pieces.
enum Fate {
    Done,
    Failed(Error),
    TooLarge,
}

impl Writer {
    /// A writer on the state `meta`.
    pub fn new(
        engine: Engine,
        ground: Ground,
        (views, meta): (Views, Meta),
        watches: Arc<Watches>,
        promise: Promise,
    ) -> Self {
        let in_flight = Arc::new(Semaphore::new(COMMITS_IN_FLIGHT_MAX));
        let tasks = TaskTracker::new();
        let newest = watch::Sender::new(None);
        Self {
            engine,
            ground,
            views,
            meta,
            watches,
            promise,
            in_flight,
            tasks,
            misses: 0,
            last: None,
            newest,
        }
    }

    /// Serves the queue to its end.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        if self.promise == Promise::EverySecond {
            self.tasks.spawn(settle_every_second(self.newest.subscribe()));
        }
        let removing = tokio::spawn(removal::run(self.ground.shelf.clone()));
        let mut batch = Vec::with_capacity(BATCH_REQUESTS_MAX);
        loop {
            let permit = self.in_flight.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            if queue.recv_many(&mut batch, BATCH_REQUESTS_MAX).await == 0 {
                break;
            }
            // The first request of many wakes this task before the others are in the queue.
            yield_now().await;
            while batch.len() < BATCH_REQUESTS_MAX
                && let Ok(request) = queue.try_recv()
            {
                batch.push(request);
            }
            self.serve(std::mem::take(&mut batch), permit).await;
        }
        // What waits for a next commit ends.
        drop(self.newest);
        self.tasks.close();
        self.tasks.wait().await;
        self.ground.shelf.close();
        if let Err(cause) = removing.await {
            tracing::error!("the removal of large values ended badly: {cause}");
        }
    }

    /// Applies all groups of all requests, then leaves the answering to a task.
    async fn serve(&mut self, batch: Vec<Request>, permit: OwnedSemaphorePermit) {
        let mut jobs = VecDeque::new();
        let mut answers = Vec::with_capacity(batch.len());
        for (request, Request { groups, reply }) in batch.into_iter().enumerate() {
            let blank = || Err(Error::Closed);
            answers.push((reply, Vec::from_iter(groups.iter().map(|_| blank()))));
            let job = |(index, group)| Job { request, index, group };
            jobs.extend(groups.into_iter().enumerate().map(job));
        }
        self.apply(jobs, &mut answers).await;
        let last = match self.promise {
            Promise::Durable => self.last.clone(),
            Promise::EverySecond => None,
        };
        self.tasks.spawn(async move {
            let durable = match last {
                Some(commit) => commit.durable().await,
                None => Ok(()),
            };
            for (reply, mut answer) in answers {
                if let Err(cause) = &durable {
                    answer.fill_with(|| Err(cause.clone().into()));
                }
                // A client that went away does not want its answer.
                let _ = reply.send(answer);
            }
            drop(permit);
        });
    }

    async fn apply(
        &mut self,
        mut jobs: VecDeque<Job>,
        answers: &mut [(oneshot::Sender<Answer>, Answer)],
    ) {
        self.warm(&jobs).await;
        let (ground, watches) = (self.ground.clone(), self.watches.clone());
        let place = Place { ground: &ground, watches: &watches };
        let mut most = usize::MAX;
        while !jobs.is_empty() {
            let limits = self.limits(most);
            let plan = plan::fill(place, self.meta, &mut jobs, limits).await;
            most = plan.most_next;
            if let Some((job, cause)) = plan.refused {
                answers[job.request].1[job.index] = Err(cause);
            }
            let Some(Plan { draft, done, clear }) = plan.plan else { continue };
            let outcomes = match self.commit(draft, clear).await {
                Fate::TooLarge if done.len() > 1 => {
                    most = done.len() / 2;
                    done.into_iter().rev().for_each(|(job, _)| jobs.push_front(job));
                    continue;
                }
                Fate::TooLarge => Err(Error::TooLarge { bytes: 0, bytes_max: limits.log_bytes }),
                Fate::Failed(cause) => Err(cause),
                Fate::Done => Ok(()),
            };
            for (job, outcome) in done {
                plan::touch(&self.watches, &job.group, &outcome);
                answers[job.request].1[job.index] = outcomes.clone().map(|()| outcome);
            }
        }
    }

    /// Fetches the pages that the jobs need, many at once, if fetching is what batches wait for.
    async fn warm(&mut self, jobs: &VecDeque<Job>) {
        let misses = self.engine.stats().cache_misses;
        if std::mem::replace(&mut self.misses, misses) == misses || jobs.len() < 2 {
            return;
        }
        let snapshot = Snapshot::new(&self.ground, self.views.current().get());
        let ops = jobs.iter().flat_map(|job| &job.group);
        let keys: Vec<Bytes> = ops.flat_map(Op::keys).cloned().collect();
        let reads = keys.into_iter().map(|key| {
            let snapshot = snapshot.clone();
            async move { snapshot.warm(&key).await }
        });
        // What cannot be read fails again in the plan, which says so.
        let read = stream::iter(reads).buffer_unordered(WARM_READS_MAX);
        read.for_each(|_| std::future::ready(())).await;
    }

    fn limits(&self, most: usize) -> plan::Limits {
        let log_bytes = self.engine.transaction().log_bytes_max();
        // The engine holds an old and a new image of each page of a commit, and takes at most an
        // eighth of its memory for that.
        let pages = self.engine.stats().memory_budget_bytes as usize / PAGE_BYTES / 16;
        plan::Limits { most, log_bytes, pages }
    }

    /// The flip: from here on readers that come see the new state, those that are there the old one.
    async fn commit(&mut self, draft: Draft<'_>, clear: bool) -> Fate {
        if draft.is_clean() {
            return Fate::Done;
        }
        let meta = draft.meta;
        let finished = match draft.into_transaction(&self.engine) {
            Ok(finished) => finished,
            Err(Error::Engine(cause)) if cause.kind() == ErrorKind::TooLarge => {
                return Fate::TooLarge;
            }
            Err(cause) => return Fate::Failed(cause),
        };
        let Finished { transaction, undo, changed, kept, buried, pinned } = finished;
        let touched = undo.larges.iter().map(|old| old.id).chain(pinned).collect::<Vec<_>>();
        let replaced = undo.larges.clone();
        self.ground.shelf.replace(&replaced, || self.views.begin(undo));
        self.ground.uppers.begin();
        let committed = transaction.commit().await;
        match &committed {
            Ok(_) => {
                self.meta = meta;
                self.ground.uppers.end(changed);
            }
            Err(_) => self.ground.uppers.end(Vec::new()),
        }
        self.views.advance(self.meta);
        self.ground.shelf.planned(touched);
        match committed {
            Ok(commit) => {
                self.newest.send_replace(Some(commit.clone()));
                self.last = Some(commit);
            }
            Err(cause) if cause.kind() == ErrorKind::TooLarge => return Fate::TooLarge,
            Err(cause) => return Fate::Failed(cause.into()),
        }
        kept.iter().for_each(|staged| staged.keep());
        for id in buried {
            self.ground.shelf.bury(Grave::One(id, self.ground.shelf.name_old(id).into_bytes()));
        }
        self.ground.shelf.breathe().await;
        if clear {
            let [_, _, earlier] = self.ground.shelf.leftovers(meta.epoch);
            self.ground.shelf.bury(earlier);
            self.ground.uppers.clear();
            return self.give_room_back().await;
        }
        Fate::Done
    }

    /// After a clear: the object's space returns to the volume, before a new page may lie there.
    async fn give_room_back(&mut self) -> Fate {
        let work = async {
            if let Some(commit) = self.last.clone() {
                commit.durable().await?;
            }
            self.views.only_current().await;
            self.ground.object.truncate(u64::from(self.meta.pages) * PAGE_BYTES as u64).await?;
            self.ground.object.sync().await
        };
        match work.await {
            Ok(()) => Fate::Done,
            Err(cause) => Fate::Failed(cause.into()),
        }
    }
}

/// Makes durable what was committed, about once a second, and at the end.
async fn settle_every_second(mut newest: watch::Receiver<Option<Commit>>) {
    loop {
        let goes_on = newest.changed().await.is_ok();
        let commit = newest.borrow_and_update().clone();
        if let Some(commit) = commit
            && let Err(cause) = commit.durable().await
        {
            // The engine has stopped its writes: all further ones fail and say so.
            tracing::error!("commits that were answered are not durable: {cause}");
        }
        if !goes_on {
            return;
        }
        tokio::select! {
            () = sleep(SETTLE_PAUSE) => {}
            () = closed(newest.clone()) => {}
        }
    }
}

/// Waits until there will be no next commit.
async fn closed(mut newest: watch::Receiver<Option<Commit>>) {
    while newest.changed().await.is_ok() {}
}
