//! Between the socket and lapin: lapin gets only the bytes that it survives. Uses lapin's own entry for foreign transports.
//!
//! Three things that any producer can send harm lapin 4.12.3, and so everything else in the process: header tables nested some
//! thousand times overflow the stack of lapin's own thread and abort the process; a header larger than the agreed frame, which the
//! broker does send, ends the connection, one of 32 frames only after two heartbeats of silence; text that is not UTF-8 in a
//! property ends the connection. Each does so again at every delivery.
//! `docs/upstream.md` tells lapin's maintainers. When lapin survives these, this module can go.
//!
//! It knows nothing of the rest of this program, so that it can be lifted out. [`Keep`] tells it what to save of a header.

mod frames;
mod header;
mod stream;

use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio, TokioRuntime};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

pub use frames::WireGuard;
pub use header::{Keep, rewritten};
use stream::{GuardedReactor, GuardedStream};

/// Connects lapin to the broker, with the guard between them.
///
/// # Errors
/// lapin's word.
pub async fn connect(
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    properties: ConnectionProperties,
    keep: Keep,
) -> lapin::Result<Connection> {
    let tokio = TokioRuntime::tokio_current();
    let dial = async move |uri: AMQPUri, _| {
        let socket = uri.connect_with_config_async(tls.as_ref(), &tokio).await?;
        Ok(AsyncTcpStream::Plain(GuardedStream::new(socket, keep)))
    };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), GuardedReactor::new(keep)));
    Connection::connector(uri, runtime, dial, properties).await
}
