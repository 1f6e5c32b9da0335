//! A lean stand-in for the API: 204 to every DELETE after a while, and a count of calls and of paths.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

#[derive(Default)]
struct Seen {
    calls: usize,
    paths: HashSet<String>,
}

/// Prints its address, then answers for ever. `GET /` gives calls and different paths since the last `GET /`.
pub(crate) async fn serve(latency_ms: u64) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Seen::default()));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        tokio::spawn(answer(socket, Arc::clone(&seen), Duration::from_millis(latency_ms)));
    }
}

async fn answer(mut socket: TcpStream, seen: Arc<Mutex<Seen>>, latency: Duration) {
    let (mut buffer, mut received) = ([0; 4096], Vec::new());
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        received.extend_from_slice(&buffer[..count]);
        while let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).into_owned();
            received.drain(..end + 4);
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let text = if method == "DELETE" {
                if !latency.is_zero() {
                    sleep(latency).await;
                }
                let mut seen = seen.lock().unwrap();
                seen.calls += 1;
                seen.paths.insert(path.to_owned());
                "HTTP/1.1 204 No Content\r\nX-Request-Id: bench\r\n\r\n".to_owned()
            } else {
                let seen = std::mem::take(&mut *seen.lock().unwrap());
                let body = format!("{} {}", seen.calls, seen.paths.len());
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            };
            if socket.write_all(text.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
