//! One connection to the broker, through the guard, with time limits for requests over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use lapin::tcp::OwnedTLSConfig;
use lapin::{Channel, ConnectionProperties, Event};
use rustix::system::uname;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::broker_error::{BrokerError, HANDSHAKE_TIMEOUT, is_late};
use super::endpoints::{Endpoint, Preference, in_order, resolve};
use super::envelope::KEEP;
use super::lapin_guard::{self, Keep, dial};
use super::source::AmqpSource;
use super::tls::TlsFiles;
use crate::messages::names;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that a request to the broker may take.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection. lapin's own recovery stays off: when its retries end, the consumer hangs silently.
#[derive(Debug)]
pub struct Connection {
    connection: Arc<lapin::Connection>,
    endpoint: Endpoint,
}

/// # A dropped connection is closed
///
/// lapin keeps a connection on which an answer is pending, and a consumer that starts after all
/// would take messages that nobody reads.
impl Drop for Connection {
    fn drop(&mut self) {
        if let (true, Ok(runtime)) = (self.connection.status().connected(), Handle::try_current()) {
            let connection = Arc::clone(&self.connection);
            runtime.spawn(timeout(CLOSE_TIMEOUT, async move {
                let _ = connection.close(200, "OK".into()).await;
            }));
        }
    }
}

impl Connection {
    /// Connects to one of the addresses; `purpose` shows in the broker's list of connections.
    /// Bodies that are too large for a command are left out.
    ///
    /// # Errors
    /// [`BrokerError`] says why none of them works, or which file cannot be used.
    pub async fn open(
        source: &AmqpSource,
        tls: &TlsFiles,
        purpose: &str,
    ) -> Result<Self, BrokerError> {
        Self::open_preferring(source, tls, purpose, Preference::default()).await
    }

