//! A wire that a test can cut or freeze: a TCP proxy on loopback, between the worker and the broker or the API.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::AbortHandle,
};

/// What the wire does with its connections.
#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Whole,
    Frozen,
    /// Frozen in this direction only.
    OneWay(Direction),
    Cut,
}

/// Where bytes go.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Direction {
    ToTarget,
    FromTarget,
}

impl Wire {
    fn carries(self, direction: Direction) -> bool {
        self == Self::Whole || matches!(self, Self::OneWay(frozen) if frozen != direction)
    }
}

/// A running proxy; it ends, and cuts its connections, when dropped.
pub(crate) struct Proxy {
    /// Where to connect instead of the target.
    pub(crate) addr: SocketAddr,
    wire: watch::Sender<Wire>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a port of its own and forwards to `target` (`host:port`).
    pub(crate) async fn start(target: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let addr = listener.local_addr().expect("the address of a listener");
        let (wire, watched) = watch::channel(Wire::Whole);
        let accepting = tokio::spawn(accept(listener, target.into(), watched)).abort_handle();
        Self { addr, wire, accepting }
    }

    /// Resets every connection, and every new one at once.
    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Takes connections again, after [`Proxy::cut`].
    pub(crate) fn restore(&self) {
        self.wire.send_replace(Wire::Whole);
    }

    /// Stops every byte in both directions and closes nothing; new connections are accepted and stay silent.
    pub(crate) fn freeze(&self) {
        self.wire.send_replace(Wire::Frozen);
    }

    /// Stops every byte in one direction and closes nothing.
    pub(crate) fn freeze_one_way(&self, direction: Direction) {
        self.wire.send_replace(Wire::OneWay(direction));
    }

    /// Lets the held bytes through, after a freeze.
    pub(crate) fn thaw(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: String, wire: watch::Receiver<Wire>) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(join(near, target.clone(), wire.clone()));
    }
}

/// Both directions until either side closes, or the wire is cut.
async fn join(near: TcpStream, target: String, mut wire: watch::Receiver<Wire>) {
    // Lingering for no time makes the close a reset.
    let _ = near.set_zero_linger();
    let mut cut = wire.clone();
    let forward = async move {
        let _ = wire.wait_for(|wire| wire.carries(Direction::ToTarget)).await;
        let Ok(far) = TcpStream::connect(target).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near, far) = (near.into_split(), far.into_split());
        let (to, from) = (Direction::ToTarget, Direction::FromTarget);
        tokio::join!(pump(near.0, far.1, wire.clone(), to), pump(far.0, near.1, wire, from));
    };
    tokio::select! {
        () = forward => {}
        _ = cut.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

/// One direction. A byte that was read while the wire froze is held until it thaws.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    way: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let thawed = wire.wait_for(|wire| wire.carries(way)).await.is_ok();
        if !thawed || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
