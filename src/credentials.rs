//! EDGE: tokens and the organisations that they give access to, from the environment, a file or a
//! directory that may change.

mod organisations;
mod source;

use std::collections::BTreeSet;
use std::collections::btree_map::Keys;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Instant, SystemTime};

use secrecy::SecretString;
use tracing::{error, info, warn};

pub use organisations::Organisation;
pub use source::{CredentialsError, CredentialsSource, token};

use crate::messages::OrgId;
use organisations::{Changes, Organisations};

/// What may be done for an organisation now.
#[derive(Debug, Clone)]
pub enum Access {
    /// It is allowed, and this is its token.
    Token(Arc<SecretString>),
    /// It is allowed but has no token at the moment: its commands wait.
    NoToken,
    /// It is not on the allow-list.
    NotAllowed,
}

/// An allowed organisation without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which one.
    pub org: OrgId,
    /// What is wrong with its file.
    pub why: String,
}

/// The tokens in force.
#[derive(Debug)]
pub struct Credentials {
    source: CredentialsSource,
    orgs: RwLock<Organisations>,
    /// The problems that were logged and still exist. Locked while the source is read, so that an
    /// older reading never overwrites a newer one.
    last_logged: Mutex<BTreeSet<String>>,
}

impl Credentials {
    /// Reads the source for the first time.
    ///
    /// A directory must hold at least one token. A file without one does not prevent the start: it
    /// may be a stray file or a half-written secret.
    ///
    /// # Errors
    /// [`CredentialsError`] names the file.
    pub fn load(source: CredentialsSource) -> Result<Self, CredentialsError> {
        let found = source.read_first()?;
        let mut orgs = Organisations::listed(source.listed());
        orgs.update(found, Instant::now());
        let known = orgs.troubles().map(|(_, _, trouble)| trouble.to_owned()).collect();
        Ok(Self { source, orgs: RwLock::new(orgs), last_logged: Mutex::new(known) })
    }

    /// Logs each organisation without a token, once at the start.
    pub fn warn_of_missing(&self) {
        for Missing { org, why } in self.missing() {
            warn!(org_id = %org, why, "organisation has no token: its commands wait until it has one");
        }
    }

    /// What may be done for an organisation now.
    pub fn access(&self, org: &OrgId) -> Access {
        match self.orgs().get(org).map(Organisation::credential) {
            Some(Some(credential)) => Access::Token(Arc::clone(&credential.token)),
            Some(None) => Access::NoToken,
            None => Access::NotAllowed,
        }
    }

    /// The token for an organisation; `None` if it has none at the moment or is not allowed.
    pub fn token(&self, org: &OrgId) -> Option<Arc<SecretString>> {
        match self.access(org) {
            Access::Token(token) => Some(token),
            Access::NoToken | Access::NotAllowed => None,
        }
    }

    /// Whether an organisation is on the allow-list, with a token or without one.
    pub fn allow(&self, org: &OrgId) -> bool {
        self.orgs().get(org).is_some()
    }

