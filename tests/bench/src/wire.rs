//! A proxy between the broker and the worker that records when each command passes to the worker,
//! and when its acknowledgement passes back.

use std::collections::{BTreeMap, HashMap};
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

/// When the body of a delivery and its acknowledgement passed. Tags are counted per channel.
#[derive(Default)]
pub(crate) struct Passed {
    unacknowledged: HashMap<u16, BTreeMap<u64, String>>,
    last_tag: HashMap<u16, u64>,
    pub(crate) delivered: HashMap<String, SystemTime>,
    pub(crate) acknowledged: HashMap<String, SystemTime>,
}

impl Passed {
    fn see_of_broker(&mut self, Frame { kind, channel, payload }: Frame<'_>) {
        if kind == METHOD && payload.starts_with(&DELIVER) {
            let after_the_consumer_tag = 5 + usize::from(payload[4]);
            self.last_tag.insert(channel, tag(&payload[after_the_consumer_tag..]));
        } else if kind == BODY {
            let body: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
            // A record of the ledger is not one.
            let (Some(org), Some(task)) = (body["org_id"].as_str(), body["task_id"].as_str())
            else {
                return;
            };
            let path = format!("/organizations/{org}/tasks/{task}/delete");
            let of_channel = self.unacknowledged.entry(channel).or_default();
            of_channel.insert(self.last_tag[&channel], path.clone());
            self.delivered.insert(path, SystemTime::now());
        }
    }

    fn see_of_worker(&mut self, Frame { kind, channel, payload }: Frame<'_>) {
        if kind == METHOD && payload.starts_with(&ACK) {
            let (tag, is_multiple) = (tag(&payload[4..]), payload[12] & 1 == 1);
            let Some(of_channel) = self.unacknowledged.get_mut(&channel) else { return };
            let later = of_channel.split_off(&(tag + 1));
            let mut acknowledged = std::mem::replace(of_channel, later);
            if !is_multiple {
                let this = acknowledged.split_off(&tag);
                of_channel.extend(std::mem::replace(&mut acknowledged, this));
            }
            let now = SystemTime::now();
            self.acknowledged.extend(acknowledged.into_values().map(|path| (path, now)));
        }
    }
}

struct Frame<'a> {
    kind: u8,
    channel: u16,
    payload: &'a [u8],
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
            let on_delivery = move |frame: Frame<'_>| there.lock().unwrap().see_of_broker(frame);
            let on_ack = move |frame: Frame<'_>| back.lock().unwrap().see_of_worker(frame);
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
    mut see: impl FnMut(Frame<'_>),
) {
    let (mut buffer, mut held, mut greeting) = (vec![0; 64 * 1024], Vec::new(), greeting);
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        held.extend_from_slice(&buffer[..count]);
        let greeted = greeting.min(held.len());
        held.drain(..greeted);
        greeting -= greeted;
        while let Some(end) = frame_end(&held) {
            let channel = u16::from_be_bytes([held[1], held[2]]);
            see(Frame { kind: held[0], channel, payload: &held[HEAD..end - 1] });
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
