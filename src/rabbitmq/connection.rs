//! One connection to the broker, through the guard; and the bounds in time of what is asked over it.

use std::io;
use std::time::Duration;

use futures_util::Stream;
use lapin::{Channel, ConnectionProperties, Event};
use tokio::time::timeout;

use super::broker_error::{BrokerError, CONNECT_TIMEOUT};
use super::envelope::KEEP;
use super::lapin_guard::{self, Keep};
use super::tls::TlsFiles;
use super::url::AmqpUrl;
use crate::messages::names;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection. lapin's own recovery stays off: when its retries end, the consumer hangs silently.
#[derive(Debug)]
pub struct Connection(lapin::Connection);

impl Connection {
    /// Connects once; `purpose` shows in the broker's list of connections. Bodies larger than a command's are left out.
    ///
    /// # Errors
    /// [`BrokerError::Connect`], [`BrokerError::ConnectTimeout`] or [`BrokerError::Tls`].
    pub async fn open(url: &AmqpUrl, tls: &TlsFiles, purpose: &str) -> Result<Self, BrokerError> {
        Self::open_with(url, tls, purpose, KEEP).await
    }

    /// The same for those who read whole messages, however large, one by one.
    ///
    /// # Errors
    /// See [`Connection::open`].
    pub async fn open_for_any_body(
        url: &AmqpUrl,
        tls: &TlsFiles,
        purpose: &str,
    ) -> Result<Self, BrokerError> {
        Self::open_with(url, tls, purpose, Keep { largest_body: u64::MAX, ..KEEP }).await
    }

    async fn open_with(
        url: &AmqpUrl,
        tls: &TlsFiles,
        purpose: &str,
        keep: Keep,
    ) -> Result<Self, BrokerError> {
        let tls = tls.read()?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{} ({purpose})", names::SOURCE).into());
        let connect = lapin_guard::connect(url.to_lapin(), tls, properties, keep);
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(connection)) => Ok(Self(connection)),
            Ok(Err(source)) => Err(BrokerError::connect(url, source)),
            Err(_) => Err(BrokerError::ConnectTimeout(url.to_string())),
        }
    }

    /// Closes it, and does not wait long for the answer.
    pub async fn close(&self) {
        let _ = timeout(CLOSE_TIMEOUT, self.0.close(200, "OK".into())).await;
    }

    /// A new channel; closed when its last handle is dropped.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        in_time(self.0.create_channel()).await
    }

    /// What happens to the connection as a whole.
    pub(super) fn events(&self) -> impl Stream<Item = Event> + Send + 'static {
        self.0.events_listener()
    }
}

/// # No request to the broker waits indefinitely
///
/// lapin (4.12) may never resolve a request whose connection ends at that moment: `check` was seen to wait without end for the answer to
/// its own close. So every request to the broker goes through this, acknowledgements included, or has a bound of its own
/// (connecting, closing, `publisher`, `probe`). What has no answer within ten seconds is an error.
///
/// # Errors
/// lapin's word, or that the time is over.
pub(super) async fn in_time<T>(
    request: impl Future<Output = lapin::Result<T>>,
) -> lapin::Result<T> {
    let late =
        |_| Err(io::Error::new(io::ErrorKind::TimedOut, "RabbitMQ did not answer in time").into());
    timeout(ANSWER_TIMEOUT, request).await.unwrap_or_else(late)
}
