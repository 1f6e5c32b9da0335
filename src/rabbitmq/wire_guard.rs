//! Between the socket and the client library: the broker's bytes, of which the library gets only what it survives (see
//! `message_header`). Uses lapin's own entry for transports of one's own; everything that we send passes untouched.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::{DummyIO, RuntimeParts};
use async_rs::{Runtime, Tokio, TokioRuntime};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{FutureExt, Stream, TryFutureExt};
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use super::message_header::{make_readable, rewritten};

const AT_A_TIME: usize = 16 * 1024;

/// Connects lapin to the broker, with the guard between them.
///
/// # Errors
/// lapin's word.
pub(super) async fn connect(
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    properties: ConnectionProperties,
) -> lapin::Result<Connection> {
    let tokio = TokioRuntime::tokio_current();
    let dial = async move |uri: AMQPUri, _| {
        let socket = uri.connect_with_config_async(tls.as_ref(), &tokio).await?;
        Ok(AsyncTcpStream::Plain(GuardedStream::new(socket)))
    };
    let runtime =
        Runtime::new(RuntimeParts::new(Tokio::current(), GuardedReactor(Tokio::current())));
    Connection::connector(uri, runtime, dial, properties).await
}

/// tokio's reactor, with guarded streams.
#[derive(Debug, Clone)]
struct GuardedReactor(Tokio);

impl Reactor for GuardedReactor {
    type TcpStream = GuardedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        // lapin registers no socket that it did not get from us.
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        self.0
            .tcp_connect_addr(address)
            .map_ok(|socket| GuardedStream::new(AsyncTcpStream::Plain(socket)))
            .boxed()
    }
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A connection to the broker that is read through the guard.
struct GuardedStream {
    socket: Socket,
    guard: WireGuard,
    read: Box<[u8; AT_A_TIME]>,
    /// What the library has not taken yet, from `taken` on.
    passed: Vec<u8>,
    taken: usize,
}

impl GuardedStream {
    fn new(socket: Socket) -> Self {
        let read = Box::new([0; AT_A_TIME]);
        Self { socket, guard: WireGuard::default(), read, passed: Vec::new(), taken: 0 }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
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

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// Class and method of what brings a message, and the bytes before its exchange and routing key.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const GET_OK: [u8; 4] = [0, 60, 0, 71];
const TAG_AND_FLAG: usize = 9;

/// Splits the broker's bytes into frames, in whatever pieces they come. Bodies pass at once; what is looked into is held
/// until it is whole.
#[derive(Default)]
struct WireGuard {
    held: Vec<u8>,
    passing: usize,
}

impl WireGuard {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passed, rest) = bytes.split_at(self.passing.min(bytes.len()));
                out.extend(passed);
                self.passing -= passed.len();
                bytes = rest;
                continue;
            }
            let wanted = frame_length(&self.held).unwrap_or(FRAME_HEAD) - self.held.len();
            let (held, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.held.extend(held);
            bytes = rest;
            self.let_go(out);
        }
    }

    /// Passes on what needs no more looking at.
    fn let_go(&mut self, out: &mut Vec<u8>) {
        let Some(length) = frame_length(&self.held) else { return };
        match self.held[0] {
            METHOD | HEADER if self.held.len() < length => return,
            METHOD => make_address_readable(&mut self.held[FRAME_HEAD..]),
            HEADER => {
                let payload = &self.held[FRAME_HEAD..length - 1];
                if let Some(payload) = rewritten(payload) {
                    self.held.truncate(FRAME_HEAD - 4);
                    self.held
                        .extend(u32::try_from(payload.len()).unwrap_or_default().to_be_bytes());
                    self.held.extend(payload);
                    self.held.push(FRAME_END);
                }
            }
            _ => self.passing = length - self.held.len(),
        }
        out.append(&mut self.held);
        self.held.shrink_to(AT_A_TIME);
    }
}

const FRAME_END: u8 = 0xCE;

fn frame_length(start: &[u8]) -> Option<usize> {
    let size = start.get(3..FRAME_HEAD)?;
    Some(size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)) + FRAME_HEAD + 1)
}

/// Exchange and routing key of a message are read by the library, and not by us.
fn make_address_readable(method: &mut [u8]) {
    let before = match method.first_chunk() {
        Some(&DELIVER) => 4 + 1 + method.get(4).map_or(0, |tag| usize::from(*tag)) + TAG_AND_FLAG,
        Some(&GET_OK) => 4 + TAG_AND_FLAG,
        _ => return,
    };
    let mut rest = method.get_mut(before..).unwrap_or_default();
    for _ in ["exchange", "routing key"] {
        let Some((length, text)) = rest.split_first_mut() else { return };
        let Some((text, after)) = text.split_at_mut_checked(usize::from(*length)) else { return };
        make_readable(text);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[FRAME_END]].concat()
    }

    fn delivery(message_id: &[u8], routing_key: &[u8]) -> Vec<u8> {
        let key = [&[u8::try_from(routing_key.len()).unwrap()], routing_key].concat();
        let deliver = [&DELIVER[..], b"\x03tag", &[0; TAG_AND_FLAG], b"\x00", &key].concat();
        let id = [&[u8::try_from(message_id.len()).unwrap()], message_id].concat();
        let header = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0x00, 0x80][..], &id].concat();
        [
            frame(METHOD, &deliver),
            frame(HEADER, &header),
            frame(3, b"\xff\xce\x01\x02"),
            frame(8, b""),
        ]
        .concat()
    }

    fn passed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut guard, mut out) = (WireGuard::default(), Vec::new());
        pieces.into_iter().for_each(|piece| guard.pass(piece, &mut out));
        out
    }

    #[test]
    fn what_can_be_read_passes_as_it_is() {
        let bytes = delivery(b"id", b"task.delete");
        assert_eq!(passed([&bytes[..]]), bytes);
        assert_eq!(
            passed([&b"AMQP\x00\x00\x09\x01"[..]]),
            b"AMQP\x00\x00\x09\x01",
            "another version's answer"
        );
    }

    #[test]
    fn a_routing_key_that_is_no_text_is_made_one_of_the_same_length() {
        let bytes = delivery(b"id", b"\xfft");
        assert_eq!(passed([&bytes[..]]), delivery(b"id", b"?t"));
        let get_ok =
            |key: &[u8]| [&GET_OK[..], &[0; TAG_AND_FLAG], b"\x02xx", key, &[0; 4]].concat();
        let (bad, good) = (frame(METHOD, &get_ok(b"\x01\xff")), frame(METHOD, &get_ok(b"\x01?")));
        assert_eq!(passed([&bad[..]]), good);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_the_bytes_come(piece in 1_usize..90) {
            let bytes = [delivery(b"\xff", b"\xff"), delivery(b"id", b"key")].concat();
            prop_assert_eq!(passed(bytes.chunks(piece)), passed([&bytes[..]]));
            prop_assert!(passed([&bytes[..]]).ends_with(&delivery(b"id", b"key")));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1_u8..4) {
            passed([&frame(kind, &bytes)[..], &bytes]);
        }
    }
}
