//! Opens a session's connections, and proves that their nodes do their work.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::broker_error::BrokerError;
use super::connection::Connection;
use super::looks::reaches_majority;
use super::session_loss::Memory;
use super::source::AmqpSource;
use super::tls::TlsFiles;

const PROVED_WITHIN: Duration = Duration::from_millis(1500);
/// Connections that are tried one after another if none of them can be proved.
const TRIES: u32 = 3;

/// # A session that follows one that was given up proves itself first
///
/// The host, or what stands behind a balancer, may be the node that was left, or one that is no
/// better off. So each connection is proved by itself, and another one is tried at once. Some
/// sessions later they are taken as they are: there may be no better one. The proof is an answer
/// about the queue `prove_with`.
pub(super) async fn connect(
    (url, tls): (&AmqpSource, &TlsFiles),
    memory: &Memory,
    prove_with: Option<&str>,
    (purpose, first): (&str, Option<SocketAddr>),
) -> Result<Connection, BrokerError> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let preference = memory.lock().preference(first, Instant::now());
        let connection = Connection::open_preferring(url, tls, purpose, preference).await?;
        let Some(queue) = prove_with else { return Ok(connection) };
        if reaches_majority(&connection, queue, PROVED_WITHIN).await {
            return Ok(connection);
        }
        memory.lock().failed_at(connection.address());
        let address = connection.name();
        tokio::spawn(async move { connection.close().await });
        if tries == 0 {
            return Err(BrokerError::NoMajority { address });
        }
    }
}
