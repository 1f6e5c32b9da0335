//! Injects faults into workers, broker, network and API, as the seed decides, and keeps a journal
//! of them.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::parts::{Sandbox, Slot, TOKEN_MARK, now_ms};
use crate::plan::{Burst, FAULTY_ORGS};
use crate::records::InjectedFault;
use crate::witness::Witness;
use testkit::proxy::Direction;
use testkit::rabbitmq::Broker;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    WorkerKilled,
    WorkerTerminated,
    WorkerFrozen,
    WorkerAway,
    BrokerKilled,
    BrokerFrozen,
    BrokerRestarted,
    BrokerAlarm,
    EventsRejected,
    BrokerWireCut,
    BrokerWireFrozen,
    BrokerWireMuteToBroker,
    BrokerWireMuteFromBroker,
    ApiWireCut,
    ApiWireFrozen,
    Unavailable,
    ThrottledSeconds,
    ThrottledDate,
    TokenDead,
    HtmlNotFound,
    EndpointNotFound,
    Redirect,
    HtmlOk,
    Resets,
    AnswersLost,
    Hangs,
    Slow,
    OrgOut,
    OrgSlow,
    OrgThrottledWithZero,
}

use Family as F;

/// Faults of the processes and the network; kills come more often than the rest.
pub(crate) const INFRASTRUCTURE: [Family; 19] = [
    F::WorkerKilled,
    F::WorkerKilled,
    F::WorkerKilled,
    F::WorkerTerminated,
    F::WorkerFrozen,
    F::WorkerAway,
    F::BrokerKilled,
    F::BrokerKilled,
    F::BrokerKilled,
    F::BrokerFrozen,
    F::BrokerRestarted,
    F::BrokerAlarm,
    F::EventsRejected,
    F::BrokerWireCut,
    F::BrokerWireFrozen,
    F::BrokerWireMuteToBroker,
    F::BrokerWireMuteFromBroker,
    F::ApiWireCut,
    F::ApiWireFrozen,
];

/// Faults of the API.
pub(crate) const API: [Family; 15] = [
    F::Unavailable,
    F::ThrottledSeconds,
    F::ThrottledDate,
    F::TokenDead,
    F::HtmlNotFound,
    F::EndpointNotFound,
    F::Redirect,
    F::HtmlOk,
    F::Resets,
    F::AnswersLost,
    F::Hangs,
    F::Slow,
    F::OrgOut,
    F::OrgSlow,
    F::OrgThrottledWithZero,
];

/// Faults of one organisation each, all at the same time and for a long time, while the other
/// organisations have none.
pub(crate) const ORGANISATIONS: [Family; 4] =
    [F::OrgOut, F::OrgSlow, F::TokenDead, F::OrgThrottledWithZero];

/// The organisation that gets the long fault of a family of [`ORGANISATIONS`].
fn target_org(family: Family) -> &'static str {
    match family {
        F::OrgOut => FAULTY_ORGS[0],
        F::OrgSlow => FAULTY_ORGS[1],
        F::TokenDead => FAULTY_ORGS[2],
        _ => FAULTY_ORGS[3],
    }
}

/// The commands in front of all others: as many as can block the queue.
pub(crate) fn burst(family: Family) -> Burst {
    let share = match family {
        F::OrgOut => 12,
        F::OrgSlow => 4,
        _ => 40,
    };
    Burst { org: target_org(family), share }
}

/// Everything that faults are injected into, and the journal.
pub(crate) struct Nemesis {
    /// `None` in a campaign against a cluster.
    pub(crate) broker: Option<&'static Broker>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) sandbox: Sandbox,
    pub(crate) witness: Witness,
    pub(crate) tokens: PathBuf,
    pub(crate) journal: Mutex<Vec<InjectedFault>>,
    /// `Retry-After` in milliseconds, by the fault's number in the sandbox.
    pub(crate) retry_after: Mutex<HashMap<u64, i64>>,
}

impl Nemesis {
    /// Injects faults until `end`, and until each of the families had its turn; each round is in a
    /// new order.
    pub(crate) async fn inject_until(&self, families: &[Family], mut rng: Rng, end: Instant) {
        let mut had_all = families.is_empty();
        while !had_all || Instant::now() < end {
            let mut deck = families.to_vec();
            rng.shuffle(&mut deck);
            for family in deck {
                if had_all && Instant::now() >= end {
                    return;
                }
                sleep(Duration::from_millis(rng.u64(300..1500))).await;
                self.inject(family, &mut rng).await;
            }
            had_all = true;
            if families.is_empty() {
                return;
            }
        }
    }

