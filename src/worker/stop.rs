//! What makes a command that waits give up.

use tokio_util::sync::CancellationToken;

/// The worker is about to end, or the session that the command came from is lost.
#[derive(Clone)]
pub struct Stop {
    /// No new call may be made.
    pub draining: CancellationToken,
    /// The broker has taken the command back.
    pub session_lost: CancellationToken,
}

impl Stop {
    /// Waits until one of the two is so.
    pub async fn requested(&self) {
        tokio::select! { () = self.draining.cancelled() => {} () = self.session_lost.cancelled() => {} }
    }

    /// Whether one of the two is so.
    pub fn is_requested(&self) -> bool {
        self.draining.is_cancelled() || self.session_lost.is_cancelled()
    }
}
