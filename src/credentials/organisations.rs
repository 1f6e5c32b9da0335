//! Which organisations are allowed, which of them have a token, and what reading the source again
//! changes. Pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Keys;
use std::time::{Duration, Instant};

use super::source::{Credential, CredentialsError, Found};
use crate::messages::OrgId;

/// How long an unlisted organisation stays allowed after its file is gone.
pub(super) const ALLOWED_WITHOUT_FILE: Duration = Duration::from_mins(10);

/// An allowed organisation.
#[derive(Debug, Default)]
pub struct Organisation {
    is_listed: bool,
    credential: Option<Credential>,
    trouble: Option<String>,
    file_gone: Option<Instant>,
}

/// What a reading has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Organisations with a new token.
    pub(super) changed: Vec<OrgId>,
    /// Organisations that lost their token.
    pub(super) lost: Vec<OrgId>,
    /// Organisations that were allowed without a token and have one now.
    pub(super) regained: Vec<OrgId>,
    /// Organisations that are no longer allowed.
    pub(super) disallowed: Vec<OrgId>,
}

/// All allowed organisations.
#[derive(Debug, Default)]
pub(super) struct Organisations(BTreeMap<OrgId, Organisation>);

impl Organisations {
    /// The organisations that the settings list, before the source is read.
    pub(super) fn listed(orgs: &[OrgId]) -> Self {
        let listed = |org: &OrgId| {
            (org.clone(), Organisation { is_listed: true, ..Organisation::default() })
        };
        Self(orgs.iter().map(listed).collect())
    }

    pub(super) fn get(&self, org: &OrgId) -> Option<&Organisation> {
        self.0.get(org)
    }

    pub(super) fn ids(&self) -> Keys<'_, OrgId, Organisation> {
        self.0.keys()
    }

    pub(super) fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.0.values().filter_map(Organisation::credential)
    }

    pub(super) fn without_token(&self) -> impl Iterator<Item = (&OrgId, &Organisation)> {
        self.0.iter().filter(|(_, known)| known.credential.is_none())
    }

    /// The files that exist and hold no token.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&OrgId, &Organisation, &str)> {
        self.0.iter().filter_map(|(org, known)| Some((org, known, known.trouble()?)))
    }

    /// Applies a reading of the whole source.
    ///
    /// # A token file that is missing for a moment dead-letters nothing
    ///
    /// A listed organisation stays allowed whatever the source holds. Any other stays allowed for
    /// [`ALLOWED_WITHOUT_FILE`] after its file is gone. That time runs only while the directory can
    /// be read and names another organisation: an empty directory is an unmounted secret, not an
    /// allow-list. Meanwhile the organisation has no token, so its commands wait.
    ///
    /// # No token is used after its file is gone
    ///
    /// An operator may have removed it on purpose, so the reading that misses the file drops the
    /// token. Only a file that exists but cannot be read or holds no token keeps the last good one:
    /// it is probably being written.
    pub(super) fn update(&mut self, found: Found, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let names_nobody = found.is_empty();
        for (org, known) in self.0.iter_mut().filter(|(org, _)| !found.contains_key(*org)) {
            known.trouble = None;
            known.file_gone.get_or_insert(now);
            if known.credential.take().is_some() {
                changes.lost.push(org.clone());
            }
        }
        for (org, file) in found {
            let is_new = !self.0.contains_key(&org);
            let known = self.0.entry(org.clone()).or_default();
            let had_token = known.credential.is_some();
            if known.read(file) {
                changes.changed.push(org.clone());
            }
            match (had_token, known.credential.is_some()) {
                (true, false) => changes.lost.push(org),
                (false, true) if !is_new => changes.regained.push(org),
                _ => {}
            }
        }
        if names_nobody {
            self.source_is_away(now);
        }
        self.0.retain(|org, known| {
            let stays = known.stays_allowed(now);
            if !stays {
                changes.disallowed.push(org.clone());
            }
            stays
        });
        changes
    }

    /// No file could be read: a missing file counts as missing from now on.
    pub(super) fn source_is_away(&mut self, now: Instant) {
        for known in self.0.values_mut().filter(|known| known.file_gone.is_some()) {
            known.file_gone = Some(now);
        }
    }
}

impl Organisation {
    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Why its file holds no token, if the file is there.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Applies its file; `true` if that holds a different token.
    fn read(&mut self, file: Result<Credential, CredentialsError>) -> bool {
        self.file_gone = None;
        let mut new = match file {
            Ok(new) => new,
            Err(trouble) => {
                if trouble.is_not_there() {
                    self.credential = None;
                }
                self.trouble = Some(trouble.to_string());
                return false;
            }
        };
        self.trouble = None;
        let same = self.credential.take().filter(|old| old.is_same(&new));
        if let Some(old) = &same {
            // Mounting a secret again does not make its token newer.
            new.written = new.written.min(old.written);
        }
        self.credential = Some(new);
        same.is_none()
    }

    fn stays_allowed(&self, now: Instant) -> bool {
        let gone_for = self.file_gone.map(|since| now.saturating_duration_since(since));
        self.is_listed || gone_for.is_none_or(|gone_for| gone_for < ALLOWED_WITHOUT_FILE)
    }
}
