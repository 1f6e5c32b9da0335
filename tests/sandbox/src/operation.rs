//! The operations of the API that the sandbox knows, and what they are about.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Delete,
    Archive,
    DeleteProcess,
    DeleteTag,
    DeleteFile,
    Restore,
    GetTask,
    List,
    Me,
    Organizations,
    Unknown,
}

/// The types of objects, other than tasks, that the API can delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObjectType {
    Process,
    Tag,
    File,
}

impl ObjectType {
    /// The type that the operation deletes; `None` for the operations on tasks.
    pub(crate) fn of(operation: Operation) -> Option<Self> {
        match operation {
            Operation::DeleteProcess => Some(Self::Process),
            Operation::DeleteTag => Some(Self::Tag),
            Operation::DeleteFile => Some(Self::File),
            _ => None,
        }
    }
}
