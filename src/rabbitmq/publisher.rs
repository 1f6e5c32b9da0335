//! Publishing that cannot lie: a message counts as published when the broker has confirmed this
//! very one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::broker_error::Refusal;
use super::connection::Connection;
use super::envelope;
use super::own_user::{OwnUser, real_name};
use crate::failpoint::{self, Failpoint};
use crate::messages::{Publication, names};

/// From the wish to publish to the broker's confirm.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Channels, and so publishes under way, at most.
const CHANNELS: usize = 64;
const TRIES: u32 = 5;

/// Why a message does not count as published. It may have arrived all the same (after a time-out,
/// say): publishing it again makes a duplicate, which the promise allows; not publishing it would
/// lose it.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The broker said no: a full queue with `reject-publish`, or an internal error.
    #[error("RabbitMQ rejected it")]
    Rejected,
    /// No queue takes it.
    #[error("RabbitMQ returned it: {0}")]
    Returned(String),
    /// No confirm came in time.
    #[error("no confirm within {PUBLISH_TIMEOUT:?}")]
    TimedOut,
    /// It is larger than the broker takes (any more): the limit was lowered while the command lay
    /// in its queue.
    #[error("RabbitMQ refused it: {0}")]
    TooLarge(String),
    /// The channel or the connection broke: no permission, no such exchange, connection lost.
    #[error("{0}")]
    Broken(lapin::Error),
}

impl PublishError {
    /// The word that metrics use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Returned(_) => "returned",
            Self::TimedOut => "timeout",
            Self::TooLarge(_) => "too_large",
            Self::Broken(_) => "broken",
        }
    }

    fn of(confirmation: Confirmation) -> Result<(), Self> {
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) => {
                Err(Self::Returned(returned.reply_text.to_string()))
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(Self::Rejected),
        }
    }

    /// What the broker objected to, if it closed the channel for it.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Broken(source) => Refusal::of(source),
            _ => None,
        }
    }
}

impl From<lapin::Error> for PublishError {
    /// Of what a publish can violate, we violate the size, or the `user_id`, which is put right; no
    /// expiration, no `CC`.
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(word)
                if Refusal::of(&error) == Some(Refusal::PreconditionFailed)
                    && real_name(&error).is_none() =>
            {
                Self::TooLarge(word.get_message().to_string())
            }
            _ => Self::Broken(error),
        }
    }
}

/// A pool of confirm channels on one connection.
///
/// # One publish at a time on each channel
///
/// lapin numbers a publish under one lock and queues its frames under another, so two publishes
/// that share a channel can swap their confirms; and it matches returned messages to confirms in no
/// particular order, even for one publisher that does not wait. Both let a message count as stored
/// that was not. A channel is therefore lent to one publish, which waits for its confirm before the
/// channel goes back; a channel on which anything went wrong is thrown away.
#[derive(Clone)]
pub struct Publisher {
    connection: Arc<Connection>,
    idle: Arc<Mutex<Vec<Channel>>>,
    permits: Arc<Semaphore>,
    user: OwnUser,
}

impl Publisher {
    /// A publisher on this connection; channels are opened when they are needed.
    pub fn new(connection: Connection) -> Self {
        Self::known_as(connection, OwnUser::default())
    }

