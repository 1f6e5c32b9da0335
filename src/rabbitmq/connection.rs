//! The two connections of a worker, and noticing at once that one of them is gone.
//!
//! Consuming and publishing are apart, because on `connection.blocked` lapin stops all writes of that connection, acks
//! included. lapin's own recovery stays off: when its retries end, the consumer hangs silently. Whoever uses a
//! [`Session`] drops it whole when `lost` fires and makes a new one.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::{Host, Position, Url};

use super::publisher::Publisher;
use super::tls::{TlsError, TlsFiles};
use super::topology::{self, Provision, Topology};
use super::wire_guard;
use crate::messages::names;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const DECLARE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A dead peer is noticed after twice this many seconds; the server's default would be 60.
const HEARTBEAT_SECONDS: u16 = 10;
/// lapin keeps, and fills with zeros, room for 32 frames in each direction of each connection: with the server's 128 KiB
/// that would be 16 MiB. Larger bodies come in several frames; no header of ours is larger, and none that we let in (`wire_guard`).
const FRAME_MAX: u32 = 16 * 1024;
/// What a short string of the protocol holds; lapin panics on a longer one.
const LONGEST_VHOST: usize = 255;
const KNOWN_PARAMETERS: [&str; 5] =
    ["heartbeat", "connection_timeout", "channel_max", "frame_max", "auth_mechanism"];

/// Where the broker is and what shall be there.
#[derive(Clone)]
pub struct BrokerSettings {
    /// Address, credentials and virtual host.
    pub uri: AMQPUri,
    /// For `amqps`.
    pub tls: TlsFiles,
    /// Declare the topology at start, or only look for it.
    pub topology: Topology,
    /// Deliveries that the broker may hand out before one is acknowledged.
    pub prefetch: u16,
}

/// What went wrong with the broker, for an operator.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// No connection came about in time.
    #[error("no connection to RabbitMQ at {0} within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout(String),
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Refused, wrong credentials, wrong virtual host, TLS.
    #[error("cannot connect to RabbitMQ at {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The topology is not what it should be.
    #[error("{what}: {source}")]
    Topology {
        /// What was declared or looked for.
        what: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// The dead letters cannot be read.
    #[error("cannot read {queue}: {source}")]
    DeadLetters {
        /// Their queue.
        queue: String,
        /// lapin's word.
        source: lapin::Error,
    },
    /// Consuming could not begin.
    #[error("cannot consume from {queue}: {source}")]
    Consume {
        /// The queue.
        queue: &'static str,
        /// lapin's word.
        source: lapin::Error,
    },
}

impl BrokerError {
    /// What kind of trouble it is: another one of the same kind is not worth a log line.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConnectTimeout(_) | Self::Tls(_) | Self::Connect { .. } => "connect",
            Self::Topology { .. } => "topology",
            Self::Consume { .. } => "consume",
            Self::DeadLetters { .. } => "dead_letters",
        }
    }
}