    /// Injects one fault of each family, each into its own organisation, all at once.
    pub(crate) async fn inject_into_organisations(&self, families: &[Family], lasts: Duration) {
        let faults = families.iter().map(|family| async move {
            let from_ms = now_ms();
            self.inject_into_api(*family, target_org(*family), lasts).await;
            self.record(
                from_ms,
                *family,
                Some(target_org(*family)),
                format!("for {} ms", lasts.as_millis()),
            );
        });
        futures_util::future::join_all(faults).await;
    }

    async fn inject(&self, family: Family, rng: &mut Rng) {
        let from_ms = now_ms();
        let lasts = Duration::from_millis(rng.u64(800..2500));
        let slot = rng.usize(..self.slots.len());
        let org = FAULTY_ORGS[rng.usize(..FAULTY_ORGS.len())];
        if INFRASTRUCTURE.contains(&family) {
            self.inject_into_infrastructure(family, &self.slots[slot], lasts).await;
        } else {
            self.inject_into_api(family, org, lasts).await;
        }
        let what = format!("worker {slot}, for {} ms", lasts.as_millis());
        self.record(from_ms, family, family.is_of_one_organisation().then_some(org), what);
    }

    fn record(&self, from_ms: i64, family: Family, org: Option<&'static str>, what: String) {
        let hides = INFRASTRUCTURE.contains(&family) || family == Family::AnswersLost;
        let stops = org.is_some() && family != F::OrgSlow;
        let fault = InjectedFault {
            from_ms,
            to_ms: now_ms(),
            family: family.name(),
            org,
            stops,
            hides,
            what,
        };
        self.journal.lock().expect("a lock that is not poisoned").push(fault);
    }

    async fn inject_into_infrastructure(&self, family: Family, slot: &Slot, lasts: Duration) {
        let broker = self.broker.expect("a broker of our own");
        match family {
            F::WorkerKilled => slot.signal("KILL"),
            F::WorkerTerminated => slot.signal("TERM"),
            F::WorkerFrozen => during(lasts, || slot.signal("STOP"), || slot.signal("CONT")).await,
            F::WorkerAway => {
                let go = || {
                    slot.want(false);
                    slot.signal("KILL");
                };
                during(lasts, go, || slot.want(true)).await;
            }
            F::BrokerKilled => {
                blocking(|| broker.kill()).await;
                blocking(|| broker.start_again()).await;
            }
            F::BrokerFrozen => {
                blocking(|| broker.freeze()).await;
                sleep(2 * lasts).await;
                blocking(|| broker.thaw()).await;
            }
            F::BrokerRestarted => {
                blocking(|| broker.ctl(&["stop_app"])).await;
                blocking(|| broker.ctl(&["start_app"])).await;
            }
            F::BrokerAlarm => {
                blocking(|| broker.ctl(&["set_vm_memory_high_watermark", "0"])).await;
                sleep(lasts).await;
                blocking(|| broker.ctl(&["set_vm_memory_high_watermark", "0.6"])).await;
            }
            F::EventsRejected => {
                during(2 * lasts, || self.witness.consume(false), || self.witness.consume(true))
                    .await;
            }
            _ => self.inject_into_wire(family, slot, lasts).await,
        }
    }

    async fn inject_into_wire(&self, family: Family, slot: &Slot, lasts: Duration) {
        let wire = if matches!(family, F::ApiWireCut | F::ApiWireFrozen) {
            &slot.to_api
        } else {
            &slot.to_broker
        };
        let long = 3 * lasts;
        match family {
            F::BrokerWireFrozen | F::ApiWireFrozen => {
                during(long, || wire.freeze(), || wire.thaw()).await;
            }
            F::BrokerWireMuteToBroker => {
                during(long, || wire.freeze_one_way(Direction::ToTarget), || wire.thaw()).await;
            }
            F::BrokerWireMuteFromBroker => {
                during(long, || wire.freeze_one_way(Direction::FromTarget), || wire.thaw()).await;
            }
            _ => during(lasts, || wire.cut(), || wire.restore()).await,
        }
    }

