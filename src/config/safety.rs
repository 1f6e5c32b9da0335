//! The settings that say what is destroyed, and for whom.

use super::core_args::UndoArgs;
use super::read::Reader;
use super::values::{ModeName, Setting};
use crate::kind::Kind;
use crate::policy::producers::{AllowedProducer, Producers};
use crate::policy::undo::DeleteMode;

impl Reader {
    /// What `task.delete` does.
    pub(super) fn delete_mode(&mut self, args: &UndoArgs) -> Option<DeleteMode> {
        let (mode, window) = (self.take(&args.delete_mode), self.take(&args.undo_window));
        Some(match mode? {
            ModeName::Delete => DeleteMode::Delete,
            ModeName::Archive => DeleteMode::Archive,
            ModeName::ArchiveThenDelete => DeleteMode::ArchiveThenDelete(window?),
        })
    }

    /// # A mode that archives first deletes nothing at once
    ///
    /// Only tasks can be archived and restored, so the mode would promise too much for any other
    /// kind. And `delete` does not wait for a window.
    pub(super) fn archives_all(&mut self, mode: Option<DeleteMode>, kinds: &[Kind]) -> Option<()> {
        let is_archived = |kind: &&Kind| match kind {
            Kind::TaskDelete | Kind::TaskArchive => true,
            Kind::ProcessDelete | Kind::TagDelete | Kind::FileDelete => false,
        };
        let other = kinds.iter().find(|kind| !is_archived(kind));
        match (mode?, other) {
            (DeleteMode::Delete, _) | (_, None) => Some(()),
            (_, Some(other)) => self.problem(
                "DELETE_MODE",
                format!("archives tasks only, and KINDS has {other}, which deletes at once; serve that kind by another worker"),
            ),
        }
    }

    /// Which producers may ask for what.
    pub(super) fn producers(
        &mut self,
        require_user_id: &Setting<bool>,
        allowed: Option<&Setting<Option<Vec<AllowedProducer>>>>,
    ) -> Option<Producers> {
        let require_user_id = self.take(require_user_id);
        let allowed = match allowed {
            Some(setting) => self.take(setting)?.unwrap_or_default(),
            None => Vec::new(),
        };
        Some(Producers { require_user_id: require_user_id?, allowed })
    }
}
