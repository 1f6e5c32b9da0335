//! One running command of an operator: its queue, its stop signal, and the pass over the selection.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::pace::Progress;
use super::queue::{DeadLetterQueue, Disposition, Pass};
use super::selection::{Groups, Selection};
use super::{ActionResult, DeadLettersError, Limit};
use crate::kind::Kind;
use crate::messages::DeadLetter;
use crate::messages::deaths::Deaths;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, Delivery};

pub(super) type Result<T> = std::result::Result<T, DeadLettersError>;

pub(super) struct Session {
    pub(super) queue: DeadLetterQueue,
    pub(super) stop: CancellationToken,
    pub(super) began: Timestamp,
    pub(super) progress: Progress,
    /// Only these are replayed or discarded.
    pub(super) only: Option<Deaths>,
}

impl Session {
    pub(super) async fn open(
        kind: Kind,
        url: &AmqpSource,
        tls: &TlsFiles,
        stop: CancellationToken,
    ) -> Result<Self> {
        let queue = DeadLetterQueue::open(kind, url, tls).await?;
        Ok(Self { queue, stop, began: Timestamp::now(), progress: Progress::default(), only: None })
    }

    /// Counts the selected dead letters; all stay.
    pub(super) async fn survey(&self, selection: &Selection) -> Result<(Groups, ActionResult)> {
        let mut groups = Groups::default();
        let look = async |held: Delivery<DeadLetter>| {
            if selection.takes(&held.message, self.began) {
                groups.add(&held.message);
            }
            Ok(Disposition::Stays(held))
        };
        let pass = self.queue.go_through(&self.stop, look).await?;
        Ok((groups, done(pass)))
    }

    /// Shows each selected dead letter to `use_it`; all stay.
    pub(super) async fn each(
        &self,
        selection: &Selection,
        limit: Limit,
        mut use_it: impl FnMut(&DeadLetter) -> Result<()>,
    ) -> Result<ActionResult> {
        let mut left = limit.unwrap_or(usize::MAX);
        let look = async |held: Delivery<DeadLetter>| {
            if selection.takes(&held.message, self.began) {
                use_it(&held.message)?;
                left -= 1;
            }
            Ok(if left == 0 { Disposition::Enough(held) } else { Disposition::Stays(held) })
        };
        Ok(done(self.queue.go_through(&self.stop, look).await?))
    }

    pub(super) async fn close(self) {
        self.queue.close().await;
    }
}

pub(super) fn done(pass: Pass) -> ActionResult {
    if pass == Pass::Through { ActionResult::Completed } else { ActionResult::Interrupted }
}
