//! Questions to a broker that leave nothing behind there.

use std::future::pending;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt, Stream, StreamExt};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ExchangeDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Event};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::broker_error::{Refusal, is_late};
use super::connection::{Connection, within};
use super::lapin_guard::dial;
use super::tls::TlsFiles;

const PATIENCE: Duration = Duration::from_secs(5);
/// One question is several requests.
const QUESTION_PATIENCE: Duration = Duration::from_secs(10);
/// For the event of a refusal, once its channel is closed.
const NOTICE_WITHIN: Duration = Duration::from_secs(5);
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Whether the user may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// It may.
    Yes,
    /// The broker refuses it.
    No,
    /// The broker did not answer.
    Unknown,
    /// RabbitMQ is blocking publishers, so it does not answer.
    Blocked,
}

/// The broker's version, from its greeting before any login; lapin does not expose it.
pub async fn version(connection: &Connection, tls: &TlsFiles) -> Option<String> {
    let (endpoint, tls) = (connection.endpoint(), tls.read().ok()?);
    let greet = async {
        let mut socket = dial(&endpoint.uri, endpoint.address, PATIENCE, &tls).await.ok()?;
        socket.write_all(PROTOCOL_HEADER).await.ok()?;
        let mut greeting = vec![0; 4096];
        let mut read = 0;
        while read < greeting.len() && greeting.get(read.wrapping_sub(1)) != Some(&0xCE) {
            match socket.read(&mut greeting[read..]).await.ok()? {
                0 => break,
                count => read += count,
            }
        }
        version_in(&greeting[..read])
    };
    timeout(PATIENCE, greet).await.ok()?
}

/// `connection.start` contains a table with the long string `version`.
fn version_in(greeting: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = greeting.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (length, text) = greeting.get(at..)?.split_first_chunk::<4>()?;
    let text = text.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    str::from_utf8(text).ok().map(str::to_owned)
}

/// Asks what the user may do, each question on its own channel, because a refusal closes it.
///
/// # A broker that does not answer is not asked everything
///
/// RabbitMQ stops reading from a connection on which something was published during an alarm, and
/// a broken network answers nothing either. Each further question would wait in vain as well: all
/// of them together once took five minutes. So a question without an answer is asked once more, and
/// after that no other one.
pub struct Questions<'a> {
    connection: &'a Connection,
    /// The only listener: lapin gives each event to one of them.
    events: Mutex<Pin<Box<dyn Stream<Item = Event> + Send>>>,
    /// Set when a question has got no answer; it then stands for the answer to all later ones.
    unanswered: OnceLock<May>,
}

impl<'a> Questions<'a> {
    pub fn new(connection: &'a Connection) -> Self {
        let events = Mutex::new(Box::pin(connection.events()) as _);
        Self { connection, events, unanswered: OnceLock::new() }
    }

    /// # Asking whether a publish is allowed publishes nothing
    ///
    /// It happens in a transaction that is rolled back: the broker checks the permission at once,
    /// but routes only at the commit, which never comes.
    pub async fn may_write(&self, exchange: &str) -> May {
        self.ask(async |channel| {
            channel.tx_select().await?;
            let (options, nothing) = (BasicPublishOptions::default(), BasicProperties::default());
            // Without confirms this resolves when it is sent; a refusal comes before the rollback's
            // answer.
            drop(channel.basic_publish(exchange.into(), "".into(), options, b"", nothing).await?);
            channel.tx_rollback().await
        })
        .await
    }

    /// # Asking whether a queue may be read takes nothing from it
    ///
    /// It asks to consume with an argument that RabbitMQ always refuses. RabbitMQ checks the
    /// permission first, so the kind of refusal is the answer, and no consumer ever starts.
    /// Fetching a message instead would count toward its delivery limit.
    pub async fn may_read(&self, queue: &str) -> May {
        let mut wrong = FieldTable::default();
        wrong.insert("x-priority".into(), AMQPValue::LongString("none".into()));
        let consume = async |channel: &Channel| {
            channel
                .basic_consume(
                    queue.into(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    wrong.clone(),
                )
                .await
                .map(drop)
        };
        self.ask(consume).await
    }

    /// Asks to delete an exchange that does not exist, which changes nothing.
    pub async fn may_configure(&self, exchange: &str) -> May {
        self.ask(async |channel| {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
        })
        .await
    }

    /// # A refusal that lapin does not give to the request is an event
    ///
    /// The broker answers a refused publish by closing the channel. If that arrives before the next
    /// request, lapin only says of the request that the channel is closed, but not why. An event of
    /// the connection has the reason, once for each refusal.
    async fn ask(&self, mut question: impl AsyncFnMut(&Channel) -> lapin::Result<()>) -> May {
        let mut events = self.events.lock().await;
        let mut is_asked_again = false;
        loop {
            if let Some(may) = self.unanswered.get() {
                return *may;
            }
            let asked = tokio::select! {
                biased;
                notice = next_notice(&mut *events) => Err(notice),
                answer = self.ask_once(&mut question) => Ok(answer),
            };
            let notice = match asked {
                Err(notice) => Some(notice),
                Ok(Ok(())) => return May::Yes,
                Ok(Err(error)) if is_late(&error) => None,
                Ok(Err(_)) => timeout(NOTICE_WITHIN, next_notice(&mut *events)).await.ok(),
            };
            match notice {
                Some(Notice::Blocked) => return *self.unanswered.get_or_init(|| May::Blocked),
                Some(Notice::Refused(Refusal::AccessRefused)) => return May::No,
                Some(Notice::Refused(Refusal::NotFound | Refusal::PreconditionFailed)) => {
                    return May::Yes;
                }
                None if !is_asked_again && self.connection.is_open() => is_asked_again = true,
                None => return *self.unanswered.get_or_init(|| May::Unknown),
            }
        }
    }

    async fn ask_once(
        &self,
        question: &mut impl AsyncFnMut(&Channel) -> lapin::Result<()>,
    ) -> lapin::Result<()> {
        let asked = async {
            let channel = self.connection.channel().await?;
            let answer = question(&channel).await;
            let _ = channel.close(200, "OK".into()).await;
            answer
        };
        within(QUESTION_PATIENCE, asked).await
    }
}

/// What the connection says while a question is asked.
enum Notice {
    Blocked,
    Refused(Refusal),
}

async fn next_notice(events: &mut (impl Stream<Item = Event> + Unpin)) -> Notice {
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(_) => return Notice::Blocked,
            Event::Error(error) => {
                if let Some(refusal) = Refusal::of(&error) {
                    return Notice::Refused(refusal);
                }
            }
            _ => {}
        }
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stands_in_the_greeting() {
        let greeting = b"....\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x054.0.5\x08platform";
        assert_eq!(version_in(greeting).as_deref(), Some("4.0.5"));
        assert_eq!(version_in(b"\x07versionS\0\0\xff\xff4.0"), None);
        assert_eq!(version_in(b""), None);
    }
}
