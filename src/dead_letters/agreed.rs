//! Actions that a user has already agreed to at the console: the same ones, without a question.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::lines::Lines;
use super::pace::Progress;
use super::print;
use super::queue::{Disposition, Pass};
use super::selection::Selection;
use super::session::{Result, Session};
use super::{ActionResult, Bulk};
use crate::kind::Kind;
use crate::messages::DeadLetter;
use crate::messages::deaths::Deaths;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, Delivery};

/// What to do with the dead letters.
#[derive(Debug, Clone)]
pub enum Change {
    /// Back to the work queue.
    Replay,
    /// Write them to this file and remove them, for this reason.
    Discard(PathBuf, String),
}

/// Which dead letters, and at most how many, as the user saw them at that moment. Later ones are
/// left alone.
#[derive(Debug, Clone)]
pub struct Agreed {
    pub kind: Kind,
    pub selection: Selection,
    pub dead_letters: usize,
    pub seen_at: Timestamp,
    /// No others: there may be some in the queue that the user has not seen.
    pub seen: Deaths,
    pub change: Change,
}

/// Carries it out. `stop` ends it after the current dead letter.
///
/// # Errors
/// [`super::DeadLettersError`]: whatever was not done is unchanged.
pub async fn carry_out(
    agreed: &Agreed,
    bulk: &Bulk,
    (url, tls): (&AmqpSource, &TlsFiles),
    stop: CancellationToken,
    progress: Progress,
) -> Result<ActionResult> {
    let Agreed { kind, selection, dead_letters, seen_at, seen, change } = agreed;
    let session = Session::open(*kind, url, tls, stop).await?;
    let session = Session { began: *seen_at, progress, only: Some(seen.clone()), ..session };
    let done = match change {
        Change::Replay => session.replay_agreed(selection, bulk, *dead_letters).await,
        Change::Discard(file, why) => match Lines::append_to(file) {
            Ok(lines) => session.discard_agreed(selection, bulk, *dead_letters, (lines, why)).await,
            Err(error) => Err(error),
        },
    };
    session.close().await;
    done
}

/// Looks at the first dead letters of the queue, up to a number or until their bodies have more
/// bytes than that, and says whether there are more. This requeues each of them once; it is for
/// topologies without a mirror.
///
/// # Errors
/// [`super::DeadLettersError`].
pub async fn look(
    kind: Kind,
    (most, most_bytes): (usize, usize),
    (url, tls): (&AmqpSource, &TlsFiles),
    stop: CancellationToken,
) -> Result<(Vec<DeadLetter>, bool)> {
    let session = Session::open(kind, url, tls, stop).await?;
    let (mut dead_letters, mut bytes) = (Vec::new(), 0);
    let mut there_is_more = false;
    let look = async |held: Delivery<DeadLetter>| {
        if dead_letters.len() == most || bytes > most_bytes {
            there_is_more = true;
            return Ok(Disposition::Enough(held));
        }
        bytes += held.message.body.len();
        dead_letters.push(held.message.clone());
        Ok(Disposition::Stays(held))
    };
    let passed = session.queue.go_through(&session.stop, look).await;
    session.close().await;
    passed.map(|pass| (dead_letters, there_is_more || pass != Pass::Through))
}

/// A line of an export.
pub fn export_line(dead_letter: &DeadLetter) -> String {
    serde_json::to_string(&print::exported(dead_letter)).unwrap_or_default() + "\n"
}
