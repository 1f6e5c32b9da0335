//! The queue of dead letters for operators: goes once through the dead letters in it, and puts back
//! those that are not removed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::DeadLettersError;
use crate::kind::Kind;
use crate::messages::{DeadLetter, Publication};
use crate::rabbitmq::dead_letters::DeadLetterReader;
use crate::rabbitmq::probe::{May, Questions};
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, Connection, Delivery, PublishError, Publisher};

/// A dead letter that was requeued this often is copied to the end of the queue instead (see
/// [`DeadLetterQueue::go_through`]).
const REDELIVERY_THRESHOLD: u32 = 8;
/// RabbitMQ's consumer timeout is 30 minutes: after that it requeues what is unacknowledged and
/// closes the channel.
const LONGEST_PASS: Duration = Duration::from_mins(20);

/// Has two connections, like the worker: one to read and remove, one to publish.
pub(super) struct DeadLetterQueue {
    kind: Kind,
    reading: Connection,
    publisher: Publisher,
    /// There is no mirror: an older version declared the topology.
    has_no_mirror: AtomicBool,
}

/// What happens to a dead letter after the look.
pub(super) enum Disposition {
    /// It stays among the dead letters.
    Stays(Delivery<DeadLetter>),
    /// It has been removed.
    Removed,
    /// It stays, and the pass ends here.
    Enough(Delivery<DeadLetter>),
}

/// How a pass has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Everything in the queue was seen, or enough of it.
    Through,
    /// It took too long: another pass must continue.
    TimeIsUp,
    /// Stopped by a signal.
    Stopped,
}

impl DeadLetterQueue {
    /// # Errors
    /// [`DeadLettersError::MayNotCopy`] or [`DeadLettersError::Blocked`] before any dead letter is
    /// touched, else [`DeadLettersError::Broker`].
    pub(super) async fn open(
        kind: Kind,
        url: &AmqpSource,
        tls: &TlsFiles,
    ) -> Result<Self, DeadLettersError> {
        let publisher = Publisher::new(Connection::open(url, tls, "dead letters").await?);
        match Questions::new(publisher.connection()).may_write("").await {
            May::No => return Err(DeadLettersError::MayNotCopy),
            May::Blocked => return Err(DeadLettersError::Blocked),
            May::Yes | May::Unknown => {}
        }
        let reading = Connection::open_for_any_body(url, tls, "dead letters").await?;
        Ok(Self { kind, reading, publisher, has_no_mirror: AtomicBool::new(false) })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) async fn publish(
        &self,
        publication: &Publication<'_>,
    ) -> Result<(), DeadLettersError> {
        let to = match publication.exchange {
            "" => publication.routing_key.clone(),
            exchange => exchange.to_owned(),
        };
        self.publisher
            .publish(publication)
            .await
            .map_err(|source| DeadLettersError::Publish { to, source })
    }

    /// Writes a record to the mirror. A failure stops nothing: the mirror then shows more dead
    /// letters than there are.
    pub(super) async fn record(&self, record: &Publication<'_>) {
        if self.has_no_mirror.load(Ordering::Relaxed) {
            return;
        }
        match self.publisher.publish(record).await {
            Ok(()) => {}
            Err(PublishError::Returned(_)) => self.has_no_mirror.store(true, Ordering::Relaxed),
            Err(error) => warn!("not recorded in {}: {error}", self.kind.mirror()),
        }
    }

    /// Shows each dead letter in the queue to `look`, once.
    ///
    /// # Looking loses nothing, however often
    ///
    /// A dead letter that is not removed goes back to the queue when the channel closes, even if
    /// this process is killed. RabbitMQ 4 counts that: by default it drops a message that was
    /// requeued more than 20 times, and this queue has no dead-letter exchange. So a dead letter
    /// that was requeued [`REDELIVERY_THRESHOLD`] times is published again to the queue's end, and
    /// the old one is removed only when the broker has confirmed the copy. A kill in between leaves
    /// both: a duplicate, but no loss. A user who may not publish that copy is not allowed to look:
    /// see [`DeadLetterQueue::open`].
    pub(super) async fn go_through(
        &self,
        stop: &CancellationToken,
        mut look: impl AsyncFnMut(Delivery<DeadLetter>) -> Result<Disposition, DeadLettersError>,
    ) -> Result<Pass, DeadLettersError> {
        let mut reader = DeadLetterReader::open(&self.reading, self.kind).await?;
        let mut result = self.pass(&mut reader, stop, &mut look).await;
        if result.is_ok() {
            // They go back, too, and RabbitMQ counts that.
            for held in reader.ahead() {
                if let Err(error) = self.renew(held, &mut reader).await {
                    result = Err(error);
                    break;
                }
            }
        }
        reader.close().await;
        result
    }

    async fn pass(
        &self,
        reader: &mut DeadLetterReader,
        stop: &CancellationToken,
        look: &mut impl AsyncFnMut(Delivery<DeadLetter>) -> Result<Disposition, DeadLettersError>,
    ) -> Result<Pass, DeadLettersError> {
        let (began, mut left) = (Instant::now(), None);
        while left != Some(0) {
            if stop.is_cancelled() {
                return Ok(Pass::Stopped);
            }
            if began.elapsed() > LONGEST_PASS {
                return Ok(Pass::TimeIsUp);
            }
            let Some((held, behind)) = reader.next().await? else { break };
            // Messages behind these are not looked at: they may be our own copies, or commands that
            // die again and again.
            left = Some(left.map_or(behind, |left: u32| left - 1));
            match look(held).await? {
                Disposition::Removed => {}
                Disposition::Stays(held) => self.renew(held, reader).await?,
                Disposition::Enough(held) => {
                    self.renew(held, reader).await?;
                    break;
                }
            }
        }
        Ok(Pass::Through)
    }

    /// Puts a copy in the place of one that was requeued often.
    async fn renew(
        &self,
        held: Delivery<DeadLetter>,
        reader: &mut DeadLetterReader,
    ) -> Result<(), DeadLettersError> {
        let returns = held.delivery_count();
        if returns < REDELIVERY_THRESHOLD {
            return Ok(());
        }
        let copied = self.publisher.publish(&held.message.again()).await;
        copied.map_err(|source| DeadLettersError::Copy { returns, source })?;
        reader.is_copied();
        if !held.acknowledge().await {
            warn!(
                "a dead letter was copied and its removal is not confirmed: it may be there twice"
            );
        }
        Ok(())
    }

    pub(super) async fn close(self) {
        for connection in [&self.reading, self.publisher.connection()] {
            connection.close().await;
        }
    }
}
