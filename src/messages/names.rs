//! Names that other services, operators and dashboards rely on, except those of a kind (`kind`).
//! Changing one changes the contract.

/// Exchange that producers publish commands to.
pub const COMMANDS_EXCHANGE: &str = "task.commands";
/// Exchange that outcome events are published to.
pub const EVENTS_EXCHANGE: &str = "task.events";
/// Exchange and queue for events that no bound queue takes.
pub const UNROUTED_EVENTS: &str = "task.events.unrouted";
/// Exchange that waiting copies are published to; each delay queue is bound by its own name.
pub const RETRY_EXCHANGE: &str = "task.retry";
/// Exchange that records of the ledger are published to, and the stream that holds them.
pub const LEDGER_EXCHANGE: &str = "task.ledger";
/// See [`LEDGER_EXCHANGE`].
pub const LEDGER: &str = "task.delete.ledger";
/// The stream that holds a record of each destructive call; bound to [`LEDGER_EXCHANGE`].
pub const AUDIT: &str = "task.delete.audit";
/// Exchange that dead letters are published to.
pub const DEAD_LETTER_EXCHANGE: &str = "task.dlx";

/// CloudEvents `source` of our events, and the name that our connections carry.
pub const SOURCE: &str = "tallyfy-delete-worker";
/// CloudEvents `type` and routing key of what operators did with dead letters.
pub const REPLAYED_EVENT: &str = "task.dead_letters.replayed";
/// See [`REPLAYED_EVENT`].
pub const DISCARDED_EVENT: &str = "task.dead_letters.discarded";
/// See [`REPLAYED_EVENT`].
pub const IMPORTED_EVENT: &str = "task.dead_letters.imported";
/// CloudEvents `type` and routing key of what operators decided about held commands.
pub const RELEASED_EVENT: &str = "task.guard.released";
/// See [`RELEASED_EVENT`].
pub const REJECTED_EVENT: &str = "task.guard.rejected";
/// CloudEvents `type` and routing key of a task that is archived and will be deleted.
pub const PENDING_EVENT: &str = "task.delete_pending";
/// Content type of the events: CloudEvents in structured JSON mode.
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json";

/// Header: attempts that the API answered (or whose answer was lost), so far.
pub const X_ATTEMPTS: &str = "x-attempts";
/// Header: calls made so far, whether or not they used up an attempt.
pub const X_CALLS: &str = "x-calls";
/// Header: when the command was first delivered to a worker (RFC 3339).
pub const X_FIRST_SEEN: &str = "x-first-seen";
/// Header: an earlier attempt's answer was lost.
pub const X_AMBIGUOUS: &str = "x-ambiguous";
/// Header: no call before this moment (RFC 3339). It carries a `Retry-After` across restarts and
/// longer waits.
pub const X_NOT_BEFORE: &str = "x-not-before";
/// Header of a quorum queue: how often the message was requeued.
pub const X_DELIVERY_COUNT: &str = "x-delivery-count";
/// RabbitMQ's header of a message that it has dead-lettered: a list of the queues and the reasons,
/// the latest first.
pub const X_DEATH: &str = "x-death";
/// Header: the `user_id` that the broker validated on the original; a copy cannot carry another's
/// `user_id`.
pub const X_PUBLISHED_BY: &str = "x-published-by";
/// Header: HTTP status of the last answer.
pub const X_LAST_STATUS: &str = "x-last-status";
/// Header of a waiting copy: why it has waited, the current reason last. A repeated reason is not
/// logged again.
pub const X_WAIT_REASON: &str = "x-wait-reason";
/// Header of a waiting copy: a dry run has looked at its object, and no destructive call was made.
pub const X_DRY_RUN: &str = "x-dry-run";
/// Header: the task is archived, and is deleted at this moment (RFC 3339).
pub const X_PURGE_AT: &str = "x-purge-at";
/// Header of a held command: since when the guard has held it (RFC 3339).
pub const X_HELD_SINCE: &str = "x-held-since";
/// Header of a dead letter: why, one of the contract's reasons.
pub const X_FAILURE_REASON: &str = "x-failure-reason";
/// Header of a dead letter: why, for a person.
pub const X_FAILURE_DETAIL: &str = "x-failure-detail";
/// Header: what happened to the command before it was replayed, for people.
pub const X_HISTORY: &str = "x-history";
/// Header of a dead letter: when (RFC 3339).
pub const X_FAILED_AT: &str = "x-failed-at";
/// Header that says what was unreadable in a message. A producer that forges it only gets its own
/// command refused.
pub const X_UNREADABLE: &str = "x-unreadable";
/// Header of a mirror record that is not a dead letter: its type.
pub const X_MIRROR: &str = "x-mirror";
/// W3C Trace Context headers, carried to everything that is published about a command.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";
