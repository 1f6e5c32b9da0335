//! The scripted faults: which one applies to a request, and which are used up. Pure: the time and
//! the request are arguments, randomness is seeded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::Call;
use crate::chance::Chance;
use crate::fault_effects::{Effect, EffectSpec, Moment};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultSpec {
    #[serde(default, rename = "match")]
    matcher: Matcher,
    times: Option<u64>,
    for_ms: Option<u64>,
    probability: Option<f64>,
    effect: EffectSpec,
}

/// All members that are given must match.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matcher {
    org_id: Option<String>,
    task_id: Option<String>,
    method: Option<String>,
    path_contains: Option<String>,
}

#[derive(Debug)]
struct Fault {
    id: u64,
    matcher: Matcher,
    remaining: Option<u64>,
    until: Option<Instant>,
    probability: f64,
    effect: Arc<Effect>,
    hits: u64,
    as_posted: Value,
}

/// What is to happen to a request.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The fault that the ledger names: the one that answers, otherwise the first that adds
    /// latency.
    pub(crate) fault: Option<u64>,
    pub(crate) latency_before: Duration,
    pub(crate) latency_after: Duration,
    /// A fault that answers; never one of pure latency.
    pub(crate) answering: Option<Arc<Effect>>,
}

#[derive(Debug)]
pub(crate) struct Faults {
    scripted: Vec<Fault>,
    last_id: u64,
    chance: Chance,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self { scripted: Vec::new(), last_id: 0, chance: Chance::new(seed) }
    }

    pub(crate) fn add(&mut self, as_posted: Value, now: Instant) -> Result<u64, String> {
        let spec = FaultSpec::deserialize(&as_posted).map_err(|error| error.to_string())?;
        self.scripted.push(Fault::new(self.last_id + 1, spec, as_posted, now)?);
        self.last_id += 1;
        Ok(self.last_id)
    }

    pub(crate) fn clear(&mut self) -> usize {
        self.scripted.drain(..).count()
    }

    /// How many were removed: one or none.
    pub(crate) fn remove(&mut self, id: u64) -> usize {
        let before = self.scripted.len();
        self.scripted.retain(|fault| fault.id != id);
        before - self.scripted.len()
    }

    pub(crate) fn list(&self, now: Instant) -> Vec<Value> {
        self.scripted.iter().map(|fault| fault.listing(now)).collect()
    }

    /// The first fault that answers wins, and those of pure latency add up. Each fault that applies
    /// is used once.
    pub(crate) fn plan_for(&mut self, call: &Call, now: Instant) -> Plan {
        let mut plan = Plan::default();
        for fault in &mut self.scripted {
            let is_pure_latency = fault.effect.reply.is_none();
            if (plan.answering.is_none() || is_pure_latency)
                && fault.applies(call, now, &mut self.chance)
            {
                plan.include(fault);
            }
        }
        plan
    }
}

impl Plan {
    fn include(&mut self, fault: &Fault) {
        match fault.effect.moment {
            Moment::BeforeEffect => self.latency_before += fault.effect.latency,
            Moment::AfterEffect => self.latency_after += fault.effect.latency,
        }
        if fault.effect.reply.is_some() {
            self.answering = Some(Arc::clone(&fault.effect));
            self.fault = Some(fault.id);
        }
        self.fault = self.fault.or(Some(fault.id));
    }
}

impl Fault {
    fn new(id: u64, spec: FaultSpec, as_posted: Value, now: Instant) -> Result<Self, String> {
        if spec.times == Some(0) || spec.for_ms == Some(0) {
            return Err("times and for_ms must be 1 or more".to_owned());
        }
        let probability = spec.probability.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&probability) {
            return Err(format!("probability must be 0 to 1, not {probability}"));
        }
        Ok(Self {
            id,
            matcher: spec.matcher,
            remaining: spec.times,
            until: spec.for_ms.and_then(|ms| now.checked_add(Duration::from_millis(ms))),
            probability,
            effect: Arc::new(spec.effect.try_into()?),
            hits: 0,
            as_posted,
        })
    }

    fn applies(&mut self, call: &Call, now: Instant, chance: &mut Chance) -> bool {
        let applies = self.remaining != Some(0)
            && self.until.is_none_or(|until| now < until)
            && self.matcher.matches(call)
            && chance.draw(self.probability);
        if applies {
            self.remaining = self.remaining.map(|remaining| remaining - 1);
            self.hits += 1;
        }
        applies
    }

    fn listing(&self, now: Instant) -> Value {
        let left = |until: Instant| u64::try_from(until.saturating_duration_since(now).as_millis());
        let expires_in_ms = self.until.and_then(|until| left(until).ok());
        json!({
            "id": self.id, "remaining": self.remaining, "expires_in_ms": expires_in_ms,
            "hits": self.hits, "fault": self.as_posted,
        })
    }
}

