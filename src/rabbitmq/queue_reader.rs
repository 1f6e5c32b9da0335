//! Fetches the messages of a queue one by one, on its own channel. Unacknowledged ones go back when
//! the channel ends.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::SelectAll;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};
use tokio::time::{sleep, timeout};

use super::acks::{Acknowledger, Singly};
use super::broker_error::BrokerError;
use super::connection::{ANSWER_TIMEOUT, Connection, in_time};
use super::delivery::Delivery;
use super::looks::TemporaryConsumer;
use super::topology;

/// Requeues everything that the channel holds.
const ALL_BACK: BasicNackOptions = BasicNackOptions { multiple: true, requeue: true };
/// Deliveries that a consumer gets ahead: few, because a message may have 16 MiB.
const AT_ONCE: u16 = 16;
/// Without a delivery for this long, the queue is asked whether it has any left.
const QUIET: Duration = Duration::from_secs(1);
/// For this long altogether.
const NEXT_WITHIN: Duration = Duration::from_secs(10);
/// From one message that is back to the next. Others may take messages meanwhile, and then they are
/// never all back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Between two questions to a queue.
const AGAIN: Duration = Duration::from_millis(5);

/// What is ready in a queue that says that it has nothing and no consumers. That may be no answer
/// ([`topology::Depth`]), or the queue is still starting. With a consumer of ours it cannot say so.
async fn ready_after_all(connection: &Connection, queue: &str) -> lapin::Result<u32> {
    let channel = connection.channel().await?;
    let consumer = TemporaryConsumer::add(&channel, queue, ANSWER_TIMEOUT).await?;
    let began = Instant::now();
    let mut depth = topology::depth(&channel, queue).await?;
    while !depth.is_known() {
        if began.elapsed() > NEXT_WITHIN {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        sleep(AGAIN).await;
        depth = topology::depth(&channel, queue).await?;
    }
    let has_taken = consumer.remove().await?;
    let _ = in_time(channel.close(200, "OK".into())).await;
    Ok(depth.ready + u32::from(has_taken))
}

/// A queue that an operator looks through.
///
/// # Looking at a queue does not confuse RabbitMQ's recovery
///
/// Messages come from consumers, never from `basic.get`. After a crash, a quorum queue applies its
/// log again. If the log has a `basic.get` whose message was requeued, later acknowledgements in it
/// may then remove other messages than those that were acknowledged: confirmed messages are lost,
/// and acknowledged ones are back (measured with RabbitMQ 3.10.8 and 4.0.5, `docs/upstream.md`).
///
/// A consumer gets no more deliveries than [`AT_ONCE`] beyond what is settled. So when all of
/// those are kept, the next consumer begins.
pub(super) struct QueueReader {
    queue: String,
    channel: Arc<Channel>,
    singly: Arc<Singly>,
    consumers: SelectAll<Consumer>,
    /// Deliveries that all consumers together may have unacknowledged.
    room: usize,
    fetched: usize,
    /// Messages that were ready in the beginning.
    total: u32,
    /// Copies that its owner has published to the same queue since then.
    copies: usize,
    /// Those of them that are not fetched yet.
    left: u32,
}

impl QueueReader {
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(super) async fn open(connection: &Connection, queue: String) -> Result<Self, BrokerError> {
        let opened = async {
            let channel = Arc::new(connection.channel().await?);
            let total = match topology::depth(&channel, &queue).await?.ready {
                0 => ready_after_all(connection, &queue).await?,
                ready => ready,
            };
            Ok((channel, total))
        };
        match opened.await {
            Ok((channel, total)) => {
                let singly = Arc::new(Singly::new(Arc::clone(&channel)));
                let consumers = SelectAll::new();
                let left = total;
                let (room, fetched, copies) = (0, 0, 0);
                Ok(Self { queue, channel, singly, consumers, room, fetched, total, copies, left })
            }
            Err(source) => Err(BrokerError::DeadLetters { queue, source }),
        }
    }

    /// Fetches the next of the messages that were ready when this reader was opened, with the
    /// number of those behind it. Others may have taken some meanwhile.
    ///
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(super) async fn next<M>(
        &mut self,
        read: impl FnOnce(&BasicProperties, Vec<u8>) -> M,
    ) -> Result<Option<(Delivery<M>, u32)>, BrokerError> {
        let delivery = match self.fetch().await {
            Ok(delivery) => delivery,
            Err(source) => {
                return Err(BrokerError::DeadLetters { queue: self.queue.clone(), source });
            }
        };
        Ok(delivery.map(|delivery| {
            let acknowledger = Acknowledger::Singly(Arc::clone(&self.singly));
            (Delivery::new(delivery, &acknowledger, read), self.left)
        }))
    }

    /// A copy of one of them is in the queue.
    pub(super) fn is_copied(&mut self) {
        self.copies += 1;
    }

    /// What RabbitMQ has delivered beyond that.
    pub(super) fn ahead<M>(
        &mut self,
        read: impl Fn(&BasicProperties, Vec<u8>) -> M,
    ) -> Vec<Delivery<M>> {
        let acknowledger = Acknowledger::Singly(Arc::clone(&self.singly));
        let ahead = self.drain().into_iter();
        ahead.map(|delivery| Delivery::new(delivery, &acknowledger, &read)).collect()
    }

    fn drain(&mut self) -> Vec<lapin::message::Delivery> {
        let buffered = std::iter::from_fn(|| self.consumers.next().now_or_never()??.ok());
        let buffered: Vec<_> = buffered.collect();
        self.fetched += buffered.len();
        buffered
    }

    async fn fetch(&mut self) -> lapin::Result<Option<lapin::message::Delivery>> {
        let (began, mut is_empty) = (Instant::now(), false);
        while self.left > 0 {
            if self.fetched - self.singly.settled() >= self.room {
                self.consume_more().await?;
            }
            match timeout(QUIET, self.consumers.next()).await {
                Ok(Some(delivery)) => {
                    self.fetched += 1;
                    self.left -= 1;
                    return delivery.map(Some);
                }
                Ok(None) => {
                    return Err(lapin::ErrorKind::InvalidConnectionState(
                        lapin::ConnectionState::Closed,
                    )
                    .into());
                }
                // What it has delivered may still be on its way.
                Err(_) if is_empty => break,
                Err(_) if began.elapsed() > NEXT_WITHIN => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Err(_) => {
                    let depth = topology::depth(&self.channel, &self.queue).await?;
                    is_empty = depth.is_known() && depth.ready == 0;
                }
            }
        }
        self.left = 0;
        Ok(None)
    }

    async fn consume_more(&mut self) -> lapin::Result<()> {
        in_time(self.channel.basic_qos(AT_ONCE, BasicQosOptions { global: false })).await?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume =
            self.channel.basic_consume(self.queue.as_str().into(), "".into(), options, arguments);
        self.consumers.push(in_time(consume).await?);
        self.room += usize::from(AT_ONCE);
        Ok(())
    }

    /// Requeues everything that is not settled, and closes the channel.
    ///
    /// # The next reader sees what this one held
    ///
    /// RabbitMQ does not say when requeued messages are back in the queue. After a nack, its
    /// channel passes on some 32 and keeps the rest until the queue has answered; and it sends
    /// `channel.close-ok` before the channel has ended. What it delivers while a consumer is
    /// cancelled it requeues by itself. So this waits until as many messages are ready as there
    /// must be, with the copies that were made meanwhile.
    pub(super) async fn close(mut self) {
        for consumer in &self.consumers {
            let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
            let _ = in_time(cancel).await;
        }
        self.drain();
        let settled = self.singly.settled();
        if self.fetched > settled {
            let _ = in_time(self.channel.basic_nack(0, ALL_BACK)).await;
        }
        let there = (self.total as usize + self.copies).saturating_sub(settled);
        if self.room > 0 && there > 0 {
            self.until_ready(there).await;
        }
        let _ = in_time(self.channel.close(200, "OK".into())).await;
    }

    async fn until_ready(&self, number: usize) {
        let (mut last, mut changed) = (0, Instant::now());
        while let Ok(depth) = topology::depth(&self.channel, &self.queue).await {
            if depth.ready > last {
                (last, changed) = (depth.ready, Instant::now());
            }
            let patience = if depth.is_known() { BACK_WITHIN } else { NEXT_WITHIN };
            if depth.ready as usize >= number || changed.elapsed() > patience {
                break;
            }
            sleep(AGAIN).await;
        }
    }
}
