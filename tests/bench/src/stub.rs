//! A lean stand-in for the API: answers every DELETE with 204 (or another status) after a delay,
//! and records when each path was called. It also accepts spans and drops them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use serde_json::{Value, json};
use testkit::rabbitmq::Certificates;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// When a call arrived and when its answer was sent.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) came: SystemTime,
    pub(crate) answered: SystemTime,
}

/// All calls by path, and how many there were.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) number: usize,
    /// TLS handshakes.
    pub(crate) handshakes: usize,
    pub(crate) by_path: HashMap<String, Call>,
}

impl Calls {
    /// `calls`, `handshakes`, different `paths`, `first_at` in seconds since 1970, and `a_second`
    /// over the middle four fifths.
    fn summary(&self) -> Value {
        let since_1970 =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let mut times: Vec<f64> = self.by_path.values().map(|call| since_1970(call.came)).collect();
        times.sort_by(f64::total_cmp);
        let (from, to) = (times.len() / 10, times.len() * 9 / 10);
        let middle = times.get(from..to).unwrap_or_default();
        let took = middle.last().zip(middle.first()).map_or(0.0, |(last, first)| last - first);
        let a_second = f64::from(u32::try_from(middle.len()).unwrap()) / took;
        json!({"calls": self.number, "handshakes": self.handshakes, "paths": times.len(), "first_at": times.first(), "a_second": a_second})
    }
}

/// Prints its address (and with `tls` a second one, for HTTPS, and the file with the authority of
/// its certificate), then answers indefinitely. `GET /` returns a summary of the calls since the
/// last such request.
pub(crate) async fn serve(latency: Duration, status: u16, tls: bool) {
    let (listener, calls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
    let plain = format!("http://{}", listener.local_addr().unwrap());
    if tls {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let certificates = Certificates::new();
        let authority = std::env::temp_dir().join(format!("bench-ca-{}.pem", std::process::id()));
        std::fs::write(&authority, &certificates.ca).unwrap();
        println!("{plain} https://{} {}", listener.local_addr().unwrap(), authority.display());
        tokio::spawn(answer_all_over_tls(listener, certificates, latency, Arc::clone(&calls)));
    } else {
        println!("{plain}");
    }
    answer_all(listener, latency, status, calls).await;
}

async fn answer_all_over_tls(
    listener: TcpListener,
    certificates: Certificates,
    latency: Duration,
    calls: Arc<Mutex<Calls>>,
) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (chain, key) = certificates.of_a_server();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (acceptor, calls) = (acceptor.clone(), Arc::clone(&calls));
        tokio::spawn(async move {
            let Ok(socket) = acceptor.accept(socket).await else { return };
            calls.lock().unwrap().handshakes += 1;
            answer(socket, calls, latency, 204).await;
        });
    }
}

/// Answers indefinitely.
pub(crate) async fn answer_all(
    listener: TcpListener,
    latency: Duration,
    status: u16,
    calls: Arc<Mutex<Calls>>,
) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        tokio::spawn(answer(socket, Arc::clone(&calls), latency, status));
    }
}

async fn answer(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    calls: Arc<Mutex<Calls>>,
    latency: Duration,
    status: u16,
) {
    let (mut buffer, mut received) = ([0; 4096], Vec::new());
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        let came = SystemTime::now();
        received.extend_from_slice(&buffer[..count]);
        while let Some((head, end)) = request(&received) {
            received.drain(..end);
            let mut words = head.split(' ');
            let text = match (words.next(), words.next()) {
                (Some("DELETE"), Some(path)) => {
                    if !latency.is_zero() {
                        sleep(latency).await;
                    }
                    let mut calls = calls.lock().unwrap();
                    calls.number += 1;
                    calls
                        .by_path
                        .insert(path.to_owned(), Call { came, answered: SystemTime::now() });
                    let length = if status == 204 { "" } else { "Content-Length: 0\r\n" };
                    format!("HTTP/1.1 {status} Bench\r\n{length}X-Request-Id: bench\r\n\r\n")
                }
                (Some("GET"), _) => {
                    let body = std::mem::take(&mut *calls.lock().unwrap()).summary().to_string();
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            if socket.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The head of the first complete request, and where it ends.
fn request(received: &[u8]) -> Option<(String, usize)> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.trim().parse().unwrap());
    (received.len() >= end + length).then_some((head, end + length))
}