    /// The same, for readers that fetch whole messages of any size one by one.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_for_any_body(
        source: &AmqpSource,
        tls: &TlsFiles,
        purpose: &str,
    ) -> Result<Self, BrokerError> {
        let keep = Keep { largest_body: u64::MAX, ..KEEP };
        Self::open_first(source, tls, purpose, Preference::default(), keep).await
    }

    /// The same as [`Connection::open`], with a preferred order of addresses.
    ///
    /// # An address that does not answer does not hold up the others
    ///
    /// Hosts are shuffled, and each address has its own time limit. A host name may have several
    /// addresses, and a black-holed one never answers. One that accepts and then says nothing may
    /// only be slow: it is waited for, while the next one is tried beside it.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_preferring(
        source: &AmqpSource,
        tls: &TlsFiles,
        purpose: &str,
        preference: Preference,
    ) -> Result<Self, BrokerError> {
        Self::open_first(source, tls, purpose, preference, KEEP).await
    }

    async fn open_first(
        source: &AmqpSource,
        tls: &TlsFiles,
        purpose: &str,
        preference: Preference,
        keep: Keep,
    ) -> Result<Self, BrokerError> {
        let (url, tls) = (source.read()?, tls.read()?);
        let (endpoints, errors) = resolve(&url).await;
        let mut errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
        let (limit, tls) = (url.connect_within(), &tls);
        let mut untried = in_order(endpoints, &preference).into_iter();
        let mut opening = FuturesUnordered::new();
        loop {
            let next = untried.next().map(|endpoint| async move {
                Self::open_at(&endpoint, limit, tls, purpose, keep).await
            });
            opening.extend(next);
            // The last address has only its own time limit.
            let patience = if untried.len() > 0 { limit } else { Duration::MAX };
            match timeout(patience, opening.next()).await {
                Ok(Some(Ok(connection))) => return Ok(connection),
                Ok(Some(Err(error))) => errors.push(error),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        let nothing_to_try = || BrokerError::NoAddress {
            host: url.to_string(),
            source: io::ErrorKind::NotFound.into(),
        };
        Err(BrokerError::of_all(errors).unwrap_or_else(nothing_to_try))
    }

    /// Connects to every address of every host at once, for `check`. Each result has its host and
    /// its address's name.
    ///
    /// # Errors
    /// [`BrokerError`] if a file cannot be used.
    pub async fn open_each(
        source: &AmqpSource,
        tls: &TlsFiles,
        purpose: &str,
    ) -> Result<Vec<(String, String, Result<Self, BrokerError>)>, BrokerError> {
        let (url, tls) = (source.read()?, tls.read()?);
        let (endpoints, errors) = resolve(&url).await;
        let open = endpoints.iter().map(async |endpoint| {
            let within = url.connect_within();
            let opened = Self::open_at(endpoint, within, &tls, purpose, KEEP).await;
            (endpoint.host(), endpoint.name(), opened)
        });
        let mut opened = join_all(open).await;
        opened.extend(errors.into_iter().map(|(host, error)| (host.clone(), host, Err(error))));
        opened.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        Ok(opened)
    }

    async fn open_at(
        endpoint: &Endpoint,
        limit: Duration,
        tls: &OwnedTLSConfig,
        purpose: &str,
        keep: Keep,
    ) -> Result<Self, BrokerError> {
        let (address, whole) = (endpoint.name(), limit + HANDSHAKE_TIMEOUT);
        let connect = async {
            let socket = dial(&endpoint.uri, endpoint.address, limit, tls).await?;
            let properties =
                ConnectionProperties::default().with_connection_name(name(purpose).into());
            lapin_guard::connect(endpoint.uri.clone(), socket, properties, keep).await
        };
        match timeout(whole, connect).await {
            Ok(Ok(connection)) => {
                Ok(Self { connection: Arc::new(connection), endpoint: endpoint.clone() })
            }
            Ok(Err(source)) if is_late(&source) => {
                Err(BrokerError::ConnectTimeout { address, limit })
            }
            Ok(Err(source)) => Err(BrokerError::connect(address, endpoint.is_tls(), source)),
            Err(_) => Err(BrokerError::ConnectTimeout { address, limit: whole }),
        }
    }

    /// The broker's address.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The user that it was opened as.
    pub fn user(&self) -> &str {
        &self.endpoint.uri.authority.userinfo.username
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.endpoint.is_tls()
    }

    /// Host and address, for operators.
    pub fn name(&self) -> String {
        self.endpoint.name()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether neither side has closed it, as far as lapin knows.
    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Waits until the broker says that it is blocking publishers, and returns why. It says so only
    /// to connections that publish.
    pub async fn becomes_blocked(&self) -> String {
        let mut events = Box::pin(self.events());
        while let Some(event) = events.next().await {
            if let Event::ConnectionBlocked(reason) = event {
                return reason;
            }
        }
        std::future::pending().await
    }

    /// Whether the broker still answers on this connection.
    ///
    /// # Errors
    /// [`BrokerError::Lost`].
    pub async fn answers(&self) -> Result<(), BrokerError> {
        self.channel().await.map(drop).map_err(BrokerError::Lost)
    }

    /// Closes it without waiting long for the answer.
    pub async fn close(&self) {
        let _ = timeout(CLOSE_TIMEOUT, self.connection.close(200, "OK".into())).await;
    }

    /// A new channel; closed when its last handle is dropped.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.channel_within(ANSWER_TIMEOUT).await
    }

    /// The same, with another time limit.
    pub(super) async fn channel_within(&self, limit: Duration) -> lapin::Result<Channel> {
        within(limit, self.connection.create_channel()).await
    }

    /// Events of the connection as a whole.
    pub(super) fn events(&self) -> impl Stream<Item = Event> + Send + 'static {
        self.connection.events_listener()
    }
}

/// The name in the broker's list of connections: program and version, machine, purpose.
fn name(purpose: &str) -> String {
    let machine = uname();
    let machine = machine.nodename().to_string_lossy();
    format!("{} {} on {machine} ({purpose})", names::SOURCE, env!("CARGO_PKG_VERSION"))
}

/// # No request to the broker waits indefinitely
///
/// lapin (4.12) may never resolve a request whose connection ends at that moment: `check` once
/// waited forever for the answer to its own close. So every request to the broker, acknowledgements
/// included, goes through this function or has its own time limit (connecting, closing,
/// `publisher`, `probe`). A request without an answer within ten seconds is an error.
///
/// # Errors
/// lapin's error, or a timeout.
pub(super) async fn in_time<T>(
    request: impl Future<Output = lapin::Result<T>>,
) -> lapin::Result<T> {
    within(ANSWER_TIMEOUT, request).await
}

/// The same, with another time limit.
///
/// # Errors
/// As [`in_time`].
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = lapin::Result<T>>,
) -> lapin::Result<T> {
    let late =
        |_| Err(io::Error::new(io::ErrorKind::TimedOut, "RabbitMQ did not answer in time").into());
    timeout(limit, request).await.unwrap_or_else(late)
}
