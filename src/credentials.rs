//! EDGE: tokens and the organisations that they open, from the environment, a file or a directory that may change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::{fs, io};

use secrecy::SecretString;
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

type Tokens = BTreeMap<OrgId, Arc<SecretString>>;

/// The tokens in force.
#[derive(Debug)]
pub struct Credentials {
    source: CredentialsSource,
    tokens: RwLock<Tokens>,
    last_error: RwLock<Option<String>>,
}

impl Credentials {
    /// Reads the source for the first time.
    ///
    /// # Errors
    /// [`CredentialsError`] names the file.
    pub fn load(source: CredentialsSource) -> Result<Self, CredentialsError> {
        let tokens = RwLock::new(read(&source)?);
        Ok(Self { source, tokens, last_error: RwLock::default() })
    }

    /// The token for an organisation; `None` where it may not be touched.
    pub fn token(&self, org: &OrgId) -> Option<Arc<SecretString>> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner).get(org).cloned()
    }

    /// Whether an organisation may be touched.
    pub fn allow(&self, org: &OrgId) -> bool {
        self.token(org).is_some()
    }

    /// Reads the source again. What cannot be read changes nothing: the last good tokens stay in force, and the trouble
    /// is logged once.
    pub fn reload(&self) {
        if matches!(self.source, CredentialsSource::Fixed { .. }) {
            return;
        }
        let mut last_error = self.last_error.write().unwrap_or_else(PoisonError::into_inner);
        match read(&self.source) {
            Ok(tokens) => {
                *last_error = None;
                self.replace(tokens);
            }
            Err(trouble) if last_error.as_deref() != Some(&trouble.to_string()) => {
                error!("credentials: {trouble}; the last good ones stay in force");
                *last_error = Some(trouble.to_string());
            }
            Err(_) => {}
        }
    }

    fn replace(&self, fresh: Tokens) {
        use secrecy::ExposeSecret;
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        let same = tokens.len() == fresh.len()
            && tokens
                .iter()
                .zip(&fresh)
                .all(|(old, new)| old.0 == new.0 && old.1.expose_secret() == new.1.expose_secret());
        if !same {
            *tokens = fresh;
            info!(organisations = tokens.len(), "credentials: read again after a change");
        }
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

fn read(source: &CredentialsSource) -> Result<Tokens, CredentialsError> {
    match source {
        CredentialsSource::Fixed { orgs, token } => Ok(same_for_all(orgs, token.clone())),
        CredentialsSource::File { orgs, path } => Ok(same_for_all(orgs, read_file(path)?)),
        CredentialsSource::Directory { only, path } => read_directory(path, only.as_deref()),
    }
}

fn same_for_all(orgs: &[OrgId], token: SecretString) -> Tokens {
    let token = Arc::new(token);
    orgs.iter().map(|org| (org.clone(), Arc::clone(&token))).collect()
}

fn read_file(path: &Path) -> Result<SecretString, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    token(&fs::read_to_string(path).map_err(unreadable)?, path)
}

fn read_directory(path: &Path, only: Option<&[OrgId]>) -> Result<Tokens, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let mut tokens = Tokens::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        // A mounted secret has "..data" and the like beside the files; they are no ids.
        let Some(org) = file.file_name().and_then(|name| OrgId::try_from(name.to_str()?.to_owned()).ok())
        else {
            continue;
        };
        if file.is_file() && only.is_none_or(|only| only.contains(&org)) {
            tokens.insert(org, Arc::new(read_file(&file)?));
        }
    }
    if tokens.is_empty() {
        Err(CredentialsError::NoOrganisation { path: path.to_owned() })
    } else {
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

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
    fn an_error_names_the_file_and_not_what_it_holds() {
        let error = token("s3 cret", Path::new("/run/token")).unwrap_err().to_string();
        assert!(error.contains("/run/token") && !error.contains("s3"));
    }
}