/// Reads `AMQP_URL`. lapin's parser would ignore what it does not know and turn an IPv6 address into `localhost`, so both
/// are refused here.
///
/// # Errors
/// What the variable takes, in one line, without the URL's password.
pub fn parse_amqp_url(text: &str) -> Result<AMQPUri, String> {
    // The parser would leave out line feeds and tabs: another password, perhaps, than the one that was meant.
    if text.contains(char::is_control) {
        return Err("has a control character in it".to_owned());
    }
    let url = Url::parse(text).map_err(|error| {
        format!("is no URL ({error}); it takes amqp://user:password@host:port/vhost")
    })?;
    if !matches!(url.scheme(), "amqp" | "amqps") {
        return Err("must begin with amqp:// or amqps://".to_owned());
    }
    match url.host() {
        Some(Host::Ipv6(_)) => {
            return Err(
                "names an IPv6 address, which the client library takes for localhost; use a host name"
                    .to_owned(),
            );
        }
        None | Some(Host::Domain("")) => return Err("names no host".to_owned()),
        Some(_) => {}
    }
    // A password with one of / ? # ends the host too early, and its rest would show in the log as the virtual host.
    let behind_the_host = &url[Position::BeforePath..];
    if behind_the_host.contains(['@', '#']) {
        return Err("has an @ or a # behind the host; in user, password and virtual host / is %2f, ? is %3f, # is %23, \
                    @ is %40"
            .to_owned());
    }
    if let Some((name, _)) =
        url.query_pairs().find(|(name, _)| !KNOWN_PARAMETERS.contains(&name.as_ref()))
    {
        return Err(format!(
            "has an unknown parameter, {name:?}; known are {}",
            KNOWN_PARAMETERS.join(", ")
        ));
    }
    let mut uri: AMQPUri =
        text.parse().map_err(|_| "has a parameter with a wrong value".to_owned())?;
    if uri.vhost.len() > LONGEST_VHOST {
        return Err(format!("names a virtual host of more than {LONGEST_VHOST} bytes"));
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    // "amqp://host/" names the virtual host "", which nobody has: the default one is meant.
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    Ok(uri)
}

/// Two connections that live and die together.
pub struct Session {
    consuming: Connection,
    publisher: Publisher,
    topology: Topology,
    declared: tokio::sync::Mutex<Instant>,
    blocked: watch::Receiver<Option<String>>,
    /// Fires when either connection is gone.
    pub lost: CancellationToken,
}

impl Session {
    /// Connects twice and makes sure of the topology.
    ///
    /// # Errors
    /// [`BrokerError`] says what to check.
    pub async fn open(settings: &BrokerSettings) -> Result<Self, BrokerError> {
        let consuming = connect(&settings.uri, &settings.tls, "consume").await?;
        topology::ensure(&consuming, &settings.topology).await?;
        let publishing = connect(&settings.uri, &settings.tls, "publish").await?;
        let lost = CancellationToken::new();
        watch(&consuming, &lost);
        let blocked = watch(&publishing, &lost);
        let (publisher, topology) = (Publisher::new(publishing), settings.topology.clone());
        let declared = tokio::sync::Mutex::new(Instant::now());
        Ok(Self { consuming, publisher, topology, declared, blocked, lost })
    }

    /// Why the broker is blocking publishers, where it does not: low memory or disk.
    pub fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// Waits until the broker is blocking publishers.
    pub async fn becomes_blocked(&self) {
        self.wait_for(Option::is_some).await;
    }

    /// Waits until the broker takes messages of ours, if need be.
    pub async fn becomes_unblocked(&self) {
        self.wait_for(Option::is_none).await;
    }

    async fn wait_for(&self, is_so: impl FnMut(&Option<String>) -> bool) {
        // The sender is gone when the connection is: then `lost` ends the waiting.
        if self.blocked.clone().wait_for(is_so).await.is_err() {
            self.lost.cancelled().await;
        }
    }

    /// Declares the topology again, where that is ours to do, because something of it is missing; once in a while at the
    /// most. What cannot be declared shows in the publish that is tried again.
    pub async fn declare_again(&self) {
        let Ok(mut declared) = self.declared.try_lock() else { return };
        if self.topology.provision == Provision::Declare
            && declared.elapsed() >= DECLARE_AGAIN_AFTER
        {
            let _ =
                timeout(CONNECT_TIMEOUT, topology::ensure(&self.consuming, &self.topology)).await;
            *declared = Instant::now();
        }
    }

    /// A channel of the consuming connection; closed when the last handle is dropped.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn consuming_channel(&self) -> Result<Arc<Channel>, BrokerError> {
        let channel = in_time(self.consuming.create_channel()).await;
        channel.map(Arc::new).map_err(|source| BrokerError::Consume { queue: "any queue", source })
    }

    /// The publisher.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Closes the connection, which then requeues at once what is unacknowledged.
    pub async fn close(&self) {
        self.lost.cancel();
        for connection in [&self.consuming, self.publisher.connection()] {
            close(connection).await;
        }
    }
}

/// Connects once; `purpose` shows in the broker's list of connections.
///
/// # Errors
/// [`BrokerError::Connect`], [`BrokerError::ConnectTimeout`] or [`BrokerError::Tls`].
pub async fn connect(
    uri: &AMQPUri,
    tls: &TlsFiles,
    purpose: &str,
) -> Result<Connection, BrokerError> {
    let (address, tls) = (address(uri), tls.read()?);
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("{} ({purpose})", names::SOURCE).into());
    match timeout(CONNECT_TIMEOUT, wire_guard::connect(uri.clone(), tls, properties)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(source)) => Err(BrokerError::Connect { address, source }),
        Err(_) => Err(BrokerError::ConnectTimeout(address)),
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
pub async fn in_time<T>(request: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
    let late =
        |_| Err(io::Error::new(io::ErrorKind::TimedOut, "RabbitMQ did not answer in time").into());
    timeout(ANSWER_TIMEOUT, request).await.unwrap_or_else(late)
}

