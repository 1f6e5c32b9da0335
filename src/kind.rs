//! The kinds of deletion as data, one row each: which call is made, what its answers mean, which
//! events report it.
//!
//! The kind of a command comes from the queue that it was consumed from, never from what the
//! command says.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A kind of deletion. Every destructive call of the API that this worker can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Kind {
    /// Deletes a one-off task for good.
    #[default]
    TaskDelete,
    /// Archives a one-off task, which can be restored.
    TaskArchive,
    /// Deletes an archived process for good.
    ProcessDelete,
    /// Deletes a tag.
    TagDelete,
    /// Deletes a file, including its stored content.
    FileDelete,
}

/// The properties of a kind.
#[derive(Debug, PartialEq, Eq)]
pub struct KindSpec {
    /// Name of the kind, of its queue and of the routing key of its commands.
    pub name: &'static str,
    /// Member of the command and of the event that holds the object's id.
    pub id_member: &'static str,
    /// What the object is, for a person.
    pub object: &'static str,
    /// Path of the call below the organisation, up to the id.
    pub before_id: &'static str,
    /// The path after the id.
    pub after_id: Option<&'static str>,
    /// Which answer means success.
    pub success: Success,
    /// The outcome's word for success.
    pub outcome: &'static str,
    /// What "not found" means.
    pub not_found: NotFound,
    /// CloudEvents `type` and routing key of the event for an object that is gone.
    pub done_event: &'static str,
    /// The same for a command that was dead-lettered.
    pub failed_event: &'static str,
    /// The same for a guard that has tripped.
    pub held_event: &'static str,
    /// The same for a cancelled command.
    pub cancelled_event: &'static str,
    /// The same for a command of a dry run.
    pub dry_run_event: &'static str,
    /// Which GET shows the object.
    pub look: Look,
}

/// The GET that shows an object, for a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The path below the organisation, up to the id.
    At(&'static str),
    /// The API has no such GET that answers with JSON.
    Nowhere,
}

/// Which answer means that the object is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Success {
    /// 204.
    NoContent,
    /// 204, or 200 according to older pages of the documentation.
    NoContentOrOk,
    /// 200 with an empty body. A 200 with anything else comes from something that is not the API.
    EmptyOk,
}

/// What the API's "not found" says about the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    /// It is gone, as requested.
    Absent,
    /// It is missing or archived already: a failure, because a wrong id cannot be told from
    /// success.
    Missing,
    /// The id is wrong, or the process is not archived: a failure.
    MissingOrNotArchived,
    /// The API never answers this kind like that: something else has answered.
    NotTheApi,
}

