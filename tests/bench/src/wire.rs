//! A proxy between the broker and the worker that records when each command passes to the worker,
//! and when its acknowledgement passes back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const METHOD: u8 = 1;
const BODY: u8 = 3;
/// Type, channel and size of a frame.
const HEAD: usize = 7;
/// Class and method.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];
/// Before any frame, from the client.
const GREETING: usize = 8;

/// When the body of a delivery and its acknowledgement passed.
#[derive(Default)]
pub(crate) struct Passed {
    tags: HashMap<u64, String>,
    last_tag: u64,
    pub(crate) delivered: HashMap<String, SystemTime>,
    pub(crate) acknowledged: HashMap<String, SystemTime>,
}

impl Passed {
    fn see_of_broker(&mut self, kind: u8, payload: &[u8]) {
        if kind == METHOD && payload.starts_with(&DELIVER) {
            let after_the_consumer_tag = 5 + usize::from(payload[4]);
            self.last_tag = tag(&payload[after_the_consumer_tag..]);
        } else if kind == BODY {
            let command: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let path = format!(
                "/organizations/{}/tasks/{}/delete",
                command["org_id"].as_str().unwrap(),
                command["task_id"].as_str().unwrap()
            );
            self.tags.insert(self.last_tag, path.clone());
            self.delivered.insert(path, SystemTime::now());
        }
    }

    fn see_of_worker(&mut self, kind: u8, payload: &[u8]) {
        if kind == METHOD && payload.starts_with(&ACK) {
            let path = self.tags.remove(&tag(&payload[4..])).unwrap();
            self.acknowledged.insert(path, SystemTime::now());
        }
    }
}

fn tag(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().unwrap())
}

/// Listens on a port of its own and forwards to the broker indefinitely.
pub(crate) async fn between(broker: String, passed: Arc<Mutex<Passed>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((worker, _)) = listener.accept().await {
            let broker = TcpStream::connect(&broker).await.unwrap();
            for socket in [&worker, &broker] {
                socket.set_nodelay(true).unwrap();
            }
            let (from_worker, to_worker) = worker.into_split();
            let (from_broker, to_broker) = broker.into_split();
            let (there, back) = (Arc::clone(&passed), Arc::clone(&passed));
            let on_delivery =
                move |kind, payload: &[u8]| there.lock().unwrap().see_of_broker(kind, payload);
            let on_ack =
                move |kind, payload: &[u8]| back.lock().unwrap().see_of_worker(kind, payload);
            tokio::spawn(relay(from_broker, to_worker, 0, on_delivery));
            tokio::spawn(relay(from_worker, to_broker, GREETING, on_ack));
        }
    });
    address
}

async fn relay(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    greeting: usize,
    mut see: impl FnMut(u8, &[u8]),
) {
    let (mut buffer, mut held, mut greeting) = (vec![0; 64 * 1024], Vec::new(), greeting);
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        held.extend_from_slice(&buffer[..count]);
        let greeted = greeting.min(held.len());
        held.drain(..greeted);
        greeting -= greeted;
        while let Some(end) = frame_end(&held) {
            see(held[0], &held[HEAD..end - 1]);
            held.drain(..end);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

fn frame_end(bytes: &[u8]) -> Option<usize> {
    let size = u32::from_be_bytes(*bytes.get(3..)?.first_chunk()?);
    let end = HEAD + usize::try_from(size).unwrap() + 1;
    (bytes.len() >= end).then_some(end)
}
