//! What a session leaves to the next one, and noticing at once that one of its connections is gone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::StreamExt;
use lapin::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;

pub(super) const GONE: &str = "the connection is gone";

/// What the sessions of a worker leave to the next one.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Where the last session failed.
    pub(super) failed: Option<SocketAddr>,
    pub(super) is_topology_sure: bool,
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
                memory.lock().failed = Some(address);
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
