//! Periodic questions to the broker about a queue, over both connections of a session, on channels
//! that nothing else uses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::broker_error::{Refusal, is_late};
use super::connection::{Connection, in_time, within};
use super::topology::{Depth, depth};

/// The tag of the temporary consumer, for operators who look at the broker's list.
const TAG: &str = "majority";
/// For the answer to each request of a look. A look makes several, so a slow broker is not taken
/// for a mute one.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The channels, one for each connection.
#[derive(Default)]
pub(super) struct Looks {
    channels: [Mutex<Option<Channel>>; 2],
    /// The broker has refused the majority question: it is not asked again.
    is_refused: AtomicBool,
}

impl Looks {
    /// Each connection's answers about some queues, up to the first that does not come in time;
    /// `None` if the broker refuses to tell.
    pub(super) async fn depths(
        &self,
        connections: [&Connection; 2],
        queues: &[&str],
    ) -> [Vec<Option<Depth>>; 2] {
        let look = async |at: usize| {
            let mut depths = Vec::new();
            for queue in queues {
                let question =
                    async |channel: &Channel| within(ANSWER_WITHIN, depth(channel, queue)).await;
                match self.ask(connections[at], at, question).await {
                    Ok(depth) => depths.push(Some(depth)),
                    Err(error) if Refusal::of(&error).is_some() => depths.push(None),
                    Err(_) => break,
                }
            }
            depths
        };
        tokio::join!(look(0), look(1)).into()
    }

    /// Whether each connection's node reaches a majority of the nodes, judging by this queue.
    ///
    /// # A node that has lost the others answers from what it remembers
    ///
    /// It accepts connections and still believes that it leads its queues: it says that nothing is
    /// ready, and that we consume. But a consumer is added or removed only with the consent of a
    /// majority of the queue's members, so there is no answer to that. The queue must be a rarely
    /// used one; the temporary consumer is added after all others, and only if nothing is ready.
    pub(super) async fn reach_majority(&self, connections: [&Connection; 2], queue: &str) -> bool {
        if self.is_refused.load(Ordering::Relaxed) {
            return true;
        }
        let asked = (0..2).map(async |at| {
            let question = async |channel: &Channel| {
                add_and_remove_consumer(channel, queue, ANSWER_WITHIN).await
            };
            let Err(error) = self.ask(connections[at], at, question).await else { return true };
            self.is_refused.fetch_or(Refusal::of(&error).is_some(), Ordering::Relaxed);
            !is_late(&error)
        });
        join_all(asked).await.into_iter().all(|reaches| reaches)
    }

    /// An error closes the channel, and dropping the request halfway discards it. The next request
    /// then opens another one.
    async fn ask<T>(
        &self,
        connection: &Connection,
        at: usize,
        question: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> lapin::Result<T> {
        let mut kept = self.channels[at].lock().await;
        let channel = match kept.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => connection.channel_within(ANSWER_WITHIN).await?,
        };
        let mut left = ClosedIfLeft(Some(channel.clone()));
        let answer = question(&channel).await?;
        left.0 = None;
        *kept = Some(channel);
        Ok(answer)
    }
}

/// The same for a new connection, which is closed if it does not. Each request has this time limit.
pub(super) async fn reaches_majority(
    connection: &Connection,
    queue: &str,
    limit: Duration,
) -> bool {
    let asked = async {
        let channel = connection.channel_within(limit).await?;
        add_and_remove_consumer(&channel, queue, limit).await
    };
    asked.await.err().is_none_or(|error| !is_late(&error))
}

/// # A consumer that starts too late does not stay
///
/// lapin keeps a channel with a pending answer, and a consumer that starts after all would take a
/// message that nobody reads.
struct ClosedIfLeft(Option<Channel>);

impl Drop for ClosedIfLeft {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take().filter(|channel| channel.status().connected()) {
            tokio::spawn(async move { in_time(channel.close(200, "OK".into())).await });
        }
    }
}

/// Adds a consumer to a queue and removes it, if nothing is ready: the queue must be there to
/// answer that. Each request has this time limit.
async fn add_and_remove_consumer(
    channel: &Channel,
    queue: &str,
    limit: Duration,
) -> lapin::Result<()> {
    if within(limit, depth(channel, queue)).await?.ready == 0 {
        TemporaryConsumer::add(channel, queue, limit).await?.remove().await?;
    }
    Ok(())
}

/// A consumer that comes after all others and takes one message at most, which goes back.
pub(super) struct TemporaryConsumer<'a> {
    channel: &'a Channel,
    consumer: Consumer,
    limit: Duration,
}

impl<'a> TemporaryConsumer<'a> {
    /// Each request has this time limit.
    pub(super) async fn add(
        channel: &'a Channel,
        queue: &str,
        limit: Duration,
    ) -> lapin::Result<Self> {
        within(limit, channel.basic_qos(1, BasicQosOptions::default())).await?;
        let (options, mut arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        arguments.insert("x-priority".into(), AMQPValue::LongInt(-1));
        let consume = channel.basic_consume(queue.into(), TAG.into(), options, arguments);
        Ok(Self { channel, consumer: within(limit, consume).await?, limit })
    }

    /// Whether it had taken a message; then its channel is closed, so that the message goes back.
    pub(super) async fn remove(mut self) -> lapin::Result<bool> {
        let (tag, options) = (self.consumer.tag(), BasicCancelOptions::default());
        within(self.limit, self.channel.basic_cancel(tag, options)).await?;
        let took = timeout(self.limit, self.consumer.next()).await;
        let has_taken = took.is_ok_and(|message| message.is_some());
        if has_taken {
            in_time(self.channel.close(200, "OK".into())).await?;
        }
        Ok(has_taken)
    }
}