    /// Shows all allowed organisations, including those without a token.
    pub fn with_orgs<T>(&self, look: impl FnOnce(Keys<'_, OrgId, Organisation>) -> T) -> T {
        look(self.orgs().ids())
    }

    /// How many allowed organisations have no token.
    pub fn without_token(&self) -> usize {
        self.orgs().without_token().count()
    }

    /// The allowed organisations without a token, and why they have none.
    pub fn missing(&self) -> Vec<Missing> {
        // Only a directory can lack the token of an organisation.
        let CredentialsSource::Directory { path, .. } = &self.source else { return Vec::new() };
        let is_gone = |org: &OrgId| format!("{} is not there", path.join(org.as_str()).display());
        let why =
            |org, known: &Organisation| known.trouble().map_or_else(|| is_gone(org), str::to_owned);
        self.orgs()
            .without_token()
            .map(|(org, known)| Missing { org: org.clone(), why: why(org, known) })
            .collect()
    }

    /// When the oldest of the tokens in force was written; `None` if there is none.
    pub fn oldest_written(&self) -> Option<SystemTime> {
        self.orgs().credentials().map(|credential| credential.written).min()
    }

    /// Reads the source again; returns the organisations whose token is new.
    pub fn reload(&self) -> Vec<OrgId> {
        self.reload_at(Instant::now())
    }

    /// [`Credentials::reload`] at this time.
    ///
    /// # A wrong file keeps the last good token
    ///
    /// A file that cannot be read or holds no token changes nothing, for its own organisation or
    /// for others. Nor does a directory that cannot be read, for example while a secret is swapped.
    /// The problem is logged once.
    pub fn reload_at(&self, now: Instant) -> Vec<OrgId> {
        if matches!(self.source, CredentialsSource::Fixed { .. }) {
            return Vec::new();
        }
        let mut last_logged = self.last_logged.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match self.source.read() {
            Ok(found) => found,
            Err(trouble) => {
                self.orgs.write().unwrap_or_else(PoisonError::into_inner).source_is_away(now);
                if last_logged.insert(trouble.to_string()) {
                    error!("credentials: {trouble}; the last good tokens stay in force");
                }
                return Vec::new();
            }
        };
        let names_nobody = found.is_empty();
        let changes = self.orgs.write().unwrap_or_else(PoisonError::into_inner).update(found, now);
        let mut troubles = self.report_wrong_files(&last_logged, &changes);
        if names_nobody {
            troubles.extend(self.report_empty_directory(&last_logged));
        }
        *last_logged = troubles;
        self.report(&changes);
        changes.changed
    }

    fn orgs(&self) -> RwLockReadGuard<'_, Organisations> {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what is wrong with a file, unless it was logged before or the log line about the lost
    /// token says it. Returns all problems.
    fn report_wrong_files(
        &self,
        last_logged: &BTreeSet<String>,
        changes: &Changes,
    ) -> BTreeSet<String> {
        let orgs = self.orgs();
        for (org, known, trouble) in orgs.troubles() {
            if last_logged.contains(trouble) || changes.lost.contains(org) {
                continue;
            }
            if known.credential().is_some() {
                error!(org_id = %org, "credentials: {trouble}; its last good token stays in force");
            } else {
                warn!(org_id = %org, "credentials: {trouble}; its commands wait until it holds a token");
            }
        }
        orgs.troubles().map(|(_, _, trouble)| trouble.to_owned()).collect()
    }

    fn report_empty_directory(&self, last_logged: &BTreeSet<String>) -> Option<String> {
        let CredentialsSource::Directory { path, only } = &self.source else { return None };
        let trouble = CredentialsError::no_organisation(path, only.as_deref()).to_string();
        if !last_logged.contains(&trouble) {
            error!(
                "credentials: {trouble}; the organisations stay allowed, and their commands wait"
            );
        }
        Some(trouble)
    }

    fn report(&self, changes: &Changes) {
        let Changes { changed, lost, regained, disallowed } = changes;
        for org in lost {
            warn!(org_id = %org, "organisation has lost its token: its file is gone; its commands wait until it is back");
        }
        for org in regained {
            info!(org_id = %org, "organisation has a token again");
        }
        for org in disallowed {
            warn!(
                org_id = %org,
                "organisation is no longer allowed: its token file has been gone for {} minutes",
                organisations::ALLOWED_WITHOUT_FILE.as_secs() / 60
            );
        }
        if !(changed.is_empty() && lost.is_empty() && disallowed.is_empty()) {
            let organisations = self.orgs().ids().len();
            info!(organisations, changed = changed.len(), "credentials: read again after a change");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;
    use std::sync::Once;
    use std::time::Duration;
    use std::{fs, io};

    use secrecy::ExposeSecret;
    use tempfile::TempDir;

    use super::organisations::ALLOWED_WITHOUT_FILE;
    use super::*;

    const ALMOST_TOO_LONG: Duration = Duration::from_secs(10 * 60 - 1);

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn exposed(credentials: &Credentials, id: &str) -> Option<String> {
        credentials.token(&org(id)).map(|token| token.expose_secret().to_owned())
    }

    /// A directory with these files, each with its content.
    fn directory(files: &[(&str, &str)]) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    fn load(directory: &Path, only: Option<&[&str]>) -> Result<Credentials, CredentialsError> {
        let only = only.map(|only| only.iter().copied().map(org).collect());
        Credentials::load(CredentialsSource::Directory { only, path: directory.to_owned() })
    }

    /// The token, `waits` or `refused`.
    fn access(credentials: &Credentials, id: &str) -> String {
        match credentials.access(&org(id)) {
            Access::Token(token) => token.expose_secret().to_owned(),
            Access::NoToken => "waits".to_owned(),
            Access::NotAllowed => "refused".to_owned(),
        }
    }

    thread_local! {
        static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }

    struct ThisThread;

    impl io::Write for ThisThread {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LINES.with_borrow_mut(|lines| lines.write(bytes))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `work` logs. One subscriber for the whole process: with one per test, a
    /// thread without a subscriber may hit a log line first, and tracing then disables that line
    /// for all threads.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            tracing_subscriber::fmt()
                .without_time()
                .with_target(false)
                .with_ansi(false)
                .with_writer(|| ThisThread)
                .init();
        });
        LINES.take();
        work();
        let text = String::from_utf8(LINES.take()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_wrong_one_keeps_the_last_good_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        fs::write(&path, " first\n").unwrap();
        let credentials =
            Credentials::load(CredentialsSource::File { orgs: vec![org("a")], path: path.clone() })
                .unwrap();
        assert_eq!(exposed(&credentials, "a").as_deref(), Some("first"));
        for (content, expected) in
            [("second", "second"), ("", "second"), ("a b", "second"), ("third\n", "third")]
        {
            fs::write(&path, content).unwrap();
            credentials.reload();
            assert_eq!(exposed(&credentials, "a").as_deref(), Some(expected));
        }
        fs::remove_file(&path).unwrap();
        credentials.reload();
        assert_eq!(exposed(&credentials, "a").as_deref(), Some("third"));
        fs::write(&path, "x").unwrap();
    }

    #[test]
    fn a_directory_is_the_allow_list() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("org-1"), "one").unwrap();
        fs::write(directory.path().join("..data"), "not an id").unwrap();
        let path = directory.path().to_owned();
        let credentials =
            Credentials::load(CredentialsSource::Directory { only: None, path }).unwrap();
        assert_eq!(exposed(&credentials, "org-1").as_deref(), Some("one"));
        assert!(!credentials.allow(&org("org-2")));
        fs::write(directory.path().join("org-2"), "two").unwrap();
        credentials.reload();
        assert_eq!(exposed(&credentials, "org-2").as_deref(), Some("two"));
    }