impl Matcher {
    fn matches(&self, call: &Call) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        is(&self.org_id, call.org_id.as_deref())
            && is(&self.task_id, call.task_id.as_deref())
            && self
                .method
                .as_ref()
                .is_none_or(|method| method.eq_ignore_ascii_case(call.method.as_str()))
            && self.path_contains.as_ref().is_none_or(|part| call.path.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(task_id: &str) -> Call {
        let uri = format!("/api/organizations/o/tasks/{task_id}/delete");
        Call::read(&hyper::Request::delete(uri).body(()).unwrap().into_parts().0)
    }

    fn with(faults: &[Value]) -> (Faults, Instant) {
        let (mut all, now) = (Faults::new(1), Instant::now());
        for fault in faults {
            all.add(fault.clone(), now).unwrap();
        }
        (all, now)
    }

    #[test]
    fn the_first_that_matches_and_is_not_used_up_wins() {
        let (mut faults, now) = with(&[
            json!({"match": {"task_id": "t1"}, "times": 1, "effect": {"status": 500}}),
            json!({"times": 2, "effect": {"status": 503}}),
        ]);
        let chosen: Vec<_> =
            ["t2", "t1", "t1", "t1"].map(|task| faults.plan_for(&call(task), now).fault).into();
        assert_eq!(chosen, [Some(2), Some(1), Some(2), None]);
        assert_eq!(faults.list(now)[1]["remaining"], 0);
    }

    #[test]
    fn pure_latency_combines_with_the_fault_that_answers() {
        let (mut faults, now) = with(&[
            json!({"effect": {"latency_ms": 5}}),
            json!({"effect": {"status": 503, "latency_ms": 7}}),
            json!({"effect": {"status": 500}}),
            json!({"effect": {"latency_ms": 11, "after_effect": true}}),
        ]);
        let plan = faults.plan_for(&call("t"), now);
        assert_eq!(plan.fault, Some(2));
        assert_eq!(plan.latency_before.as_millis(), 12);
        assert_eq!(plan.latency_after.as_millis(), 11);
    }

    #[test]
    fn for_ms_ends_a_fault() {
        let (mut faults, now) = with(&[json!({"for_ms": 100, "effect": {"hang": true}})]);
        assert!(faults.plan_for(&call("t"), now + Duration::from_millis(99)).answering.is_some());
        assert!(faults.plan_for(&call("t"), now + Duration::from_millis(100)).answering.is_none());
    }

    #[test]
    fn all_members_of_a_match_must_match() {
        let (mut faults, now) = with(&[json!({
            "match": {"org_id": "o", "method": "delete", "path_contains": "/delete"},
            "effect": {"status": 503},
        })]);
        assert!(faults.plan_for(&call("t"), now).answering.is_some());
        let archive =
            hyper::Request::delete("/api/organizations/o/tasks/t").body(()).unwrap().into_parts().0;
        assert!(faults.plan_for(&Call::read(&archive), now).answering.is_none());
    }

    #[test]
    fn a_probability_holds_and_only_hits_count_as_uses() {
        let (mut faults, now) = with(&[json!({"probability": 0.3, "effect": {"status": 503}})]);
        let hits = (0..1_000).filter(|_| faults.plan_for(&call("t"), now).fault.is_some()).count();
        assert!((230..370).contains(&hits), "{hits}");
        assert_eq!(faults.list(now)[0]["hits"], hits);
    }

    #[test]
    fn an_invalid_fault_is_refused_and_gets_no_number() {
        let (mut faults, now) = with(&[]);
        for senseless in [
            json!({"effect": {"status": 503}, "times": 0}),
            json!({"effect": {"status": 503}, "probability": 1.5}),
            json!({"effect": {"status": 503}, "match": {"task": "t"}}),
            json!({"effect": {"status": 503}, "time": 2}),
            json!({"times": 2}),
        ] {
            assert!(faults.add(senseless.clone(), now).is_err(), "{senseless}");
        }
        assert_eq!(faults.add(json!({"effect": {"hang": true}}), now), Ok(1));
    }
}
