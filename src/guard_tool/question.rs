//! The question to the operator before held commands are moved.

use std::io::{self, Write};

use tokio_util::sync::CancellationToken;

use crate::messages::OrgId;

const NOTHING_DONE: &str = "nothing was done";

/// Asks for the organisation's id.
pub(super) async fn agrees(org: &OrgId, stop: &CancellationToken) -> bool {
    let org = org.to_string();
    let ask = move || {
        let _ = write!(io::stderr(), "Type the organisation's id to continue: ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && answer.trim() == org
    };
    let agrees = tokio::select! {
        answer = tokio::task::spawn_blocking(ask) => answer.unwrap_or(false),
        // Exiting is safe because nothing is unacknowledged, and necessary because a read from a
        // terminal cannot be interrupted.
        () = stop.cancelled() => {
            let _ = writeln!(io::stderr(), "\n{NOTHING_DONE}");
            std::process::exit(1)
        }
    };
    if !agrees {
        let _ = writeln!(io::stderr(), "{NOTHING_DONE}: that is not the organisation's id");
    }
    agrees
}
