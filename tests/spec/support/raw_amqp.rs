//! AMQP 0-9-1 written byte by byte, for messages that no client library would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

const FRAME_END: u8 = 0xCE;

/// Publishes a persistent message with any bytes as its `message_id`, straight to a queue, and waits until the broker
/// has taken it.
pub(crate) async fn publish(url: &str, queue: &str, message_id: &[u8], body: &[u8]) {
    let url = Url::parse(url).unwrap();
    let mut stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap_or(5672))).await.unwrap();
    let vhost = url.path().trim_start_matches('/').replace("%2F", "/").replace("%2f", "/");
    let login = format!("\0{}\0{}", url.username(), url.password().unwrap_or("guest"));
    let length = u32::try_from(login.len()).unwrap().to_be_bytes();
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    answer(&mut stream).await;
    let start_ok = [&[0; 4][..], &short(b"PLAIN"), &length, login.as_bytes(), &short(b"en_US")].concat();
    send(&mut stream, 1, 0, &method(10, 11, &start_ok)).await;
    let tune = answer(&mut stream).await;
    send(&mut stream, 1, 0, &method(10, 31, &[&tune[4..10], &[0, 0]].concat())).await;
    send(&mut stream, 1, 0, &method(10, 40, &[short(vhost.as_bytes()), short(b""), vec![0]].concat())).await;
    answer(&mut stream).await;
    send(&mut stream, 1, 1, &method(20, 10, &short(b""))).await;
    answer(&mut stream).await;
    send(
        &mut stream,
        1,
        1,
        &method(60, 40, &[vec![0, 0], short(b""), short(queue.as_bytes()), vec![0]].concat()),
    )
    .await;
    let size = (body.len() as u64).to_be_bytes();
    let (delivery_mode_and_message_id, persistent) = (0x1080_u16.to_be_bytes(), [2]);
    let head =
        [&[0, 60, 0, 0][..], &size, &delivery_mode_and_message_id, &persistent, &short(message_id)].concat();
    send(&mut stream, 2, 1, &head).await;
    send(&mut stream, 3, 1, body).await;
    // The answer to closing the channel comes after everything before it was taken.
    send(&mut stream, 1, 1, &method(20, 40, &[vec![0, 200], short(b""), vec![0; 4]].concat())).await;
    answer(&mut stream).await;
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn method(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()
}

async fn send(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
    stream.write_all(&frame).await.unwrap();
}

async fn answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.unwrap();
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; size as usize + 1];
    stream.read_exact(&mut payload).await.unwrap();
    payload
}
