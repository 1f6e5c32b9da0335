//! What people do at the console: each action runs in the background and can be cancelled.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dead_letters::Progress;

/// How many actions are remembered; a running one is never forgotten.
const MOST: usize = 50;

/// One action.
pub(super) struct Action {
    pub(super) id: u64,
    pub(super) by: String,
    /// The action, in words.
    pub(super) what: String,
    /// Which dead letters, in words.
    pub(super) about: String,
    /// The queue that it goes through.
    pub(super) queue: Option<String>,
    /// How many at most, if known.
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
    /// Cancelled, or the console is stopping.
    Interrupted,
    Failed(String),
}

/// A requested action.
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
    /// An action does not see what another one holds, and would end with fewer than it announced.
    ///
    /// # Errors
    /// The action that is already running.
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
        // Runs on its own thread: the future that goes through a queue is not `Send`.
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

    /// Interrupts the running actions and waits until they have published their audit events.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
