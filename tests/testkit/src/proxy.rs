//! A TCP proxy on loopback between the worker and the broker or the API. A test can cut or freeze
//! it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

/// Delays a reset, which would overtake the bytes before it.
const RESET_DELAY: Duration = Duration::from_millis(50);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long [`Reaction::Delay`] holds bytes back.
const DELAY: Duration = Duration::from_secs(1);

/// What the proxy does with its connections.
#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Whole,
    Frozen,
    /// Frozen in this direction only.
    OneWay(Direction),
    Cut,
}

/// The direction of the bytes.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    /// From the client to the target.
    ToTarget,
    /// From the target to the client.
    FromTarget,
}

impl Wire {
    fn carries(self, direction: Direction) -> bool {
        self == Self::Whole || matches!(self, Self::OneWay(frozen) if frozen != direction)
    }
}

/// A running proxy; it ends, and cuts its connections, when dropped.
pub struct Proxy {
    /// Where to connect instead of the target.
    pub addr: SocketAddr,
    wire: watch::Sender<Wire>,
    accepting: AbortHandle,
    accepted: Arc<AtomicUsize>,
    traffic: Arc<Traffic>,
}

/// What passes, and how slowly.
#[derive(Default)]
struct Traffic {
    /// Before each reply of the target passes.
    delay_ms: AtomicU64,
    replies: AtomicUsize,
}

impl Proxy {
    /// Listens on a port of its own and forwards to `target` (`host:port`).
    pub async fn start(target: impl Into<String>) -> Self {
        Self::listening_for(target, None).await
    }

    /// The same; a connection is reset when the target sends this word.
    pub async fn deadly(target: impl Into<String>, word: &'static str) -> Self {
        Self::listening_for(target, Some((word, Reaction::Reset))).await
    }

    /// The same; nothing that the target sends passes any more, from this word on.
    pub async fn silent_from(target: impl Into<String>, word: &'static str) -> Self {
        Self::listening_for(target, Some((word, Reaction::Silence))).await
    }

    /// The same; what the target sends together with this word is dropped.
    pub async fn losing(target: impl Into<String>, word: &'static str) -> Self {
        Self::listening_for(target, Some((word, Reaction::Loss))).await
    }

    /// The same; what the target sends together with this word passes a second later, and what it
    /// sends meanwhile overtakes it.
    pub async fn delaying(target: impl Into<String>, word: &'static str) -> Self {
        Self::listening_for(target, Some((word, Reaction::Delay))).await
    }

    /// A load balancer: each connection goes to the next target that accepts it within two seconds.
    pub async fn balancing(targets: Vec<String>) -> Self {
        Self::listening(targets, None).await
    }

    async fn listening_for(target: impl Into<String>, word: Word) -> Self {
        Self::listening(vec![target.into()], word).await
    }

