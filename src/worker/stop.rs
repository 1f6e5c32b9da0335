//! The signals that make a waiting command give up.

use tokio_util::sync::CancellationToken;

/// The worker is about to end, or the session that the command came from is lost.
#[derive(Clone)]
pub struct Stop {
    /// No new call may be made.
    pub draining: CancellationToken,
    /// The session is lost, so the broker redelivers the command.
    pub session_lost: CancellationToken,
}

impl Stop {
    /// Waits until one of the two fires.
    pub async fn requested(&self) {
        tokio::select! { () = self.draining.cancelled() => {} () = self.session_lost.cancelled() => {} }
    }

    /// Whether one of the two has fired.
    pub fn is_requested(&self) -> bool {
        self.draining.is_cancelled() || self.session_lost.is_cancelled()
    }
}
