//! How deliveries of a channel are acknowledged: singly, or in runs that one task sends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::ack_window::{AckWindow, Acks};
use super::connection::in_time;

/// The channel that deliveries came over, and what is to be acknowledged there.
#[derive(Debug, Clone)]
pub(super) enum Acknowledger {
    /// Each at once, and the answer says whether the broker was told: for operators.
    Singly(Arc<Singly>),
    /// With as few frames as can be: for commands.
    InRuns(Arc<Runs>),
}

/// The channel, and how many of its deliveries are settled.
#[derive(Debug)]
pub(super) struct Singly {
    channel: Arc<Channel>,
    settled: AtomicUsize,
}

impl Singly {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self { channel, settled: AtomicUsize::new(0) }
    }

    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }
}

/// What is settled, and the task that tells the broker.
#[derive(Debug)]
pub(super) struct Runs {
    channel: Arc<Channel>,
    shared: Arc<Shared>,
    _sender: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    window: Mutex<AckWindow>,
    has_settled: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, AckWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acknowledger {
    pub(super) fn in_runs(channel: &Arc<Channel>) -> Self {
        let shared = Arc::new(Shared::default());
        let sender = tokio::spawn(send(Arc::clone(channel), Arc::clone(&shared)));
        let channel = Arc::clone(channel);
        Self::InRuns(Arc::new(Runs { channel, shared, _sender: AbortOnDropHandle::new(sender) }))
    }

    pub(super) fn channel(&self) -> &Channel {
        match self {
            Self::Singly(singly) => &singly.channel,
            Self::InRuns(runs) => &runs.channel,
        }
    }

    /// Whether the broker is told, as far as can be known. In runs it is told at the end of the
    /// present turn of the runtime.
    pub(super) async fn acknowledge(&self, tag: u64) -> bool {
        match self {
            Self::Singly(singly) => {
                self.acknowledged(tag);
                in_time(singly.channel.basic_ack(tag, BasicAckOptions::default())).await.is_ok()
            }
            Self::InRuns(runs) => {
                runs.shared.lock().settled(tag);
                runs.shared.has_settled.notify_one();
                runs.channel.status().connected()
            }
        }
    }

    /// The delivery was rejected or requeued, or is acknowledged singly.
    pub(super) fn acknowledged(&self, tag: u64) {
        match self {
            Self::Singly(singly) => _ = singly.settled.fetch_add(1, Ordering::Relaxed),
            Self::InRuns(runs) => runs.shared.lock().acknowledged(tag),
        }
    }
}

/// Tells the broker what is settled, until the channel is gone.
///
/// # Acknowledgements leave in the order in which they are decided
///
/// lapin puts a frame into its queue when the request is first polled, so requests that one task
/// makes one after the other leave in that order. Nobody waits for them to be written: what does
/// not arrive is delivered again, which is harmless.
async fn send(channel: Arc<Channel>, shared: Arc<Shared>) {
    loop {
        shared.has_settled.notified().await;
        let Acks { up_to, singly } = shared.lock().take();
        let run = up_to.map(|tag| (tag, true));
        for (tag, multiple) in run.into_iter().chain(singly.into_iter().map(|tag| (tag, false))) {
            let sent = channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never();
            if matches!(sent, Some(Err(_))) {
                return;
            }
        }
    }
}
