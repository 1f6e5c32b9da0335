//! Whether a message is a command that this worker may carry out now. Checked before any URL is
//! built.

use jiff::Timestamp;

use crate::messages::{Command, FailureReason, Incoming, OrgId};
use crate::policy::producers::Producers;
use std::time::Duration;

/// Why a message is refused. It is dead-lettered for its own fault, and no call is made for it.
#[derive(Debug)]
pub struct Refusal {
    /// One of the contract's reasons.
    pub reason: FailureReason,
    /// For a person.
    pub detail: String,
    /// The command, if it could be read.
    pub command: Option<Command>,
}

/// When the command was first seen, from its header; but never in the future, because anyone may
/// have written the header.
pub fn first_seen(incoming: &Incoming, now: Timestamp) -> Timestamp {
    incoming.retry_state.first_seen.map_or(now, |seen| seen.min(now))
}

/// How old the command is.
pub fn age(incoming: &Incoming, now: Timestamp) -> Duration {
    now.duration_since(first_seen(incoming, now)).unsigned_abs()
}

/// Reads the command and checks that it may be carried out.
///
/// # Errors
/// [`Refusal`] if it is malformed, names an organisation outside of `is_allowed`, comes from a
/// producer that may not ask for it, or is past its `not_after`.
pub fn admit(
    incoming: &Incoming,
    is_allowed: impl Fn(&OrgId) -> bool,
    producers: &Producers,
    now: Timestamp,
) -> Result<Command, Refusal> {
    let refuse = |reason, detail, command| Err(Refusal { reason, detail, command });
    if let Some(fault) = &incoming.fault {
        // The command is still decoded: a replay without these headers may succeed, and must
        // supersede this end.
        let command = Command::decode(incoming.kind, &incoming.body).ok();
        return refuse(FailureReason::Malformed, fault.clone(), command);
    }
    let command = match Command::decode(incoming.kind, &incoming.body) {
        Ok(command) => command,
        Err(malformed) => return refuse(FailureReason::Malformed, malformed.to_string(), None),
    };
    if !is_allowed(&command.target.org) {
        let detail = format!(
            "organisation {} is not among those that this worker may touch",
            command.target.org
        );
        return refuse(FailureReason::OrgNotAllowed, detail, Some(command));
    }
    let published_by = incoming.properties.published_by.as_deref();
    if let Some(detail) = producers.refuse(&command.target.org, published_by) {
        return refuse(FailureReason::ProducerNotAllowed, detail, Some(command));
    }
    match passed_not_after(&command, now) {
        Some(detail) => refuse(FailureReason::Expired, detail, Some(command)),
        None => Ok(command),
    }
}

/// Why the command must no longer be carried out, if so. Checked again before every call, because
/// waits take time.
pub fn passed_not_after(command: &Command, now: Timestamp) -> Option<String> {
    let limit = command.not_after.filter(|limit| *limit < now)?;
    Some(format!("its not_after, {limit}, has passed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::RetryState;

    const NOW: &str = "2026-11-23T10:00:00Z";

    fn refusal(body: &str) -> Option<FailureReason> {
        let incoming = Incoming { body: body.into(), ..Incoming::default() };
        let now = NOW.parse().unwrap();
        admit(&incoming, |org| org.as_str() == "mine", &Producers::default(), now)
            .err()
            .map(|refusal| refusal.reason)
    }

    #[test]
    fn what_is_malformed_foreign_or_expired_is_refused() {
        assert_eq!(refusal(r#"{"org_id":"mine","task_id":"t"}"#), None);
        assert_eq!(
            refusal(r#"{"org_id":"mine","task_id":"../t"}"#),
            Some(FailureReason::Malformed)
        );
        assert_eq!(
            refusal(r#"{"org_id":"other","task_id":"t"}"#),
            Some(FailureReason::OrgNotAllowed)
        );
        let late = r#"{"org_id":"mine","task_id":"t","not_after":"2026-11-23T09:59:59Z"}"#;
        assert_eq!(refusal(late), Some(FailureReason::Expired));
        assert_eq!(refusal(&late.replace("09:59:59", "10:00:00")), None);
    }

    #[test]
    fn what_has_unreadable_headers_is_refused_and_named() {
        let (fault, body) = (Some("a header".to_owned()), br#"{"org_id":"mine","task_id":"t"}"#);
        let incoming = Incoming { fault, body: body.to_vec(), ..Incoming::default() };
        let refusal =
            admit(&incoming, |_| true, &Producers::default(), NOW.parse().unwrap()).unwrap_err();
        assert_eq!(refusal.reason, FailureReason::Malformed);
        assert_eq!(refusal.command.unwrap().target.id.as_str(), "t");
    }

    #[test]
    fn the_age_counts_from_the_first_delivery_and_a_date_in_the_future_does_not_stretch_it() {
        let seen = |first_seen: &str| {
            let retry_state =
                RetryState { first_seen: first_seen.parse().ok(), ..RetryState::default() };
            Incoming { retry_state, ..Incoming::default() }
        };
        let now = NOW.parse().unwrap();
        assert_eq!(age(&seen("2026-11-23T09:00:00Z"), now), Duration::from_hours(1));
        assert_eq!(age(&seen("9999-01-01T00:00:00Z"), now), Duration::ZERO);
        assert_eq!(first_seen(&seen("9999-01-01T00:00:00Z"), now), now);
        assert_eq!(age(&Incoming::default(), now), Duration::ZERO);
    }
}