    /// The same, with what is known of our user.
    pub(super) fn known_as(connection: Connection, user: OwnUser) -> Self {
        user.connects_as(connection.user());
        Self {
            user,
            connection: Arc::new(connection),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(CHANNELS)),
        }
    }

    /// Publishes a message and waits for its confirm, ten seconds at most.
    ///
    /// # Errors
    /// [`PublishError`]: then the message must not count as published.
    pub async fn publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let publish = async {
            match self.publish_on_a_channel_of_its_own(publication).await {
                Err(error) if self.user.learns_from(&error) => {
                    self.publish_on_a_channel_of_its_own(publication).await
                }
                result => result,
            }
            .map_err(PublishError::from)
            .and_then(PublishError::of)
        };
        timeout(PUBLISH_TIMEOUT, publish).await.unwrap_or(Err(PublishError::TimedOut))
    }

    /// The user that we publish as.
    pub(super) fn user(&self) -> &OwnUser {
        &self.user
    }

    /// Learns the name that the broker knows us by, unless it is certain.
    ///
    /// # A worker believes its own copies from the first delivery on
    ///
    /// After a login by certificate or token, our user has another name than in the URL. The broker
    /// names it only when it refuses a `user_id`. So the URL's name is tried before anything is
    /// consumed, in a transaction that is rolled back: nothing reaches a queue. A broker that is
    /// blocking publishers does not answer that.
    pub(super) async fn learn_user(&self, mut blocked: watch::Receiver<Option<String>>) {
        if !self.user.is_certain() {
            tokio::select! {
                _ = timeout(PUBLISH_TIMEOUT, self.try_user_again()) => {}
                _ = blocked.wait_for(Option::is_some) => {}
            }
        }
    }

    /// A refusal that comes between two requests is not given to either of them.
    async fn try_user_again(&self) {
        for _ in 0..TRIES {
            match self.try_user().await {
                Ok(()) => return self.user.accepted(),
                Err(error) if self.user.learns_from(&error) => return,
                Err(error) if matches!(error.kind(), ErrorKind::ProtocolError(_)) => return,
                Err(_) => {}
            }
        }
    }

    async fn try_user(&self) -> lapin::Result<()> {
        let channel = self.connection.channel().await?;
        channel.tx_select().await?;
        let properties = BasicProperties::default().with_user_id(self.user.name().into());
        let (exchange, options) = (names::RETRY_EXCHANGE.into(), BasicPublishOptions::default());
        // Without confirms this resolves when it is sent.
        drop(channel.basic_publish(exchange, "".into(), options, b"", properties).await?);
        channel.tx_rollback().await?;
        let _ = channel.close(200, "OK".into()).await;
        Ok(())
    }

    // Dropped in the middle (by the time limit), the channel is dropped too and never lent again.
    async fn publish_on_a_channel_of_its_own(
        &self,
        publication: &Publication<'_>,
    ) -> lapin::Result<Confirmation> {
        let _permit = self.permits.acquire().await;
        let idle = self.lock_idle().pop();
        let channel = match idle {
            Some(channel) => channel,
            None => self.open_channel().await?,
        };
        let confirm = publish(&channel, publication, &self.user.name()).await?;
        failpoint::hit(Failpoint::BeforeConfirm).await;
        let confirmation = confirm.await?;
        if matches!(confirmation, Confirmation::Ack(None)) {
            self.lock_idle().push(channel);
        }
        Ok(confirmation)
    }

    /// The connection, to close it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    async fn open_channel(&self) -> lapin::Result<Channel> {
        let channel = self.connection.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn publish(
    channel: &Channel,
    publication: &Publication<'_>,
    user: &str,
) -> lapin::Result<lapin::PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let (exchange, key) = (publication.exchange.into(), publication.routing_key.as_str().into());
    channel
        .basic_publish(
            exchange,
            key,
            options,
            &publication.body,
            envelope::write(publication, user),
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPSoftError};

    #[test]
    fn a_violated_precondition_is_told_from_a_broken_channel() {
        let error = |kind: AMQPSoftError| {
            let word = AMQPError::new(
                kind.into(),
                "message size 2 is larger than configured max size 1".into(),
            );
            PublishError::from(lapin::Error::from(ErrorKind::ProtocolError(word)))
        };
        let user =
            "PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'b'";
        let user = AMQPError::new(AMQPSoftError::PRECONDITIONFAILED.into(), user.into());
        let user = PublishError::from(lapin::Error::from(ErrorKind::ProtocolError(user)));
        assert_eq!(user.as_str(), "broken", "nothing is moved aside for a wrong user");
        assert_eq!(error(AMQPSoftError::PRECONDITIONFAILED).as_str(), "too_large");
        assert_eq!(error(AMQPSoftError::NOTFOUND).as_str(), "broken");
        assert_eq!(error(AMQPSoftError::ACCESSREFUSED).as_str(), "broken");
    }
}