    async fn inject_into_api(&self, family: Family, org: &str, lasts: Duration) {
        let for_ms = u64::try_from(lasts.as_millis()).unwrap_or(1000);
        let html = json!("<html><body>Not here</body></html>");
        let html = |status| json!({"status": status, "content_type": "text/html", "body": html});
        let (scope, effect) = match family {
            F::Unavailable => (json!({}), json!({"status": 503})),
            F::ThrottledSeconds => {
                (json!({"org_id": org}), json!({"status": 429, "headers": {"Retry-After": "2"}}))
            }
            F::ThrottledDate => (json!({"org_id": org}), json!({"retry_after_date_ms": 2000})),
            F::TokenDead => return self.rotate_the_token(org, lasts).await,
            F::HtmlNotFound => (json!({}), html(404)),
            F::EndpointNotFound => {
                (json!({}), json!({"status": 404, "body": {"code": "ENDPOINT_NOT_FOUND"}}))
            }
            F::Redirect => {
                (json!({}), json!({"status": 302, "headers": {"Location": "/elsewhere"}}))
            }
            F::HtmlOk => (json!({}), html(200)),
            F::Resets => (json!({}), json!({"lose_answer": "before_effect"})),
            F::AnswersLost => (json!({}), json!({"lose_answer": "after_effect"})),
            F::Hangs => (json!({}), json!({"hang": true, "after_effect": true})),
            F::OrgOut => (json!({"org_id": org}), json!({"status": 500})),
            F::OrgSlow => (json!({"org_id": org}), json!({"latency_ms": 2500})),
            F::OrgThrottledWithZero => {
                (json!({"org_id": org}), json!({"status": 429, "headers": {"Retry-After": "0"}}))
            }
            _ => (json!({}), json!({"latency_ms": 400})),
        };
        let probability = if matches!(family, F::AnswersLost | F::Hangs) { 0.4 } else { 1.0 };
        let fault =
            json!({"match": scope, "for_ms": for_ms, "probability": probability, "effect": effect});
        let number = self.sandbox.fault(fault).await;
        if matches!(family, F::ThrottledSeconds | F::ThrottledDate) {
            self.retry_after.lock().expect("a lock that is not poisoned").insert(number, 2000);
        }
        sleep(lasts).await;
    }

    /// The API accepts another token at once; the worker gets it later.
    async fn rotate_the_token(&self, org: &str, lasts: Duration) {
        let token = format!("{TOKEN_MARK}-{}", now_ms());
        self.sandbox.set_token(org, &token).await;
        sleep(lasts).await;
        let (fresh, place) = (self.tokens.join(format!(".{org}")), self.tokens.join(org));
        fs::write(&fresh, token).and_then(|()| fs::rename(&fresh, place)).expect("a token file");
    }
}

async fn during(lasts: Duration, begin: impl FnOnce(), end: impl FnOnce()) {
    begin();
    sleep(lasts).await;
    end();
}

/// On a thread of its own, so that producer and workers are not held up.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(work).await.expect("a fault of the broker does not panic");
}

impl Family {
    fn is_of_one_organisation(self) -> bool {
        matches!(self, F::ThrottledSeconds | F::ThrottledDate) || ORGANISATIONS.contains(&self)
    }

    /// The name in the journal.
    pub(crate) fn name(self) -> &'static str {
        match self {
            F::WorkerKilled => "worker to be killed",
            F::WorkerTerminated => "worker to be terminated",
            F::WorkerFrozen => "worker frozen",
            F::WorkerAway => "worker away",
            F::BrokerKilled => "broker killed",
            F::BrokerFrozen => "broker frozen",
            F::BrokerRestarted => "broker restarted",
            F::BrokerAlarm => "broker out of memory",
            F::EventsRejected => "events rejected",
            F::BrokerWireCut => "wire to the broker cut",
            F::BrokerWireFrozen => "wire to the broker frozen",
            F::BrokerWireMuteToBroker => "wire mute towards the broker",
            F::BrokerWireMuteFromBroker => "wire mute from the broker",
            F::ApiWireCut => "wire to the API cut",
            F::ApiWireFrozen => "wire to the API frozen",
            F::Unavailable => "API: 503",
            F::ThrottledSeconds => "API: 429 with seconds",
            F::ThrottledDate => "API: 429 with a date",
            F::TokenDead => "API: token dead, replaced later",
            F::HtmlNotFound => "API: HTML 404",
            F::EndpointNotFound => "API: ENDPOINT_NOT_FOUND",
            F::Redirect => "API: 302",
            F::HtmlOk => "API: HTML 200",
            F::Resets => "API: resets",
            F::AnswersLost => "API: answers lost after the effect",
            F::Hangs => "API: hangs after the effect",
            F::Slow => "API: slow",
            F::OrgOut => "API: one organisation out",
            F::OrgSlow => "API: one organisation slow",
            F::OrgThrottledWithZero => "API: 429 with Retry-After: 0",
        }
    }
}