    #[test]
    fn a_wrong_file_keeps_the_last_good_token() {
        let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
        let write = |org: &str, token: &str| fs::write(secret.path().join(org), token).unwrap();
        let credentials = load(secret.path(), None).unwrap();
        write("org-1", " \n");
        write("org-2", "new");
        let lines = logged(|| {
            assert_eq!(credentials.reload(), [org("org-2")], "it does not hold up the others");
            assert_eq!(credentials.reload(), []);
        });
        assert_eq!(["org-1", "org-2"].map(|id| access(&credentials, id)), ["one", "new"]);
        let told = lines.iter().filter(|line| line.contains("org-1 holds no token"));
        assert_eq!(told.count(), 1, "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("lost")), "{lines:?}");
    }

    #[test]
    fn a_token_file_that_is_missing_for_a_moment_dead_letters_nothing() {
        for only in [None, Some(&["org-1", "org-2"][..])] {
            let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
            let file = secret.path().join("org-1");
            let (credentials, start) = (load(secret.path(), only).unwrap(), Instant::now());
            fs::remove_file(&file).unwrap();
            let almost = start + ALMOST_TOO_LONG;
            for now in [start, almost] {
                assert_eq!(credentials.reload_at(now), []);
                assert_eq!(["org-1", "org-2"].map(|id| access(&credentials, id)), ["waits", "two"]);
            }
            assert_eq!((credentials.allow(&org("org-1")), credentials.without_token()), (true, 1));
            assert_eq!(credentials.with_orgs(|orgs| orgs.len()), 2);
            fs::write(&file, "one").unwrap();
            assert_eq!(
                credentials.reload_at(almost),
                [org("org-1")],
                "the same token, and probed at once"
            );
            assert_eq!(
                (access(&credentials, "org-1").as_str(), credentials.without_token()),
                ("one", 0)
            );
        }
    }

    #[test]
    fn a_file_that_stays_away_ends_its_organisation_after_ten_minutes_unless_it_is_listed() {
        for (only, end) in [(None, "refused"), (Some(&["org-1", "org-2"][..]), "waits")] {
            let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
            let (credentials, start) = (load(secret.path(), only).unwrap(), Instant::now());
            fs::remove_file(secret.path().join("org-1")).unwrap();
            credentials.reload_at(start);
            assert_eq!(credentials.reload_at(start + ALLOWED_WITHOUT_FILE), []);
            assert_eq!(["org-1", "org-2"].map(|id| access(&credentials, id)), [end, "two"]);
            fs::write(secret.path().join("org-1"), "new").unwrap();
            assert_eq!(credentials.reload_at(start + ALLOWED_WITHOUT_FILE), [org("org-1")]);
            assert_eq!(access(&credentials, "org-1"), "new");
        }
    }

    #[test]
    fn the_ten_minutes_begin_again_with_each_absence() {
        let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
        let (credentials, start) = (load(secret.path(), None).unwrap(), Instant::now());
        for absence in 0..3 {
            fs::remove_file(secret.path().join("org-1")).unwrap();
            let now = start + absence * ALMOST_TOO_LONG;
            credentials.reload_at(now);
            assert_eq!(access(&credentials, "org-1"), "waits");
            fs::write(secret.path().join("org-1"), "one").unwrap();
            credentials.reload_at(now);
        }
    }

    #[test]
    fn no_token_is_used_after_its_file_is_gone() {
        let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
        let credentials = load(secret.path(), None).unwrap();
        fs::remove_file(secret.path().join("org-1")).unwrap();
        credentials.reload();
        assert_eq!(access(&credentials, "org-1"), "waits");
        fs::write(secret.path().join("org-1"), "").unwrap();
        credentials.reload();
        assert_eq!(
            access(&credentials, "org-1"),
            "waits",
            "an empty file does not bring the old one back"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_file_that_is_gone_gives_no_token_and_keeps_its_organisation_allowed() {
        let secret = directory(&[("..one", "one"), ("org-2", "two")]);
        std::os::unix::fs::symlink("..one", secret.path().join("org-1")).unwrap();
        let credentials = load(secret.path(), None).unwrap();
        assert_eq!(access(&credentials, "org-1"), "one");
        fs::remove_file(secret.path().join("..one")).unwrap();
        for now in [Instant::now(), Instant::now() + ALLOWED_WITHOUT_FILE] {
            credentials.reload_at(now);
            assert_eq!(access(&credentials, "org-1"), "waits");
        }
    }

    #[test]
    fn an_organisation_that_a_list_names_and_that_has_no_token_waits_from_the_start() {
        let secret = directory(&[("org-1", "one"), ("org-3", "three")]);
        let credentials = load(secret.path(), Some(&["org-1", "org-2"])).unwrap();
        assert_eq!(
            ["org-1", "org-2", "org-3"].map(|id| access(&credentials, id)),
            ["one", "waits", "refused"]
        );
        let lines = logged(|| credentials.warn_of_missing());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("org_id=org-2") && lines[0].contains("is not there"),
            "{lines:?}"
        );
        fs::write(secret.path().join("org-2"), "two").unwrap();
        assert_eq!(credentials.reload(), [org("org-2")]);
        assert_eq!(
            (access(&credentials, "org-2").as_str(), credentials.missing()),
            ("two", Vec::new())
        );
    }

    #[test]
    fn a_stray_file_is_no_organisation_with_a_token_and_does_not_prevent_the_start() {
        let secret = directory(&[("org-1", "one"), ("README", "two words"), ("half-written", "")]);
        let credentials = load(secret.path(), None).unwrap();
        let all = ["org-1", "README", "half-written"].map(|id| access(&credentials, id));
        assert_eq!(all, ["one", "waits", "waits"]);
        let lines = logged(|| {
            credentials.warn_of_missing();
            assert_eq!(credentials.reload(), []);
            assert_eq!(credentials.reload(), []);
        });
        assert_eq!(lines.len(), 2, "one warning per file: {lines:?}");
        for name in ["README", "half-written"] {
            let file = secret.path().join(name).display().to_string();
            assert!(
                lines.iter().any(|line| line.starts_with("WARN") && line.contains(&file)),
                "{lines:?}"
            );
        }
        fs::write(secret.path().join("half-written"), "whole").unwrap();
        assert_eq!(credentials.reload(), [org("half-written")]);
        assert_eq!(
            (access(&credentials, "half-written").as_str(), credentials.without_token()),
            ("whole", 1)
        );
    }

    #[test]
    fn a_stray_file_that_comes_later_is_named_once_and_changes_nothing() {
        let secret = directory(&[("org-1", "one")]);
        let credentials = load(secret.path(), None).unwrap();
        fs::write(secret.path().join("README"), "two words").unwrap();
        let lines = logged(|| {
            assert_eq!(credentials.reload(), []);
            assert_eq!(credentials.reload(), []);
        });
        assert_eq!(
            (lines.len(), access(&credentials, "README").as_str()),
            (1, "waits"),
            "{lines:?}"
        );
    }

    #[test]
    fn a_directory_with_no_token_at_all_refuses_to_start() {
        let refusal = |files: &[(&str, &str)], only: Option<&[&str]>| {
            load(directory(files).path(), only).unwrap_err().to_string()
        };
        assert!(refusal(&[("org-1", ""), (".x", "y")], None).contains("org-1 holds no token"));
        assert!(refusal(&[], None).contains("has no file"));
        assert!(refusal(&[("org-1", "one")], Some(&["org-2"])).contains("has no file"));
        assert!(
            load(Path::new("/no/such/directory"), None)
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
    }

    #[test]
    fn a_directory_that_cannot_be_read_keeps_what_was_read_before_and_says_so_once() {
        let mount = tempfile::tempdir().unwrap();
        let (at, aside) = (mount.path().join("secret"), mount.path().join("aside"));
        fs::create_dir(&at).unwrap();
        for (name, token) in [("org-1", "one"), ("org-2", "two")] {
            fs::write(at.join(name), token).unwrap();
        }
        let (credentials, start) = (load(&at, None).unwrap(), Instant::now());
        fs::remove_file(at.join("org-2")).unwrap();
        credentials.reload_at(start);
        fs::rename(&at, &aside).unwrap();
        let lines = logged(|| {
            for seconds in [5, 10, 599, 900] {
                assert_eq!(credentials.reload_at(start + Duration::from_secs(seconds)), []);
            }
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        fs::rename(&aside, &at).unwrap();
        assert_eq!(credentials.reload_at(start + Duration::from_secs(905)), []);
        let all = ["org-1", "org-2"].map(|id| access(&credentials, id));
        assert_eq!(all, ["one", "waits"], "ten minutes that nobody could look do not count");
    }

    #[test]
    fn an_empty_directory_is_a_secret_that_is_not_mounted_and_not_an_allow_list() {
        let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
        let (credentials, start) = (load(secret.path(), None).unwrap(), Instant::now());
        for name in ["org-1", "org-2"] {
            fs::remove_file(secret.path().join(name)).unwrap();
        }
        let lines = logged(|| {
            for minutes in [0, 9, 11, 60] {
                credentials.reload_at(start + Duration::from_mins(minutes));
                assert_eq!(
                    ["org-1", "org-2"].map(|id| access(&credentials, id)),
                    ["waits", "waits"]
                );
            }
        });
        assert_eq!(lines.iter().filter(|line| line.starts_with("ERROR")).count(), 1, "{lines:?}");
        fs::write(secret.path().join("org-1"), "one").unwrap();
        assert_eq!(credentials.reload_at(start + Duration::from_hours(1)), [org("org-1")]);
        assert_eq!(access(&credentials, "org-2"), "waits", "the other has ten minutes from now on");
    }

    #[test]
    fn an_organisation_that_loses_its_token_and_has_one_again_is_logged_once_each() {
        let secret = directory(&[("org-1", "one"), ("org-2", "two")]);
        let credentials = load(secret.path(), None).unwrap();
        let file = secret.path().join("org-1");
        let lines = logged(|| {
            fs::remove_file(&file).unwrap();
            (0..3).for_each(|_| drop(credentials.reload()));
            fs::write(&file, "one").unwrap();
            (0..3).for_each(|_| drop(credentials.reload()));
        });
        let about = |level: &str, text: &str| {
            let is_it = |line: &&String| {
                line.starts_with(level) && line.contains(text) && line.contains("org_id=org-1")
            };
            lines.iter().filter(is_it).count()
        };
        assert_eq!(
            [about("WARN", "lost its token"), about("INFO", "a token again")],
            [1, 1],
            "{lines:?}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_mounted_secret_that_is_swapped_by_its_symlink_is_read_again() {
        let mount = tempfile::tempdir().unwrap();
        let at = |name: &str| mount.path().join(name);
        for (version, token) in [("..v1", "first"), ("..v2", "second")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("org-1"), token).unwrap();
        }
        std::os::unix::fs::symlink("..v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/org-1", at("org-1")).unwrap();
        let source = CredentialsSource::Directory { only: None, path: mount.path().to_owned() };
        let credentials = Credentials::load(source).unwrap();
        assert_eq!(exposed(&credentials, "org-1").as_deref(), Some("first"));
        std::os::unix::fs::symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(credentials.reload(), [org("org-1")]);
        assert_eq!(exposed(&credentials, "org-1").as_deref(), Some("second"));
    }

    #[test]
    fn the_age_of_the_oldest_token_is_that_of_its_file_until_it_holds_another() {
        let directory = tempfile::tempdir().unwrap();
        let write = |org: &str, token: &str, written: u64| {
            let path = directory.path().join(org);
            fs::write(&path, token).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        write("org-1", "one", 1000);
        write("org-2", "two", 2000);
        let source = CredentialsSource::Directory { only: None, path: directory.path().to_owned() };
        let credentials = Credentials::load(source).unwrap();
        let oldest = |credentials: &Credentials| {
            credentials.reload();
            credentials
                .oldest_written()
                .unwrap()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        assert_eq!(oldest(&credentials), 1000);
        write("org-1", "one", 3000);
        assert_eq!(oldest(&credentials), 1000, "written again, and still the same token");
        write("org-1", "new", 4000);
        assert_eq!(oldest(&credentials), 2000);
    }

    #[test]
    fn no_debug_shows_a_token() {
        let source = CredentialsSource::Fixed { orgs: vec![org("a")], token: "s3cret".into() };
        let credentials = Credentials::load(source.clone()).unwrap();
        assert!(!format!("{source:?} {credentials:?}").contains("s3cret"));
    }
}
