//! Follows the streams that can be read without taking anything: the mirrors of the dead letters
//! and the ledger. Writes nothing.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, select_all};
use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shared;
use crate::kind::Kind;
use crate::messages::ledger::{LedgerEntry, LedgerRecord};
use crate::policy::brakes::Brakes;
use crate::policy::remaining_dead_letters::RemainingDeadLetters;
use crate::rabbitmq::ledger::LedgerReader;
use crate::rabbitmq::mirror::MirrorReader;
use crate::rabbitmq::{BrokerError, Connection};

/// A stream that has been quiet for this long has been read to its end.
const QUIET: Duration = Duration::from_millis(400);
const AGAIN: Duration = Duration::from_secs(2);
/// When to try again to read a stream that does not exist or may not be read.
const ABSENT_AGAIN: Duration = Duration::from_secs(20);
const MOST_DECISIONS: usize = 20;

/// How far a stream has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Following {
    /// Existing records are still being read.
    Reading,
    /// Up to date.
    Live,
    /// The stream does not exist, or this user may not read it.
    Absent(String),
}

/// A stream, folded into a state.
pub(super) struct Followed<S> {
    pub(super) state: S,
    pub(super) following: Following,
    next: u64,
}

/// Guards and pauses, with the last decisions about them.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) brakes: Brakes,
    pub(super) decisions: VecDeque<LedgerRecord>,
}

/// Everything that is followed.
pub(super) struct Watched {
    mirrors: HashMap<Kind, Mutex<Followed<RemainingDeadLetters>>>,
    ledger: Mutex<Followed<Ledger>>,
    connection: Mutex<Result<Arc<Connection>, Trouble>>,
}

/// Since when there is no connection, and why.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) since: Timestamp,
    pub(super) why: String,
}

impl<S: Default> Default for Followed<S> {
    fn default() -> Self {
        Self { state: S::default(), following: Following::Reading, next: 0 }
    }
}

impl Watched {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        let mirrors = kinds.iter().map(|kind| (*kind, Mutex::default())).collect();
        let why = "connecting".to_owned();
        let connection = Mutex::new(Err(Trouble { since: Timestamp::now(), why }));
        Self { mirrors, ledger: Mutex::default(), connection }
    }

    /// The mirror of a kind that the console serves.
    pub(super) fn mirror(
        &self,
        kind: Kind,
    ) -> Option<MutexGuard<'_, Followed<RemainingDeadLetters>>> {
        self.mirrors.get(&kind).map(lock)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Followed<Ledger>> {
        lock(&self.ledger)
    }

    /// # Errors
    /// Why there is none, and since when: the shown data is as old as that.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, Trouble> {
        lock(&self.connection).clone()
    }

    fn has_lost(&self, error: &BrokerError) {
        let mut connection = lock(&self.connection);
        let since = connection.as_ref().err().map_or_else(Timestamp::now, |known| known.since);
        *connection = Err(Trouble { since, why: error.to_string() });
    }
}

fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows until `stop` fires, and reconnects when a connection is lost.
pub(super) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let (url, tls) = shared.broker();
    let mut is_known = false;
    while !stop.is_cancelled() {
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = Connection::open(url, tls, "console") => opened,
        };
        let error = match opened {
            Ok(connection) => {
                info!(broker = connection.name(), "the console looks");
                is_known = false;
                let connection = Arc::new(connection);
                *lock(&shared.watched.connection) = Ok(Arc::clone(&connection));
                let lost = tokio::select! {
                    () = stop.cancelled() => None,
                    error = until_lost(&shared, &connection) => Some(error),
                };
                connection.close().await;
                let Some(error) = lost else { return };
                error
            }
            Err(error) => error,
        };
        if !is_known {
            warn!("the console sees nothing new: {error}");
        }
        is_known = true;
        shared.watched.has_lost(&error);
        tokio::select! { () = stop.cancelled() => {} () = sleep(AGAIN) => {} }
    }
}

async fn until_lost(shared: &Shared, connection: &Connection) -> BrokerError {
    let watched = &shared.watched;
    let mirrors =
        watched.mirrors.iter().map(|(kind, followed)| -> LocalBoxFuture<'_, BrokerError> {
            let open = async |from| MirrorReader::open(connection, *kind, from).await;
            let next = async |reader: &mut MirrorReader| reader.next().await;
            let apply =
                |mirror: &mut RemainingDeadLetters, record, offset| mirror.apply(record, offset);
            follow(followed, open, next, apply).boxed_local()
        });
    let ledger = {
        let open = async |from| LedgerReader::open(connection, from).await;
        let next = async |reader: &mut LedgerReader| reader.next().await;
        follow(&watched.ledger, open, next, Ledger::apply).boxed_local()
    };
    select_all(mirrors.chain([ledger])).await.0
}

/// Reads one stream continuously until the connection is lost.
async fn follow<S: Default, Reader, Record>(
    followed: &Mutex<Followed<S>>,
    open: impl AsyncFn(u64) -> Result<Reader, BrokerError>,
    next: impl AsyncFn(&mut Reader) -> Result<(u64, Option<Record>), BrokerError>,
    apply: impl Fn(&mut S, Record, u64),
) -> BrokerError {
    loop {
        let from = lock(followed).next;
        let mut reader = match open(from).await {
            Ok(reader) => reader,
            Err(error) if error.refusal().is_some() => {
                *lock(followed) = Followed {
                    following: Following::Absent(error.to_string()),
                    ..Followed::default()
                };
                sleep(ABSENT_AGAIN).await;
                continue;
            }
            Err(error) => return error,
        };
        lock(followed).following = Following::Reading;
        let ended = loop {
            let read = {
                // Dropping it halfway would lose a record.
                let mut record = pin!(next(&mut reader));
                if let Ok(read) = timeout(QUIET, &mut record).await {
                    read
                } else {
                    lock(followed).following = Following::Live;
                    record.await
                }
            };
            let (offset, record) = match read {
                Ok(read) => read,
                Err(error) => break error,
            };
            let mut followed = lock(followed);
            followed.next = offset + 1;
            if let Some(record) = record {
                apply(&mut followed.state, record, offset);
            }
        };
        if !matches!(ended, BrokerError::ConsumerEnded { .. }) {
            return ended;
        }
        // The stream was deleted or declared again, so its offsets start again too.
        *lock(followed) = Followed::default();
    }
}

impl Ledger {
    fn apply(&mut self, record: LedgerRecord, offset: u64) {
        if is_decision(&record.entry) {
            self.decisions.push_front(record.clone());
            self.decisions.truncate(MOST_DECISIONS);
        }
        self.brakes.apply(record, offset);
    }
}

fn is_decision(entry: &LedgerEntry) -> bool {
    matches!(
        entry,
        LedgerEntry::Granted { .. }
            | LedgerEntry::Rearmed { .. }
            | LedgerEntry::Paused { .. }
            | LedgerEntry::Resumed { .. }
    )
}
