//! The transport for lapin: tokio's, with incoming bytes passed through the guard. Outgoing bytes
//! pass unchanged.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::DummyIO;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{FutureExt, Stream, TryFutureExt};
use lapin::tcp::AsyncTcpStream;
use tokio::sync::oneshot;

use super::frames::WireGuard;
use super::header::Keep;

const AT_A_TIME: usize = 16 * 1024;

/// tokio's reactor, with guarded streams.
#[derive(Debug, Clone)]
pub(super) struct GuardedReactor {
    tokio: Tokio,
    keep: Keep,
}

impl GuardedReactor {
    pub(super) fn new(keep: Keep) -> Self {
        Self { tokio: Tokio::current(), keep }
    }
}

impl Reactor for GuardedReactor {
    type TcpStream = GuardedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        // lapin registers only sockets that it got from us.
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let keep = self.keep;
        self.tokio
            .tcp_connect_addr(address)
            .map_ok(move |socket| GuardedStream::new(AsyncTcpStream::Plain(socket), keep))
            .boxed()
    }
}

/// Plain or with TLS, before the guard.
pub type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A connection to the broker that is read through the guard.
pub(super) struct GuardedStream {
    socket: Socket,
    guard: WireGuard,
    read: Box<[u8; AT_A_TIME]>,
    /// Bytes that the library has not taken yet, from `taken` on.
    passed: Vec<u8>,
    taken: usize,
    /// Until it is open.
    opening: Option<oneshot::Receiver<()>>,
}

impl GuardedStream {
    pub(super) fn new(socket: Socket, keep: Keep) -> Self {
        let read = Box::new([0; AT_A_TIME]);
        let guard = WireGuard::new(keep);
        Self { socket, guard, read, passed: Vec::new(), taken: 0, opening: None }
    }

    /// # A connection that is given up while it is being opened is closed
    ///
    /// lapin's thread would otherwise wait for the first word of a host that says none, for as long
    /// as the process lives, and each attempt would add another thread and another descriptor.
    ///
    /// Whoever opens it holds the sender: to send means that it is open, to drop it, given up.
    pub(super) fn opened_by(self, opener: oneshot::Receiver<()>) -> Self {
        Self { opening: Some(opener), ..self }
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(opened) = Pin::new(opening).poll(cx)
        {
            self.opening = None;
            opened.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        }
        Ok(())
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.poll_opening(cx)?;
        while this.taken == this.passed.len() {
            this.passed.clear();
            this.passed.shrink_to(AT_A_TIME);
            this.taken = 0;
            let count = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.read[..]))?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.guard.pass(&this.read[..count], &mut this.passed);
        }
        let count = buffer.len().min(this.passed.len() - this.taken);
        buffer[..count].copy_from_slice(&this.passed[this.taken..][..count]);
        this.taken += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
