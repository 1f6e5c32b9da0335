//! How fast a bulk action may go, and how far it has come.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Bulk;

/// A limit per second.
pub(super) struct Pace {
    gap: Duration,
    next: Instant,
}

impl Pace {
    pub(super) fn new(bulk: &Bulk) -> Self {
        let gap = bulk.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        Self { gap, next: Instant::now() }
    }

    /// `false` if `stop` fired meanwhile.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> bool {
        let due = self.next;
        self.next = due.max(Instant::now()) + self.gap;
        tokio::select! { biased; () = stop.cancelled() => false, () = sleep_until(due) => true }
    }
}

/// The progress of a bulk action: a bar at a terminal, otherwise a number.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    done: Arc<AtomicUsize>,
}

impl Progress {
    /// How many dead letters are done with.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn inc(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// On a terminal only.
pub(super) fn progress_bar(dead_letters: usize) -> ProgressBar {
    let bar = if io::stderr().is_terminal() {
        ProgressBar::new(dead_letters as u64)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} dead letters, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}
