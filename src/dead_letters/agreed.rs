//! What somebody has agreed to elsewhere, at the console: the same actions, without a question.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::pace::Progress;
use super::print;
use super::queue::{Disposition, Pass};
use super::selection::Selection;
use super::session::{Result, Session};
use super::{Bulk, Done};
use crate::kind::Kind;
use crate::messages::DeadLetter;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, Delivery};

/// What shall become of dead letters.
#[derive(Debug, Clone)]
pub enum Change {
    /// Back to the work queue.
    Replay,
    /// Into this file and away, for this reason.
    Discard(PathBuf, String),
}

/// Which ones, and how many of them at most, as somebody has seen them at that moment. What has
/// died since is left alone.
#[derive(Debug, Clone)]
pub struct Agreed {
    pub kind: Kind,
    pub selection: Selection,
    pub letters: usize,
    pub seen_at: Timestamp,
    pub change: Change,
}

/// Does it. `stop` ends it after the dead letter that it is busy with.
///
/// # Errors
/// [`super::DeadLettersError`]: what was not done is as it was.
pub async fn carry_out(
    agreed: &Agreed,
    bulk: &Bulk,
    (url, tls): (&AmqpSource, &TlsFiles),
    stop: CancellationToken,
    progress: Progress,
) -> Result<Done> {
    let Agreed { kind, selection, letters, seen_at, change } = agreed;
    let session = Session::open(*kind, url, tls, stop).await?;
    let session = Session { began: *seen_at, progress, ..session };
    let done = match change {
        Change::Replay => session.replay_agreed(selection, bulk, *letters).await,
        Change::Discard(file, why) => match Lines::append_to(file) {
            Ok(lines) => session.discard_agreed(selection, bulk, *letters, (lines, why)).await,
            Err(error) => Err(error),
        },
    };
    session.close().await;
    done
}

/// Looks at the first dead letters of the queue, and counts those behind them. That costs each of
/// them a return to the queue: for where there is no mirror.
///
/// # Errors
/// [`super::DeadLettersError`].
pub async fn look(
    kind: Kind,
    most: usize,
    (url, tls): (&AmqpSource, &TlsFiles),
    stop: CancellationToken,
) -> Result<(Vec<DeadLetter>, bool)> {
    let session = Session::open(kind, url, tls, stop).await?;
    let mut letters = Vec::new();
    let mut there_is_more = false;
    let look = async |held: Delivery<DeadLetter>| {
        if letters.len() == most {
            there_is_more = true;
            return Ok(Disposition::Enough(held));
        }
        letters.push(held.message.clone());
        Ok(Disposition::Stays(held))
    };
    let passed = session.queue.go_through(&session.stop, look).await;
    session.close().await;
    passed.map(|pass| (letters, there_is_more || pass != Pass::Through))
}

/// A line of an export.
pub fn export_line(dead_letter: &DeadLetter) -> String {
    serde_json::to_string(&print::exported(dead_letter)).unwrap_or_default() + "\n"
}
