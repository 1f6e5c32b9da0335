//! What people do here: each action runs by itself, whoever looks, and can be cancelled.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dead_letters::Progress;

/// So many are remembered; those that run are never forgotten.
const MOST: usize = 50;

/// One action.
pub(super) struct Action {
    pub(super) id: u64,
    pub(super) by: String,
    /// What is done, in words.
    pub(super) what: String,
    /// With which ones.
    pub(super) about: String,
    /// What it goes through.
    pub(super) queue: Option<String>,
    /// How many at most, where that is known.
    pub(super) number: Option<usize>,
    pub(super) rate: Option<NonZeroU32>,
    pub(super) began: Timestamp,
    pub(super) progress: Progress,
    pub(super) stop: CancellationToken,
    ended: Mutex<Option<(Timestamp, Ended)>>,
}

/// How it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// Cancelled, or the console was told to stop.
    Interrupted,
    Failed(String),
}

/// What is asked for.
pub(super) struct Asked {
    pub(super) by: String,
    pub(super) what: String,
    pub(super) about: String,
    pub(super) queue: Option<String>,
    pub(super) number: Option<usize>,
    pub(super) rate: Option<NonZeroU32>,
}

/// All actions of this console.
#[derive(Default)]
pub(super) struct Actions {
    all: Mutex<VecDeque<Arc<Action>>>,
    last: AtomicU64,
    running: TaskTracker,
    stop: CancellationToken,
}

impl Action {
    pub(super) fn ended(&self) -> Option<(Timestamp, Ended)> {
        lock(&self.ended).clone()
    }
}

impl Actions {
    /// # One action at a time goes through a queue
    ///
    /// What one holds another does not see, and it would end with less than was announced.
    ///
    /// # Errors
    /// The one that runs already.
    pub(super) fn start(
        &self,
        asked: Asked,
        work: impl AsyncFnOnce(Arc<Action>) -> Ended + Send + 'static,
    ) -> Result<u64, Arc<Action>> {
        let mut all = lock(&self.all);
        let is_same = |action: &&Arc<Action>| {
            action.ended().is_none() && action.queue.is_some() && action.queue == asked.queue
        };
        if let Some(other) = all.iter().find(is_same) {
            return Err(Arc::clone(other));
        }
        let Asked { by, what, about, queue, number, rate } = asked;
        let action = Arc::new(Action {
            id: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            by,
            what,
            about,
            queue,
            number,
            rate,
            began: Timestamp::now(),
            progress: Progress::default(),
            stop: self.stop.child_token(),
            ended: Mutex::new(None),
        });
        let id = action.id;
        all.push_front(Arc::clone(&action));
        while all.len() > MOST
            && let Some(oldest) = all.iter().rposition(|action| action.ended().is_some())
        {
            all.remove(oldest);
        }
        let runtime = Handle::current();
        // On a thread of its own: what goes through a queue is no future that could change threads.
        self.running.spawn_blocking(move || {
            let ended = runtime.block_on(work(Arc::clone(&action)));
            *lock(&action.ended) = Some((Timestamp::now(), ended));
        });
        Ok(id)
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Action>> {
        lock(&self.all).iter().find(|action| action.id == id).cloned()
    }

    /// The latest first.
    pub(super) fn all(&self) -> Vec<Arc<Action>> {
        lock(&self.all).iter().cloned().collect()
    }

    /// Interrupts what runs, and waits until it has left its audit events.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
