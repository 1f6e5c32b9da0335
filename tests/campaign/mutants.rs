//! Workers with a fault, one each: a checker that does not find it is not worth its word.

use crate::checker::Kind;
use crate::nemesis::Family;
use crate::variants::Change;

/// A worker with a fault, and what must come of it.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) changes: &'static [Change],
    /// What befalls it.
    pub(crate) families: &'static [Family],
    /// One of these must be found.
    pub(crate) found: &'static [Kind],
}

/// All of them.
pub(crate) const MUTANTS: [Mutant; 4] = [
    Mutant {
        name: "mutant-acknowledges-early",
        changes: &[(
            "src/worker/settle.rs",
            &[
                (
                    "        for publication in settlement.publications(delivery.incoming(), Timestamp::now()) {",
                    "        let incoming = delivery.incoming().clone();\n        let _ = delivery.acknowledge().await;\n        \
                     for publication in settlement.publications(&incoming, Timestamp::now()) {",
                ),
                (
                    "        report(delivery.incoming(), settlement);",
                    "        report(&incoming, settlement);",
                ),
                (
                    "        let told = if is_too_large {\n            delivery.leave_to_the_dead_letters().await\n        } else {\n            \
                     delivery.acknowledge().await\n        };",
                    "        let told = !is_too_large;",
                ),
            ],
        )],
        families: &[Family::WorkerKilled, Family::EventsRejected],
        found: &[Kind::Lost],
    },
    Mutant {
        name: "mutant-takes-any-404-for-success",
        changes: &[(
            "src/policy/verdict.rs",
            &[(
                "        400..=499 if body.denies_the_endpoint() => Verdict::Misdirected,",
                "        404 => Verdict::AlreadyAbsent,\n        400..=499 if body.denies_the_endpoint() => Verdict::Misdirected,",
            )],
        )],
        families: &[Family::EndpointNotFound, Family::HtmlNotFound],
        found: &[Kind::FalseEnd],
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
    },
    Mutant {
        name: "mutant-dead-letters-on-an-outage",
        changes: &[(
            "src/worker/handle.rs",
            &[(
                "            Verdict::Throttled | Verdict::Unauthorized | Verdict::Misdirected => self.postpone(floor),",
                "            Verdict::Throttled | Verdict::Unauthorized => self.postpone(floor),\n            \
                 Verdict::Misdirected => self.dead_letter(FailureReason::Rejected, &answer.describe()),",
            )],
        )],
        families: &[Family::EndpointNotFound, Family::HtmlNotFound],
        found: &[Kind::WronglyDead],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variants::change;

    #[test]
    fn every_mutant_fits_the_code_as_it_is() {
        for (file, texts) in MUTANTS.iter().flat_map(|mutant| mutant.changes) {
            let text = std::fs::read_to_string(file).unwrap();
            change(&text, texts).unwrap_or_else(|why| panic!("{file}: {why}"));
        }
    }
}
