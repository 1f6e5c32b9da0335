//! Workers with one known fault each, which the checker must find.

use std::time::Duration;

use crate::checker::Kind;
use crate::nemesis::Family;
use crate::variants::Change;

/// A worker with a fault, and the finding that it must cause.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) changes: &'static [Change],
    /// The faults that are injected.
    pub(crate) families: &'static [Family],
    /// The faults of single organisations that are injected before.
    pub(crate) organisations: &'static [Family],
    /// Guard, pauses, cancellations and undo are in use, and an operator decides.
    pub(crate) with_brakes: bool,
    pub(crate) commands: usize,
    /// For how long they are sent.
    pub(crate) time: Duration,
    /// One of these must be found.
    pub(crate) found: &'static [Kind],
}

/// A short campaign with faults of all organisations.
const SHORT: Mutant = Mutant {
    name: "",
    changes: &[],
    families: &[],
    organisations: &[],
    with_brakes: false,
    commands: 400,
    time: Duration::from_secs(15),
    found: &[],
};
/// Only single organisations have faults.
const OF_ORGANISATIONS: Mutant = Mutant { commands: 1600, time: Duration::from_secs(30), ..SHORT };
/// No faults; only an operator decides.
const WITH_BRAKES: Mutant =
    Mutant { with_brakes: true, commands: 600, time: Duration::from_secs(24), ..SHORT };

/// All of them.
pub(crate) const MUTANTS: [Mutant; 10] = [
    Mutant {
        name: "mutant-acknowledges-early",
        changes: &[(
            "src/worker/settle.rs",
            &[
                (
                    "        let incoming = delivery.incoming();",
                    "        let incoming = &delivery.incoming().clone();\n        let _ = delivery.acknowledge().await;",
                ),
                (
                    "            if is_too_large { delivery.reject().await } else { delivery.acknowledge().await };",
                    "            !is_too_large;",
                ),
            ],
        )],
        families: &[Family::WorkerKilled, Family::EventsRejected],
        found: &[Kind::Lost],
        ..SHORT
    },
    Mutant {
        name: "mutant-takes-any-404-for-success",
        changes: &[(
            "src/policy/verdict.rs",
            &[(
                "        400..=499 => decide_by_body(response.status, &response.body),",
                "        404 => Verdict::AlreadyAbsent,\n        400..=499 => decide_by_body(response.status, &response.body),",
            )],
        )],
        families: &[Family::EndpointNotFound, Family::HtmlNotFound],
        found: &[Kind::FalseEnd],
        ..SHORT
    },
    Mutant {
        name: "mutant-skips-the-confirm",
        changes: &[(
            "src/rabbitmq/publisher.rs",
            &[(
                "        let confirmation = confirm.await?;",
                "        drop(confirm);\n        let confirmation = Confirmation::Ack(None);",
            )],
        )],
        families: &[Family::EventsRejected],
        found: &[Kind::Lost, Kind::HalfDead],
        ..SHORT
    },
    Mutant {
        name: "mutant-does-not-say-which-end-holds",
        changes: &[(
            "src/messages/event.rs",
            &[(
                "        let failed_event = self.outcome.kind.spec().failed_event;",
                "        let failed_event = self.outcome.kind.spec().done_event;",
            )],
        )],
        families: &[Family::WorkerKilled],
        found: &[Kind::TwoEnds],
        ..SHORT
    },
    Mutant {
        name: "mutant-dead-letters-on-an-outage",
        changes: &[(
            "src/policy/next_step.rs",
            &[(
                "        Verdict::Throttled | Verdict::Unauthorized | Verdict::NotReached | Verdict::Misdirected => {",
                "        Verdict::Misdirected => NextStep::DeadLetter(FailureReason::Rejected),\n        \
                 Verdict::Throttled | Verdict::Unauthorized | Verdict::NotReached => {",
            )],
        )],
        families: &[Family::EndpointNotFound, Family::HtmlNotFound],
        found: &[Kind::WronglyDead],
        ..SHORT
    },
    Mutant {
        name: "mutant-never-suspends-who-fails",
        changes: &[(
            "src/policy/api_access/organisation.rs",
            &[(
                "            _ if self.streak.is_full() => {",
                "            _ if self.streak.is_full() && false => {",
            )],
        )],
        organisations: &[Family::OrgOut],
        found: &[Kind::DeadWhileOut],
        ..OF_ORGANISATIONS
    },
    Mutant {
        name: "mutant-lets-the-suspended-stand-in-the-way",
        changes: &[(
            "src/worker/permits.rs",
            &[(
                "        shared.access.intake(now) != Intake::Bulk && shared.held.may_stay(org, waited, callable)",
                "        let _ = (org, callable);\n        waited < LONGEST_WAIT",
            )],
        )],
        organisations: &[Family::OrgOut],
        found: &[Kind::Delayed],
        ..OF_ORGANISATIONS
    },
    Mutant {
        name: "mutant-lets-the-slow-stand-in-the-way",
        changes: &[(
            "src/worker/permits.rs",
            &[(
                "            if waited >= PATIENCE && shared.access.is_slow(org, now) {",
                "            if waited >= LONGEST_WAIT && shared.access.is_slow(org, now) {",
            )],
        )],
        organisations: &[Family::OrgSlow],
        found: &[Kind::Delayed],
        ..OF_ORGANISATIONS
    },
    Mutant {
        name: "mutant-spends-permits-without-counting",
        changes: &[(
            "src/worker/ledger/admission.rs",
            &[("self.within(BRIEF, |unspent| *unspent -= 1)", "self.within(BRIEF, |_| ())")],
        )],
        found: &[Kind::GuardOvershot],
        ..WITH_BRAKES
    },
    Mutant {
        name: "mutant-deletes-what-was-restored",
        changes: &[(
            "src/policy/undo.rs",
            &[("Some((Verdict::Present, Found::Restored)),", "None,")],
        )],
        found: &[Kind::DeletedThoughRestored],
        ..WITH_BRAKES
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::change;

    #[test]
    fn every_mutant_quotes_source_lines_that_occur_exactly_once() {
        for (file, texts) in MUTANTS.iter().flat_map(|mutant| mutant.changes) {
            let text = std::fs::read_to_string(crate::variants::worker().join(file)).unwrap();
            change(&text, texts).unwrap_or_else(|why| panic!("{file}: {why}"));
        }
    }
}
