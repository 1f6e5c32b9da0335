//! What a session leaves to the next one, and noticing at once that one of its connections is gone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::endpoints::Preference;
use super::own_user::OwnUser;

/// As long as a cluster takes to choose other leaders.
const PROOFS: u8 = 6;
/// A host that failed is no longer avoided.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);
pub(super) const GONE: &str = "the connection is gone";

/// What the sessions of a worker leave to the next one.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Where sessions have failed lately, and when; the last one last.
    failed: Vec<(SocketAddr, Instant)>,
    /// So many more sessions have to prove themselves.
    proofs: u8,
    pub(super) is_topology_sure: bool,
    pub(super) user: OwnUser,
}

impl Remembered {
    /// A session has failed there.
    pub(super) fn failed_at(&mut self, address: SocketAddr) {
        self.failed.retain(|(other, _)| *other != address);
        self.failed.push((address, Instant::now()));
    }

    /// A session there was given up: it did no work.
    pub(super) fn given_up(&mut self, address: SocketAddr) {
        self.failed_at(address);
        self.proofs = PROOFS;
    }

    /// Whether the session that opens now has to prove itself.
    pub(super) fn take_proof_requirement(&mut self) -> bool {
        let must_prove = self.proofs > 0;
        self.proofs = self.proofs.saturating_sub(1);
        must_prove
    }

    /// In which order addresses are tried now.
    pub(super) fn preference(&mut self, first: Option<SocketAddr>, now: Instant) -> Preference {
        self.failed.retain(|(_, at)| now.saturating_duration_since(*at) < FORGOTTEN_AFTER);
        Preference { first, last: self.failed.iter().map(|(address, _)| *address).collect() }
    }
}

impl Memory {
    pub(super) fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fires `lost` when the connection is gone; returns why the broker blocks publishers, where it
/// does.
pub(super) fn watch(
    connection: &Connection,
    (lost, why, memory): (&CancellationToken, &Arc<OnceLock<String>>, &Arc<Memory>),
) -> watch::Receiver<Option<String>> {
    let mut events = Box::pin(connection.events());
    let (lost, why, memory) = (lost.clone(), Arc::clone(why), Arc::clone(memory));
    let address = connection.address();
    let (blocked, seen) = watch::channel(None);
    tokio::spawn(async move {
        let gone = async {
            while let Some(event) = events.next().await {
                match event {
                    // A channel's error: the user of the channel sees it, and the connection lives.
                    Event::Error(error) if error.is_amqp_soft_error() => {}
                    Event::Error(error) => return Some(error),
                    Event::ConnectionBlocked(reason) => drop(blocked.send_replace(Some(reason))),
                    Event::ConnectionUnblocked => drop(blocked.send_replace(None)),
                    _ => {}
                }
            }
            None
        };
        tokio::select! {
            error = gone => {
                memory.lock().failed_at(address);
                let _ = why.set(error.map_or_else(
                    || GONE.to_owned(),
                    |error| format!("{GONE}: {error}"),
                ));
                lost.cancel();
            }
            () = lost.cancelled() => {}
        }
    });
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn hosts_that_have_failed_lately_come_last_the_latest_of_them_at_the_end() {
        let (mut memory, now) = (Remembered::default(), Instant::now());
        for port in [1, 2, 1] {
            memory.failed_at(address(port));
        }
        assert_eq!(memory.preference(None, now).last, [address(2), address(1)]);
        assert_eq!(memory.preference(None, now + FORGOTTEN_AFTER * 2).last, []);
    }

    #[test]
    fn the_sessions_after_one_that_was_given_up_prove_themselves_and_not_indefinitely() {
        let mut memory = Remembered::default();
        memory.failed_at(address(1));
        assert!(
            !memory.take_proof_requirement(),
            "a connection that is gone is no host that does no work"
        );
        memory.given_up(address(1));
        assert!((0..PROOFS).all(|_| memory.take_proof_requirement()));
        assert!(!memory.take_proof_requirement());
    }
}
