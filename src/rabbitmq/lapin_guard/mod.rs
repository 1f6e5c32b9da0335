//! Stands between the socket and lapin: lapin gets only bytes that it survives. Uses lapin's own
//! interface for custom transports.
//!
//! Any producer can send three things that harm lapin 4.12.3, and with it the whole process: header
//! tables nested some thousand times overflow the stack of lapin's own thread and abort the
//! process; a header larger than the negotiated frame, which the broker does send, ends the
//! connection (one of 32 frames only after two heartbeats of silence); text that is not UTF-8 in a
//! property ends the connection. Each happens again at every delivery. `docs/upstream.md` has the
//! report for lapin's maintainers. When lapin survives these, this module can go, but for
//! `deaths`: that one keeps producers from forging what RabbitMQ says of a message.
//!
//! It knows nothing of the rest of this program, so that it can be extracted. [`Keep`] tells it
//! what to keep of a header.

mod deaths;
mod frames;
mod header;
mod stream;
mod table;

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use frames::WireGuard;
pub use header::{Keep, rewritten};
pub use stream::Socket;
use stream::{GuardedReactor, GuardedStream};

/// Opens a socket to one address of the broker's host, with TLS if its URI asks for it.
///
/// # Errors
/// The system's error; [`io::ErrorKind::TimedOut`] if the address did not accept the connection
/// within `limit`.
pub async fn dial(
    uri: &AMQPUri,
    address: SocketAddr,
    limit: Duration,
    tls: &OwnedTLSConfig,
) -> io::Result<Socket> {
    let tokio = TokioRuntime::tokio_current();
    let late =
        |_| io::Error::new(io::ErrorKind::TimedOut, "it did not take the connection in time");
    let socket = timeout(limit, AsyncTcpStream::connect(&tokio, address)).await.map_err(late)??;
    match uri.scheme {
        AMQPScheme::AMQP => Ok(socket),
        AMQPScheme::AMQPS => socket.into_tls(&uri.authority.host, tls.as_ref()).await,
    }
}

/// Connects lapin to the broker over a socket, with the guard between them.
///
/// # Errors
/// lapin's error.
pub async fn connect(
    uri: AMQPUri,
    socket: Socket,
    properties: ConnectionProperties,
    keep: Keep,
) -> lapin::Result<Connection> {
    let (opener, is_open) = oneshot::channel();
    let stream = Mutex::new(Some(GuardedStream::new(socket, keep).opened_by(is_open)));
    // lapin connects only once: its recovery, which would connect again, stays off.
    let dial = async move |_: AMQPUri, _| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream
            .map(AsyncTcpStream::Plain)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), GuardedReactor::new(keep)));
    let connection = Connection::connector(uri, runtime, dial, properties).await?;
    let _ = opener.send(());
    Ok(connection)
}
