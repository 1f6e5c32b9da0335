//! The dead letters of a kind as the console sees them: from their mirror, and from a look into
//! their queue where there is no mirror or it lacks some. One look at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::watch::Following;
use crate::dead_letters::look;
use crate::kind::Kind;
use crate::messages::DeadLetter;

/// How many dead letters a look covers.
pub(super) const MOST: usize = 200;
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The dead letters that were seen, the latest first.
pub(super) struct Seen {
    /// Each with the name of its page.
    pub(super) dead_letters: Vec<(String, Arc<DeadLetter>)>,
    pub(super) how: How,
}

/// How the dead letters are seen.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// In the mirror. It may not be read to its end yet, and may have dropped the oldest. And in
    /// the last look into the queue, if there was one, the dead letters that the mirror lacks.
    Mirror { is_whole: bool, forgotten: usize, looked_at: Option<Timestamp> },
    /// In the last look into the queue, if there was one.
    Look { why: String, at: Option<Timestamp>, there_is_more: bool },
}

/// The last look into a queue.
pub(super) struct Look {
    at: Timestamp,
    dead_letters: Vec<Arc<DeadLetter>>,
    there_is_more: bool,
}

/// The last look into the queue of each kind.
pub(super) struct LastLooks<T> {
    /// Held for as long as a look lasts: there is one reader at a time. No page waits for it.
    pub(super) looking: tokio::sync::Mutex<()>,
    last: Mutex<HashMap<Kind, T>>,
}

impl<T> Default for LastLooks<T> {
    fn default() -> Self {
        Self { looking: tokio::sync::Mutex::default(), last: Mutex::default() }
    }
}

impl<T> LastLooks<T> {
    pub(super) fn last(&self) -> MutexGuard<'_, HashMap<Kind, T>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All known dead letters; takes nothing from the queue.
pub(super) fn seen(shared: &Shared, kind: Kind) -> Seen {
    let looks = shared.looks.last();
    if let Some(mirror) = shared.watched.mirror(kind)
        && !matches!(mirror.following, Following::Absent(_))
    {
        let is_whole = mirror.following == Following::Live;
        let last = looks.get(&kind);
        let (forgotten, looked_at) = (mirror.state.forgotten(), last.map(|last| last.at));
        let named = |(offset, dead_letter): (u64, &Arc<DeadLetter>)| {
            (format!("m{offset}"), dead_letter.clone())
        };
        let known = mirror.state.dead_letters().rev().map(named);
        let looked = last.into_iter().flat_map(Look::named);
        let unknown = looked.filter(|(_, dead_letter)| !mirror.state.knows(dead_letter));
        let how = How::Mirror { is_whole, forgotten, looked_at };
        return Seen { dead_letters: known.chain(unknown).collect(), how };
    }
    let why = match shared.watched.mirror(kind).map(|mirror| mirror.following.clone()) {
        Some(Following::Absent(why)) => why,
        _ => "this console does not serve the kind".to_owned(),
    };
    let Some(last) = looks.get(&kind) else {
        return Seen {
            dead_letters: Vec::new(),
            how: How::Look { why, at: None, there_is_more: false },
        };
    };
    let how = How::Look { why, at: Some(last.at), there_is_more: last.there_is_more };
    Seen { dead_letters: last.named().collect(), how }
}

impl Look {
    /// The latest first.
    fn named(&self) -> impl Iterator<Item = (String, Arc<DeadLetter>)> {
        let numbered = self.dead_letters.iter().enumerate().rev();
        numbered.map(|(number, dead_letter)| (format!("s{number}"), dead_letter.clone()))
    }
}

/// Looks into the queue, which requeues each dead letter once.
pub(super) async fn look_again(shared: &Arc<Shared>, kind: Kind) -> Result<(), String> {
    let _only_one = shared.looks.looking.lock().await;
    let (at, runtime, work_with) = (Timestamp::now(), Handle::current(), Arc::clone(shared));
    let looking = tokio::task::spawn_blocking(move || {
        runtime.block_on(look(
            kind,
            (MOST, MOST_BYTES),
            work_with.broker(),
            CancellationToken::new(),
        ))
    });
    let looked = looking.await.map_err(|error| error.to_string())?;
    let (dead_letters, there_is_more) = looked.map_err(|error| error.to_string())?;
    let dead_letters = dead_letters.into_iter().map(Arc::new).collect();
    shared.looks.last().insert(kind, Look { at, dead_letters, there_is_more });
    Ok(())
}
