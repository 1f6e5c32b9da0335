//! Looks at the consumed queues to notice a deaf consumer. `policy::consumer_health` decides
//! what counts as deaf.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::health::{Component, Health};
use crate::kind::Kind;
use crate::policy::consumer_health::{ConsumerHealth, HostSwitches, Look, StallSign};
use crate::rabbitmq::Session;

const EVERY: Duration = Duration::from_secs(2);
/// Time for messages that were ready at the start of a turn to arrive.
const SETTLED: Duration = Duration::from_secs(1);
/// How many looks between two attempts to declare a topology that the broker has not answered for.
const DECLARE_EVERY: usize = 15;

/// Deliveries of each kind in one session.
#[derive(Default)]
pub(super) struct Received([AtomicU64; Kind::ALL.len()]);

impl Received {
    pub(super) fn count(&self, kind: Kind) {
        self.of(kind).fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &AtomicU64 {
        &self.0[kind as usize]
    }

    fn all(&self) -> u64 {
        self.0.iter().map(|received| received.load(Ordering::Relaxed)).sum()
    }
}

/// The looks, and the session that they may give up.
pub(super) struct ConsumerWatch<'a> {
    session: &'a Session,
    health: &'a Health,
    host_switches: &'a Mutex<HostSwitches>,
    handlers: &'a TaskTracker,
    pub(super) received: Received,
    seen: Mutex<Seen>,
}

/// The observations of all turns of the session so far.
struct Seen {
    began: Instant,
    consumers: [ConsumerHealth; Kind::ALL.len()],
    looks: usize,
    next_look: Instant,
    /// All deliveries up to the last look.
    received: u64,
}

impl<'a> ConsumerWatch<'a> {
    pub(super) fn new(
        session: &'a Session,
        health: &'a Health,
        host_switches: &'a Mutex<HostSwitches>,
        handlers: &'a TaskTracker,
    ) -> Self {
        let now = Instant::now();
        let seen = Seen {
            began: now,
            consumers: Default::default(),
            looks: 0,
            next_look: now + EVERY,
            received: 0,
        };
        let received = Received::default();
        Self { session, health, host_switches, handlers, received, seen: Mutex::new(seen) }
    }

    /// Looks for as long as a turn lasts; resolves when the session is given up because nothing
    /// arrives.
    pub(super) async fn until_given_up(&self, kinds: &[Kind], prefetch: u16) {
        let settled = Instant::now() + SETTLED;
        loop {
            let next_look = self.seen().next_look.max(settled);
            sleep_until(next_look.into()).await;
            let looks = self.look(kinds, prefetch).await;
            let now = Instant::now();
            if self.report(&self.judge(&looks, now), now) {
                return;
            }
            let is_time_to_declare = {
                let mut seen = self.seen();
                seen.next_look = now.max(next_look + EVERY);
                seen.looks += 1;
                seen.looks.is_multiple_of(DECLARE_EVERY)
            };
            if is_time_to_declare && !self.session.is_topology_sure() {
                self.session.declare_again().await;
            }
        }
    }

    async fn look(&self, kinds: &[Kind], prefetch: u16) -> Vec<(Kind, Look)> {
        let asked = Instant::now();
        let has_room = self.handlers.len() < usize::from(prefetch);
        let received = kinds.iter().map(|kind| self.received.of(*kind).load(Ordering::Relaxed));
        let received: Vec<_> = received.collect();
        let queues: Vec<_> = kinds.iter().map(|kind| kind.queue()).collect();
        let depths = self.session.look(&queues).await;
        let is_mute = depths.iter().any(|answers| answers.len() < queues.len());
        // One question without an answer is enough: a look must not take too long.
        let has_majority = is_mute || self.has_majority(asked).await;
        let look = |(at, (kind, received)): (usize, (&Kind, u64))| {
            let ready = depths.each_ref().map(|answers| answers.get(at)?.map(|depth| depth.ready));
            (*kind, Look { ready, asked, received, has_room, has_majority })
        };
        kinds.iter().zip(received).enumerate().map(look).collect()
    }

    /// Asks only if nothing has arrived since the last look.
    async fn has_majority(&self, now: Instant) -> bool {
        let is_quiet = {
            let (mut seen, received) = (self.seen(), self.received.all());
            let is_quiet = std::mem::replace(&mut seen.received, received) == received;
            is_quiet && self.host_switches().may_ask(seen.began, now)
        };
        !is_quiet || self.session.reaches_majority().await
    }

    fn judge(&self, looks: &[(Kind, Look)], now: Instant) -> Vec<String> {
        let mut seen = self.seen();
        let judged = looks.iter().filter_map(|(kind, look)| {
            let sign = seen.consumers[*kind as usize].look(look, now)?;
            Some(reason(*kind, sign))
        });
        judged.collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host_switches(&self) -> MutexGuard<'_, HostSwitches> {
        self.host_switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports deaf consumers; `true` if the session is given up because of them.
    fn report(&self, deaf: &[String], now: Instant) -> bool {
        let Some(reason) = deaf.first() else {
            if self.health.set(Component::Consumer, None) {
                info!("the consumer gets messages again, or there are none");
            }
            return false;
        };
        if self.health.is_ready(Component::Consumer) {
            warn!("{reason}");
            self.health.set(Component::Consumer, Some(reason.clone()));
        }
        let is_due = self.host_switches().is_due(now);
        if is_due {
            self.session.give_up(reason.clone());
        }
        is_due
    }
}

fn reason(kind: Kind, sign: StallSign) -> String {
    let what = match sign {
        StallSign::Ready(ready) => format!("{ready} messages are ready"),
        StallSign::NoAnswer => "RabbitMQ does not answer".to_owned(),
        StallSign::NoMajority => {
            "RabbitMQ does not answer what needs a majority of its nodes".to_owned()
        }
    };
    format!("deaf: nothing comes from {}, and {what}", kind.queue())
}
