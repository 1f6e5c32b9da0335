//! EDGE: tokens and the organisations that they open, from the environment, a file or a directory that may change.

use std::collections::BTreeMap;
use std::collections::btree_map::Keys;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;
use std::{fs, io};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tracing::{error, info};

use crate::messages::OrgId;

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum CredentialsSource {
    /// One token for these organisations.
    Fixed {
        /// The allow-list.
        orgs: Vec<OrgId>,
        /// The token.
        token: SecretString,
    },
    /// One file with the token for these organisations.
    File {
        /// The allow-list.
        orgs: Vec<OrgId>,
        /// The file.
        path: PathBuf,
    },
    /// A directory with one file for each organisation, named by its id: the shape of a mounted Kubernetes secret.
    Directory {
        /// Where given, only these of the directory's organisations.
        only: Option<Vec<OrgId>>,
        /// The directory.
        path: PathBuf,
    },
}

/// Why a token cannot be had; never repeats what the file holds.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// Not there, or no permission.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// File or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The content cannot be a token.
    #[error("{path} holds no token: it is empty or has characters other than visible ASCII inside")]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// The directory has no file named by an organisation's id.
    #[error("{path} has no file that is named by an organisation's id")]
    NoOrganisation {
        /// The directory.
        path: PathBuf,
    },
}

type Tokens = BTreeMap<OrgId, Credential>;

/// A token, and when it was written: the file's time, or the start of the process.
#[derive(Debug, Clone)]
pub struct Credential {
    token: Arc<SecretString>,
    written: SystemTime,
}

impl Credential {
    fn is_same(&self, other: &Self) -> bool {
        self.token.expose_secret() == other.token.expose_secret()
    }
}

/// What a source holds: tokens, and files that hold none.
#[derive(Default)]
struct Reading {
    tokens: Tokens,
    wrong: BTreeMap<OrgId, CredentialsError>,
}

/// The tokens in force.
#[derive(Debug)]
pub struct Credentials {
    source: CredentialsSource,
    tokens: RwLock<Tokens>,
    last_error: Mutex<String>,
}

impl Credentials {
    /// Reads the source for the first time.
    ///
    /// # Errors
    /// [`CredentialsError`] names the file.
    pub fn load(source: CredentialsSource) -> Result<Self, CredentialsError> {
        let Reading { tokens, wrong } = read(&source)?;
        if let Some(trouble) = wrong.into_values().next() {
            return Err(trouble);
        }
        Ok(Self { source, tokens: RwLock::new(tokens), last_error: Mutex::default() })
    }

    /// The token for an organisation; `None` where it may not be touched.
    pub fn token(&self, org: &OrgId) -> Option<Arc<SecretString>> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(org).map(|c| Arc::clone(&c.token))
    }

    /// Whether an organisation may be touched.
    pub fn allow(&self, org: &OrgId) -> bool {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).contains_key(org)
    }

    /// Shows all organisations that may be touched.
    pub fn with_orgs<T>(&self, look: impl FnOnce(Keys<'_, OrgId, Credential>) -> T) -> T {
        look(self.tokens.read().unwrap_or_else(PoisonError::into_inner).keys())
    }

    /// Organisations that were asked for and have no token, so may not be touched.
    pub fn missing(&self) -> Vec<OrgId> {
        let CredentialsSource::Directory { only: Some(only), .. } = &self.source else { return Vec::new() };
        only.iter().filter(|org| !self.allow(org)).cloned().collect()
    }

    /// When the oldest of the tokens in force was written; `None` where there is none.
    pub fn oldest_written(&self) -> Option<SystemTime> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).values().map(|c| c.written).min()
    }

    /// Reads the source again; returns the organisations whose token has changed.
    ///
    /// # A wrong file keeps the last good token
    ///
    /// What cannot be read changes nothing for the organisations that it is about, nor for the others. The trouble is
    /// logged once.
    pub fn reload(&self) -> Vec<OrgId> {
        if matches!(self.source, CredentialsSource::Fixed { .. }) {
            return Vec::new();
        }
        match read(&self.source) {
            Ok(Reading { tokens, wrong }) => {
                self.tell(wrong.values());
                self.replace(tokens, &wrong)
            }
            Err(trouble) => {
                self.tell([&trouble]);
                Vec::new()
            }
        }
    }

    fn tell<'a>(&self, troubles: impl IntoIterator<Item = &'a CredentialsError>) {
        let all: Vec<String> = troubles.into_iter().map(ToString::to_string).collect();
        let all = all.join("; ");
        let mut last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        if *last_error != all && !all.is_empty() {
            error!("credentials: {all}; what was read before stays in force");
        }
        *last_error = all;
    }

    fn replace(&self, mut fresh: Tokens, wrong: &BTreeMap<OrgId, CredentialsError>) -> Vec<OrgId> {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        for org in wrong.keys() {
            if let Some(last_good) = tokens.get(org) {
                fresh.insert(org.clone(), last_good.clone());
            }
        }
        let mut changed = Vec::new();
        for (org, new) in &mut fresh {
            match tokens.get(org) {
                // A secret that is mounted anew is no younger for it.
                Some(old) if old.is_same(new) => new.written = new.written.min(old.written),
                _ => changed.push(org.clone()),
            }
        }
        if !changed.is_empty() || tokens.len() != fresh.len() {
            info!(
                organisations = fresh.len(),
                changed = changed.len(),
                "credentials: read again after a change"
            );
        }
        *tokens = fresh;
        changed
    }
}

