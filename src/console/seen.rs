//! The dead letters of a kind as the console sees them: from their mirror or, if there is none,
//! from a look into their queue. One look at a time.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::watch::Following;
use crate::dead_letters::look;
use crate::kind::Kind;
use crate::messages::DeadLetter;

/// How many dead letters a look without a mirror covers.
pub(super) const MOST: usize = 200;

/// The dead letters that were seen, the latest first.
pub(super) struct Seen {
    /// Each with the name of its page.
    pub(super) dead_letters: Vec<(String, Arc<DeadLetter>)>,
    pub(super) how: How,
}

/// How the dead letters are seen.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// In the mirror. It may not be read to its end yet, and may have dropped the oldest.
    Mirror { is_whole: bool, forgotten: usize },
    /// In the last look into the queue, if there was one.
    Look { why: String, at: Option<Timestamp>, there_is_more: bool },
}

/// The last look into a queue.
#[derive(Default)]
struct Look {
    at: Option<Timestamp>,
    dead_letters: Vec<Arc<DeadLetter>>,
    there_is_more: bool,
}

/// By kind. The holder of the lock is the only reader.
#[derive(Default)]
pub(super) struct Looks(Mutex<HashMap<Kind, Look>>);

/// All known dead letters; takes nothing from the queue.
pub(super) async fn seen(shared: &Shared, kind: Kind) -> Seen {
    if let Some(mirror) = shared.watched.mirror(kind)
        && !matches!(mirror.following, Following::Absent(_))
    {
        let is_whole = mirror.following == Following::Live;
        let how = How::Mirror { is_whole, forgotten: mirror.state.forgotten() };
        let named = |(offset, dead_letter): (u64, &Arc<DeadLetter>)| {
            (format!("m{offset}"), dead_letter.clone())
        };
        return Seen { dead_letters: mirror.state.dead_letters().rev().map(named).collect(), how };
    }
    let why = match shared.watched.mirror(kind).map(|mirror| mirror.following.clone()) {
        Some(Following::Absent(why)) => why,
        _ => "this console does not serve the kind".to_owned(),
    };
    let looks = shared.looks.0.lock().await;
    let Some(last) = looks.get(&kind) else {
        return Seen {
            dead_letters: Vec::new(),
            how: How::Look { why, at: None, there_is_more: false },
        };
    };
    let named = |(number, dead_letter): (usize, &Arc<DeadLetter>)| {
        (format!("s{number}"), dead_letter.clone())
    };
    let dead_letters = last.dead_letters.iter().enumerate().rev().map(named).collect();
    let how = How::Look { why, at: last.at, there_is_more: last.there_is_more };
    Seen { dead_letters, how }
}

/// Looks into the queue, which requeues each dead letter once.
pub(super) async fn look_again(shared: &Arc<Shared>, kind: Kind) -> Result<(), String> {
    let mut looks = shared.looks.0.lock().await;
    let (at, runtime, shared) = (Timestamp::now(), Handle::current(), Arc::clone(shared));
    let looking = tokio::task::spawn_blocking(move || {
        runtime.block_on(look(kind, MOST, shared.broker(), CancellationToken::new()))
    });
    let looked = looking.await.map_err(|error| error.to_string())?;
    let (dead_letters, there_is_more) = looked.map_err(|error| error.to_string())?;
    let dead_letters = dead_letters.into_iter().map(Arc::new).collect();
    looks.insert(kind, Look { at: Some(at), dead_letters, there_is_more });
    Ok(())
}