impl Kind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::TaskDelete,
        Self::TaskArchive,
        Self::ProcessDelete,
        Self::TagDelete,
        Self::FileDelete,
    ];

    /// The row of this kind. Sources: the API's public documentation, read on 2026-11-23.
    #[expect(clippy::too_many_lines, reason = "a table, one row after the other")]
    pub const fn spec(self) -> &'static KindSpec {
        match self {
            Self::TaskDelete => &KindSpec {
                name: "task.delete",
                id_member: "task_id",
                object: "task",
                before_id: "tasks",
                after_id: Some("delete"),
                success: Success::NoContent,
                outcome: "deleted",
                not_found: NotFound::Absent,
                done_event: "task.deleted",
                failed_event: "task.delete_failed",
                held_event: "task.delete_held",
                cancelled_event: "task.delete_cancelled",
                dry_run_event: "task.delete_dry_run",
                look: Look::At("tasks"),
            },
            Self::TaskArchive => &KindSpec {
                name: "task.archive",
                id_member: "task_id",
                object: "task",
                before_id: "tasks",
                after_id: None,
                success: Success::NoContentOrOk,
                outcome: "archived",
                not_found: NotFound::Missing,
                done_event: "task.archived",
                failed_event: "task.archive_failed",
                held_event: "task.archive_held",
                cancelled_event: "task.archive_cancelled",
                dry_run_event: "task.archive_dry_run",
                look: Look::At("tasks"),
            },
            Self::ProcessDelete => &KindSpec {
                name: "process.delete",
                id_member: "process_id",
                object: "process",
                before_id: "runs",
                after_id: Some("delete"),
                success: Success::EmptyOk,
                outcome: "deleted",
                not_found: NotFound::MissingOrNotArchived,
                done_event: "process.deleted",
                failed_event: "process.delete_failed",
                held_event: "process.delete_held",
                cancelled_event: "process.delete_cancelled",
                dry_run_event: "process.delete_dry_run",
                look: Look::At("runs"),
            },
            Self::TagDelete => &KindSpec {
                name: "tag.delete",
                id_member: "tag_id",
                object: "tag",
                before_id: "tags",
                after_id: None,
                success: Success::NoContent,
                outcome: "deleted_or_absent",
                not_found: NotFound::NotTheApi,
                done_event: "tag.deleted",
                failed_event: "tag.delete_failed",
                held_event: "tag.delete_held",
                cancelled_event: "tag.delete_cancelled",
                dry_run_event: "tag.delete_dry_run",
                look: Look::At("tags"),
            },
            Self::FileDelete => &KindSpec {
                name: "file.delete",
                id_member: "file_id",
                object: "file",
                before_id: "file",
                after_id: None,
                success: Success::EmptyOk,
                outcome: "deleted",
                not_found: NotFound::Missing,
                done_event: "file.deleted",
                failed_event: "file.delete_failed",
                held_event: "file.delete_held",
                cancelled_event: "file.delete_cancelled",
                dry_run_event: "file.delete_dry_run",
                look: Look::Nowhere,
            },
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Name of the kind.
    pub const fn as_str(self) -> &'static str {
        self.spec().name
    }

    /// The queue that its commands are consumed from. Also their routing key, and the key with
    /// which RabbitMQ itself dead-letters them.
    pub const fn queue(self) -> &'static str {
        self.spec().name
    }

    /// The queue of the commands that the guard holds.
    pub fn held_queue(self) -> String {
        format!("{}.held", self.queue())
    }

    /// The queue of the commands whose task is archived and not deleted yet.
    pub fn undo_queue(self) -> String {
        format!("{}.undo", self.queue())
    }

    /// The queue of its dead letters.
    pub fn dead_letter_queue(self) -> String {
        format!("{}.dead", self.queue())
    }

    /// The mirror of its dead letters: a stream, which is read without taking anything out.
    pub fn mirror(self) -> String {
        format!("{}.dead.log", self.queue())
    }

    /// The queue of the commands that RabbitMQ itself removed from their work queue, on their way
    /// to the dead letters.
    pub fn undeliverable_queue(self) -> String {
        format!("{}.undeliverable", self.queue())
    }

    /// The queues that may hold a command, except the delay queues, whose names depend on settings.
    pub fn own_queues(self) -> [String; 5] {
        [
            self.queue().to_owned(),
            self.held_queue(),
            self.undo_queue(),
            self.undeliverable_queue(),
            self.dead_letter_queue(),
        ]
    }

    /// The delay queue of a delay, by the delay's name.
    pub fn delay_queue(self, delay: &str) -> String {
        format!("{}.wait.{delay}", self.queue())
    }

    /// Whether "not found" is a failure. If so, it matters whether an earlier call may have had its
    /// effect.
    pub const fn fails_when_not_found(self) -> bool {
        matches!(self.spec().not_found, NotFound::Missing | NotFound::MissingOrNotArchived)
    }

    /// The segments of the call's path below the organisation.
    pub fn path(self, id: &str) -> impl Iterator<Item = &str> {
        let spec = self.spec();
        [spec.before_id, id].into_iter().chain(spec.after_id)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As its name.
impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for Kind {
    fn schema_name() -> Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Self::ALL.map(Self::as_str);
        json_schema!({"type": "string", "description": "A kind of deletion.", "enum": names})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_two_kinds_share_a_name_an_event_or_a_call() {
        let distinct = |of: fn(&KindSpec) -> String| {
            Kind::ALL.map(|kind| of(kind.spec())).into_iter().collect::<HashSet<_>>().len()
        };
        assert_eq!(distinct(|spec| spec.name.to_owned()), Kind::ALL.len());
        assert_eq!(distinct(|spec| spec.done_event.to_owned()), Kind::ALL.len());
        assert_eq!(distinct(|spec| spec.failed_event.to_owned()), Kind::ALL.len());
        assert_eq!(distinct(|spec| spec.dry_run_event.to_owned()), Kind::ALL.len());
        assert_eq!(
            distinct(|spec| format!("{} {:?}", spec.before_id, spec.after_id)),
            Kind::ALL.len()
        );
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn a_kind_has_queues_of_its_own() {
        let kind = Kind::ProcessDelete;
        assert_eq!(kind.queue(), "process.delete");
        assert_eq!(kind.dead_letter_queue(), "process.delete.dead");
        assert_eq!(kind.undeliverable_queue(), "process.delete.undeliverable");
        assert_eq!(kind.delay_queue("5s"), "process.delete.wait.5s");
    }

    proptest! {
        #[test]
        fn no_kinds_url_can_equal_anothers_for_any_valid_ids(ids in proptest::array::uniform2("[A-Za-z0-9_-]{1,64}")) {
            for one in Kind::ALL {
                for other in Kind::ALL.into_iter().filter(|other| *other != one) {
                    let path = |kind: Kind, id: &str| kind.path(id).collect::<Vec<_>>().join("/");
                    prop_assert_ne!(path(one, &ids[0]), path(other, &ids[1]));
                    prop_assert_ne!(path(one, &ids[0]), path(other, &ids[0]));
                }
            }
        }
    }
}
