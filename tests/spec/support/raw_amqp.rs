//! AMQP 0-9-1 written byte by byte, for messages that no client library would send.

use std::fmt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// What RabbitMQ offers, and the largest frame that it takes.
const FRAME_MAX: usize = 128 * 1024;

/// A property of a message, by the bit that says that it is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Property {
    MessageId = 7,
    Expiration = 8,
    ReplyTo = 9,
    CorrelationId = 10,
    DeliveryMode = 12,
    UserId = 4,
    Headers = 13,
    ContentType = 15,
}

/// A persistent message, made of any bytes.
#[derive(Clone)]
pub(crate) struct RawMessage {
    exchange: Vec<u8>,
    routing_key: Vec<u8>,
    properties: Vec<(Property, Vec<u8>)>,
    body: Vec<u8>,
}

impl RawMessage {
    /// Straight to a queue.
    pub(crate) fn to(queue: &str, body: impl Into<Vec<u8>>) -> Self {
        let properties = vec![(Property::DeliveryMode, vec![2])];
        Self { exchange: Vec::new(), routing_key: queue.into(), properties, body: body.into() }
    }

    pub(crate) fn routed_by(self, routing_key: &[u8]) -> Self {
        Self { routing_key: routing_key.to_vec(), ..self }
    }

    pub(crate) fn through(self, exchange: &str) -> Self {
        Self { exchange: exchange.into(), ..self }
    }

    /// A property whose value is a short string: at most 255 bytes, of any kind.
    pub(crate) fn with(mut self, property: Property, value: impl AsRef<[u8]>) -> Self {
        self.properties.push((property, short(value.as_ref())));
        self
    }

    /// The header table; `entries` are its bytes, without the length.
    pub(crate) fn headers(mut self, entries: &[u8]) -> Self {
        self.properties.push((Property::Headers, long(entries)));
        self
    }

    fn header_frame(&self) -> Vec<u8> {
        let mut properties = self.properties.clone();
        properties.sort_by_key(|(property, _)| std::cmp::Reverse(*property));
        let flags =
            properties.iter().fold(0_u16, |flags, (property, _)| flags | 1 << *property as u8);
        let mut head =
            [&[0, 60, 0, 0][..], &(self.body.len() as u64).to_be_bytes(), &flags.to_be_bytes()]
                .concat();
        head.extend(properties.into_iter().flat_map(|(_, value)| value));
        head
    }
}

/// Entry of a header table: name, type and the value's bytes.
pub(crate) fn entry(name: impl AsRef<[u8]>, kind: u8, value: &[u8]) -> Vec<u8> {
    [short(name.as_ref()), vec![kind], value.to_vec()].concat()
}

/// Entry with a long string.
pub(crate) fn text(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    entry(name, b'S', &long(value.as_ref()))
}

/// Entry with an array of long strings.
pub(crate) fn array(name: &str, texts: &[&str]) -> Vec<u8> {
    let texts: Vec<u8> =
        texts.iter().flat_map(|text| [&[b'S'][..], &long(text.as_bytes())].concat()).collect();
    entry(name, b'A', &long(&texts))
}

/// An array of tables, each given as its entries.
pub(crate) fn tables(tables: &[Vec<u8>]) -> Vec<u8> {
    long(
        &tables
            .iter()
            .flat_map(|entries| [&[b'F'][..], &long(entries)].concat())
            .collect::<Vec<_>>(),
    )
}

/// Tables in tables, each in an entry without a name: six bytes a level.
pub(crate) fn nested_tables(levels: usize) -> Vec<u8> {
    (0..levels).rev().flat_map(|inner| [&[0, b'F'][..], &length(6 * inner)].concat()).collect()
}

/// Arrays in arrays: five bytes a level.
pub(crate) fn nested_arrays(levels: usize) -> Vec<u8> {
    let nest = (0..levels).rev().flat_map(|inner| [&[b'A'][..], &length(5 * inner)].concat());
    std::iter::once(0).chain(nest).collect()
}

/// The broker has closed the channel or the connection, with these words.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Publishes a message and waits until the broker has taken it.
pub(crate) async fn publish(url: &str, message: &RawMessage) -> Result<(), Refused> {
    let mut wire = Wire::open(url).await;
    wire.publish(message).await
}

struct Wire(TcpStream);

impl Wire {
    /// Connects, with a channel in confirm mode.
    async fn open(url: &str) -> Self {
        let url = Url::parse(url).unwrap();
        let address = (url.host_str().unwrap(), url.port().unwrap_or(5672));
        let mut wire = Self(TcpStream::connect(address).await.unwrap());
        let vhost = url.path().trim_start_matches('/').replace("%2F", "/").replace("%2f", "/");
        let login = format!("\0{}\0{}", url.username(), url.password().unwrap_or("guest"));
        wire.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        wire.answer().await.unwrap();
        let start_ok =
            [&[0; 4][..], &short(b"PLAIN"), &long(login.as_bytes()), &short(b"en_US")].concat();
        wire.call(0, 10, 11, &start_ok).await;
        let tune = wire.answer().await.unwrap();
        wire.call(0, 10, 31, &[&tune[4..10], &[0, 0]].concat()).await;
        wire.call(0, 10, 40, &[short(vhost.as_bytes()), short(b""), vec![0]].concat()).await;
        wire.answer().await.unwrap();
        wire.call(1, 20, 10, &short(b"")).await;
        wire.answer().await.unwrap();
        wire.call(1, 85, 10, &[0]).await;
        wire.answer().await.unwrap();
        wire
    }

    async fn publish(&mut self, message: &RawMessage) -> Result<(), Refused> {
        let address =
            [vec![0, 0], short(&message.exchange), short(&message.routing_key), vec![0]].concat();
        self.call(1, 60, 40, &address).await;
        self.send(HEADER, 1, &message.header_frame()).await;
        for piece in message.body.chunks(FRAME_MAX - 8) {
            self.send(BODY, 1, piece).await;
        }
        let confirm = self.answer().await?;
        assert_eq!(confirm[..4], [0, 60, 0, 80], "basic.ack");
        Ok(())
    }

    async fn call(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.send(METHOD, channel, &payload).await;
    }

    /// A connection that the broker has closed takes no more; its word is there to be read.
    async fn send(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame =
            [&[kind][..], &channel.to_be_bytes(), &length(payload.len()), payload, &[FRAME_END]]
                .concat();
        let _ = self.0.write_all(&frame).await;
    }

    async fn answer(&mut self) -> Result<Vec<u8>, Refused> {
        let gone = |error: std::io::Error| Refused(error.to_string());
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.map_err(gone)?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; size as usize + 1];
        self.0.read_exact(&mut payload).await.map_err(gone)?;
        match payload[..4] {
            [0, 10, 0, 50] | [0, 20, 0, 40] => {
                let words = &payload[7..7 + usize::from(payload[6])];
                Err(Refused(String::from_utf8_lossy(words).into_owned()))
            }
            _ => Ok(payload),
        }
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&length(text.len()), text].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_be_bytes()
}
