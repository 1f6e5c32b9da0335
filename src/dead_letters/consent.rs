//! Asks the operator before anything is changed.

use std::io::{self, Write};

use tokio_util::sync::CancellationToken;

use super::Consent;

/// Asks, where that is needed. A signal is a no.
pub(super) async fn agrees(consent: Consent, stop: &CancellationToken) -> bool {
    if consent == Consent::Given {
        return true;
    }
    let ask = || {
        let _ = write!(io::stderr(), "Go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    };
    tokio::select! {
        answer = tokio::task::spawn_blocking(ask) => answer.unwrap_or(false),
        () = stop.cancelled() => {
            // Nothing is unacknowledged, and a read from a terminal cannot be interrupted.
            let _ = writeln!(io::stderr());
            std::process::exit(1)
        }
    }
}
