//! Looks at the queues that are consumed, to notice that the consumer is deaf. What that means is
//! decided in `policy::hearing`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::health::{Component, Health};
use crate::kind::Kind;
use crate::policy::hearing::{Hearing, Look, Moves, Sign, Told};
use crate::rabbitmq::Session;

const EVERY: Duration = Duration::from_secs(2);
/// Looks between two tries to declare what the broker has not answered for.
const DECLARE_EVERY: usize = 15;

/// Deliveries of each kind in one turn.
#[derive(Default)]
pub(super) struct Received([AtomicU64; Kind::ALL.len()]);

impl Received {
    pub(super) fn count(&self, kind: Kind) {
        self.of(kind).fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> &AtomicU64 {
        &self.0[kind as usize]
    }
}

/// What looks, and what it gives up.
pub(super) struct Listener<'a> {
    pub(super) session: &'a Session,
    pub(super) health: &'a Health,
    pub(super) moves: &'a Mutex<Moves>,
    pub(super) handlers: &'a TaskTracker,
}

impl Listener<'_> {
    /// Looks for as long as a turn lasts; resolves when the session is given up because nothing is
    /// heard in it.
    pub(super) async fn until_given_up(&self, kinds: &[Kind], prefetch: u16, received: &Received) {
        let mut hearings: Vec<_> = kinds.iter().map(|kind| (*kind, Hearing::default())).collect();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // At once.
        ticks.tick().await;
        for look in 1.. {
            ticks.tick().await;
            let has_room = self.handlers.len() < usize::from(prefetch);
            let looks = hearings.iter().map(async |(kind, _)| {
                let asked = Instant::now();
                let received = received.of(*kind).load(Ordering::Relaxed);
                let told = self.session.look(kind.queue()).await;
                let told = told.map(|depth| {
                    depth.map(|depth| Told { ready: depth.ready, consumers: depth.consumers })
                });
                Look { told, asked, received, has_room }
            });
            let looks = join_all(looks).await;
            let now = Instant::now();
            let judged = hearings.iter_mut().zip(looks);
            let deaf = judged.filter_map(|((kind, hearing), look)| {
                hearing.look(&look, now).map(|sign| reason(*kind, sign))
            });
            let deaf: Vec<_> = deaf.collect();
            if self.tell(&deaf, now) {
                return;
            }
            if look % DECLARE_EVERY == 0 && !self.session.is_topology_sure() {
                self.session.declare_again().await;
            }
        }
    }

    /// Tells what is deaf; `true` when the session is given up for it.
    fn tell(&self, deaf: &[String], now: Instant) -> bool {
        let Some(reason) = deaf.first() else {
            if self.health.set(Component::Hearing, None) {
                info!("the consumer gets messages again, or there are none");
            }
            return false;
        };
        if self.health.is_ready(Component::Hearing) {
            warn!("{reason}");
            self.health.set(Component::Hearing, Some(reason.clone()));
        }
        let is_due = self.moves.lock().unwrap_or_else(PoisonError::into_inner).is_due(now);
        if is_due {
            self.session.give_up(reason.clone());
        }
        is_due
    }
}

fn reason(kind: Kind, sign: Sign) -> String {
    let what = match sign {
        Sign::Ready(ready) => format!("{ready} messages are ready"),
        Sign::NoConsumer => "RabbitMQ knows of no consumer".to_owned(),
        Sign::NoAnswer => "RabbitMQ does not answer".to_owned(),
    };
    format!("deaf: nothing comes from {}, and {what}", kind.queue())
}