/// Reads a token: white space around it does not count.
///
/// # Errors
/// [`CredentialsError::NoToken`] where nothing is left or something is in it that cannot stand in a header.
pub fn token(text: &str, path: &Path) -> Result<SecretString, CredentialsError> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CredentialsError::NoToken { path: path.to_owned() });
    }
    Ok(token.into())
}

fn read(source: &CredentialsSource) -> Result<Reading, CredentialsError> {
    match source {
        CredentialsSource::Fixed { orgs, token } => {
            Ok(same_for_all(orgs, &Credential { token: Arc::new(token.clone()), written: SystemTime::now() }))
        }
        CredentialsSource::File { orgs, path } => Ok(same_for_all(orgs, &read_file(path)?)),
        CredentialsSource::Directory { only, path } => read_directory(path, only.as_deref()),
    }
}

fn same_for_all(orgs: &[OrgId], credential: &Credential) -> Reading {
    let tokens = orgs.iter().map(|org| (org.clone(), credential.clone())).collect();
    Reading { tokens, ..Reading::default() }
}

fn read_file(path: &Path) -> Result<Credential, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let token = token(&fs::read_to_string(path).map_err(unreadable)?, path)?;
    let written = fs::metadata(path).and_then(|file| file.modified()).map_err(unreadable)?;
    Ok(Credential { token: Arc::new(token), written })
}

fn read_directory(path: &Path, only: Option<&[OrgId]>) -> Result<Reading, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let mut reading = Reading::default();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        // A mounted secret has "..data" and the like beside the files; they are no ids.
        let Some(org) = file.file_name().and_then(|name| OrgId::try_from(name.to_str()?.to_owned()).ok())
        else {
            continue;
        };
        if file.is_dir() || only.is_some_and(|only| !only.contains(&org)) {
            continue;
        }
        match read_file(&file) {
            Ok(credential) => drop(reading.tokens.insert(org, credential)),
            Err(trouble) => drop(reading.wrong.insert(org, trouble)),
        }
    }
    if reading.tokens.is_empty() && reading.wrong.is_empty() {
        return Err(CredentialsError::NoOrganisation { path: path.to_owned() });
    }
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn exposed(credentials: &Credentials, id: &str) -> Option<String> {
        credentials.token(&org(id)).map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_wrong_one_keeps_the_last_good_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        fs::write(&path, " first\n").unwrap();
        let credentials =
            Credentials::load(CredentialsSource::File { orgs: vec![org("a")], path: path.clone() }).unwrap();
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
        let credentials = Credentials::load(CredentialsSource::Directory { only: None, path }).unwrap();
        assert_eq!(exposed(&credentials, "org-1").as_deref(), Some("one"));
        assert!(!credentials.allow(&org("org-2")));
        fs::write(directory.path().join("org-2"), "two").unwrap();
        credentials.reload();
        assert_eq!(exposed(&credentials, "org-2").as_deref(), Some("two"));
    }

    #[test]
    fn a_wrong_file_keeps_the_last_good_token_and_does_not_hold_up_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let write = |org: &str, token: &str| fs::write(directory.path().join(org), token).unwrap();
        write("org-1", "one");
        write("org-2", "two");
        let source = CredentialsSource::Directory { only: None, path: directory.path().to_owned() };
        let credentials = Credentials::load(source.clone()).unwrap();
        write("org-1", " \n");
        write("org-2", "new");
        assert_eq!(credentials.reload(), [org("org-2")]);
        assert_eq!(exposed(&credentials, "org-1").as_deref(), Some("one"));
        assert_eq!(exposed(&credentials, "org-2").as_deref(), Some("new"));
        assert!(credentials.last_error.lock().unwrap().contains("org-1 holds no token"));
        let refusal = Credentials::load(source).unwrap_err().to_string();
        assert!(refusal.contains("org-1 holds no token"), "nothing starts half-valid: {refusal}");
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
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(written);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        write("org-1", "one", 1000);
        write("org-2", "two", 2000);
        let source = CredentialsSource::Directory { only: None, path: directory.path().to_owned() };
        let credentials = Credentials::load(source).unwrap();
        let oldest = |credentials: &Credentials| {
            credentials.reload();
            credentials.oldest_written().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
        };
        assert_eq!(oldest(&credentials), 1000);
        write("org-1", "one", 3000);
        assert_eq!(oldest(&credentials), 1000, "written again, and still the same token");
        write("org-1", "new", 4000);
        assert_eq!(oldest(&credentials), 2000);
    }

    #[test]
    fn an_error_names_the_file_and_not_what_it_holds() {
        let error = token("s3 cret", Path::new("/run/token")).unwrap_err().to_string();
        assert!(error.contains("/run/token") && !error.contains("s3"));
    }

    #[test]
    fn no_debug_shows_a_token() {
        let source = CredentialsSource::Fixed { orgs: vec![org("a")], token: "s3cret".into() };
        let credentials = Credentials::load(source.clone()).unwrap();
        assert!(!format!("{source:?} {credentials:?}").contains("s3cret"));
    }
}