    async fn listening(targets: Vec<String>, word: Word) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let addr = listener.local_addr().expect("the address of a listener");
        let (wire, watched) = watch::channel(Wire::Whole);
        let (accepted, traffic) = (Arc::default(), Arc::default());
        let counts = (Arc::clone(&accepted), Arc::clone(&traffic));
        let accept = accept(listener, targets.into(), watched, word, counts);
        let accepting = tokio::spawn(accept).abort_handle();
        Self { addr, wire, accepting, accepted, traffic }
    }

    /// From now on, what the target sends takes this much longer.
    pub fn slow_down(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).expect("a delay of a test");
        self.traffic.delay_ms.store(delay, Ordering::SeqCst);
    }

    /// How often something from the target has passed so far.
    pub fn replies(&self) -> usize {
        self.traffic.replies.load(Ordering::SeqCst)
    }

    /// How many connections it has accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Resets all connections, and each new one immediately.
    pub fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Accepts connections again, after [`Proxy::cut`].
    pub fn restore(&self) {
        self.wire.send_replace(Wire::Whole);
    }

    /// Stops every byte in both directions and closes nothing; new connections are accepted and
    /// stay silent.
    pub fn freeze(&self) {
        self.wire.send_replace(Wire::Frozen);
    }

    /// Stops every byte in one direction and closes nothing.
    pub fn freeze_one_way(&self, direction: Direction) {
        self.wire.send_replace(Wire::OneWay(direction));
    }

    /// Lets the held bytes pass, after a freeze.
    pub fn thaw(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

/// What happens to a connection when the target sends a word.
#[derive(Clone, Copy)]
enum Reaction {
    Reset,
    Silence,
    Loss,
    Delay,
}

type Word = Option<(&'static str, Reaction)>;

async fn accept(
    listener: TcpListener,
    targets: Arc<[String]>,
    wire: watch::Receiver<Wire>,
    word: Word,
    (accepted, traffic): (Arc<AtomicUsize>, Arc<Traffic>),
) {
    while let Ok((near, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        let traffic = Arc::clone(&traffic);
        tokio::spawn(join(near, (Arc::clone(&targets), number), wire.clone(), (word, traffic)));
    }
}

/// Both directions until either side closes, or the wire is cut.
async fn join(
    near: TcpStream,
    (targets, number): (Arc<[String]>, usize),
    mut wire: watch::Receiver<Wire>,
    (word, traffic): (Word, Arc<Traffic>),
) {
    // A linger time of zero makes the close a reset.
    let _ = near.set_zero_linger();
    let (mut cut, heard) = (wire.clone(), Notify::new());
    let forward = async {
        let _ = wire.wait_for(|wire| wire.carries(Direction::ToTarget)).await;
        let Some(far) = connect(&targets, number).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near, far) = (near.into_split(), far.into_split());
        let to = pump(near.0, far.1, wire.clone(), Direction::ToTarget, (None, &heard), None);
        let from = pump(far.0, near.1, wire, Direction::FromTarget, (word, &heard), Some(&traffic));
        tokio::join!(to, from);
    };
    tokio::select! {
        () = forward => {}
        () = heard.notified() => {}
        _ = cut.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

/// Connects to the first target that accepts, starting with this one.
async fn connect(targets: &[String], number: usize) -> Option<TcpStream> {
    for at in 0..targets.len() {
        let target = &targets[(number + at) % targets.len()];
        if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
            return Some(stream);
        }
    }
    None
}

/// Forwards one direction. Bytes that were read while the proxy is frozen are held until it thaws.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    way: Direction,
    (word, heard): (Word, &Notify),
    traffic: Option<&Traffic>,
) {
    let (mut buffer, mut delayed) = (vec![0; 64 * 1024], None);
    loop {
        let length = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(length @ 1..) => length,
                _ => break,
            },
            bytes = when_due(&mut delayed), if delayed.is_some() => {
                let _ = to.write_all(&bytes).await;
                continue;
            }
        };
        if let Some((word, reaction)) = word
            && let Some(place) = find(&buffer[..length], word.as_bytes())
        {
            if matches!(reaction, Reaction::Loss) {
                continue;
            }
            if matches!(reaction, Reaction::Delay) {
                delayed = Some((Instant::now() + DELAY, buffer[..length].to_vec()));
                continue;
            }
            let _ = to.write_all(&buffer[..place]).await;
            match reaction {
                Reaction::Silence => std::future::pending().await,
                _ => tokio::time::sleep(RESET_DELAY).await,
            }
            heard.notify_one();
            return;
        }
        if let Some(traffic) = traffic {
            let delay = Duration::from_millis(traffic.delay_ms.load(Ordering::SeqCst));
            tokio::time::sleep(delay).await;
            traffic.replies.fetch_add(1, Ordering::SeqCst);
        }
        let thawed = wire.wait_for(|wire| wire.carries(way)).await.is_ok();
        if !thawed || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Bytes that are held back, when their time has come.
async fn when_due(delayed: &mut Option<(Instant, Vec<u8>)>) -> Vec<u8> {
    if let Some((due, _)) = delayed {
        sleep_until(*due).await;
    }
    delayed.take().map(|(_, bytes)| bytes).unwrap_or_default()
}

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}