/// Closes the connection, and does not wait long for the answer.
pub async fn close(connection: &Connection) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
}

/// Host, port and virtual host: what may stand in a log line.
pub fn address(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        AMQPScheme::AMQP => "amqp",
        AMQPScheme::AMQPS => "amqps",
    };
    format!("{scheme}://{}:{} (vhost {})", uri.authority.host, uri.authority.port, uri.vhost)
}

fn watch(connection: &Connection, lost: &CancellationToken) -> watch::Receiver<Option<String>> {
    let mut events = Box::pin(connection.events_listener());
    let lost = lost.clone();
    let (blocked, seen) = watch::channel(None);
    tokio::spawn(async move {
        let gone = async {
            while let Some(event) = events.next().await {
                match event {
                    // A channel's error: the user of the channel sees it, and the connection lives.
                    Event::Error(error) if error.is_amqp_soft_error() => {}
                    Event::Error(_) => break,
                    Event::ConnectionBlocked(reason) => drop(blocked.send_replace(Some(reason))),
                    Event::ConnectionUnblocked => drop(blocked.send_replace(None)),
                    _ => {}
                }
            }
        };
        tokio::select! { () = gone => lost.cancel(), () = lost.cancelled() => {} }
    });
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        parse_amqp_url(url).expect_err(url)
    }

    #[test]
    fn what_the_library_would_silently_misread_is_refused() {
        assert!(refusal("amqp://guest:guest@[::1]:5672/").contains("IPv6"));
        assert!(refusal("amqp://h/?heartbeet=5").contains("unknown parameter, \"heartbeet\""));
        assert!(refusal("amqp://h/?heartbeat=often").contains("wrong value"));
        assert!(refusal("http://h/").contains("amqp://"));
        assert!(refusal("rabbit").contains("amqp://user"));
        assert!(refusal("amqp:///vhost").contains("host"));
        assert!(refusal("amqp://u:pass\nword@h/").contains("control character"));
        // The password is 12/3: the library would take u for the host and 12 for the port.
        for url in
            ["amqp://u:12/3@h/", "amqp://u:12?3@h/", "amqp://u:12#3@h/", "amqp://u:p@h/#fragment"]
        {
            assert!(refusal(url).contains("%40"), "{}", refusal(url));
        }
    }

    #[test]
    fn a_virtual_host_that_is_too_long_for_the_protocol_is_refused() {
        let url = |bytes| format!("amqp://h/{}", "v".repeat(bytes));
        assert!(refusal(&url(256)).contains("255"));
        assert_eq!(parse_amqp_url(&url(255)).unwrap().vhost.len(), 255);
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert!(!refusal("amqp://h/?heart%0abeat=1").contains('\n'));
    }

    #[test]
    fn no_refusal_repeats_the_password() {
        for url in [
            "http://u:s3cret@h/",
            "amqp://u:s3cret@[::1]/",
            "amqp://u:s3cret@h/?x=1",
            "amqp://u:s3cret@h:99999/",
            "amqp://u:12/s3cret@h/",
            "amqp://u:12?s3cret@h/",
            "amqp://u:12#s3cret@h/",
        ] {
            assert!(!refusal(url).contains("s3cret"), "{}", refusal(url));
        }
    }

    #[test]
    fn a_heartbeat_is_asked_for_and_an_empty_virtual_host_is_the_default_one() {
        let uri = parse_amqp_url("amqp://u:p@127.0.0.1/").unwrap();
        assert_eq!((uri.query.heartbeat, uri.vhost.as_str()), (Some(10), "/"));
        assert_eq!(parse_amqp_url("amqp://h/a%2Fb?heartbeat=5").unwrap().query.heartbeat, Some(5));
        assert_eq!(
            address(&parse_amqp_url("amqp://u:s3cret@h/a%2Fb").unwrap()),
            "amqp://h:5672 (vhost a/b)"
        );
    }
}
