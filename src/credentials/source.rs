//! Reads tokens from their source: the settings, one file, or a directory with one file per
//! organisation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

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
    /// A directory with one file per organisation, named by its id: the shape of a mounted
    /// Kubernetes secret.
    Directory {
        /// The allow-list, if one is set besides the directory; otherwise the files are the list.
        only: Option<Vec<OrgId>>,
        /// The directory.
        path: PathBuf,
    },
}

/// Why there is no token; never repeats the file's content.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// It does not exist, or there is no permission.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// File or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The content cannot be a token.
    #[error("{path} holds no token: it is empty or has characters other than visible ASCII inside")]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// The directory has no file named by the id of an organisation that may be touched.
    #[error(
        "{path} has no file that is named by the id of an organisation that may be touched{orgs}"
    )]
    NoOrganisation {
        /// The directory.
        path: PathBuf,
        /// The organisations that may be, if they are listed.
        orgs: String,
    },
}

impl CredentialsError {
    pub(super) fn no_organisation(path: &Path, listed: Option<&[OrgId]>) -> Self {
        let listed: Vec<_> = listed.iter().copied().flatten().map(ToString::to_string).collect();
        let orgs =
            if listed.is_empty() { String::new() } else { format!(": {}", listed.join(", ")) };
        Self::NoOrganisation { path: path.to_owned(), orgs }
    }

    /// Whether the file was listed but does not exist, such as a link to a removed file.
    pub(super) fn is_not_there(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A token, and when it was written: the file's time, or the start of the process.
#[derive(Debug, Clone)]
pub(super) struct Credential {
    pub(super) token: Arc<SecretString>,
    pub(super) written: SystemTime,
}

impl Credential {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.token.expose_secret() == other.token.expose_secret()
    }
}

/// What a source holds for each organisation that it names: a token, or why there is none.
pub(super) type Found = BTreeMap<OrgId, Result<Credential, CredentialsError>>;

/// Reads a token and ignores white space around it.
///
/// # Errors
/// [`CredentialsError::NoToken`] if it is empty or contains characters that a header cannot hold.
pub fn token(text: &str, path: &Path) -> Result<SecretString, CredentialsError> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CredentialsError::NoToken { path: path.to_owned() });
    }
    Ok(token.into())
}

impl CredentialsSource {
    /// The organisations that the settings list; empty if the files of a directory are the list.
    pub(super) fn listed(&self) -> &[OrgId] {
        match self {
            Self::Fixed { orgs, .. } | Self::File { orgs, .. } => orgs,
            Self::Directory { only, .. } => only.as_deref().unwrap_or_default(),
        }
    }

    pub(super) fn read(&self) -> Result<Found, CredentialsError> {
        match self {
            Self::Fixed { orgs, token } => {
                let credential =
                    Credential { token: Arc::new(token.clone()), written: SystemTime::now() };
                Ok(same_for_all(orgs, &credential))
            }
            Self::File { orgs, path } => Ok(same_for_all(orgs, &read_file(path)?)),
            Self::Directory { only, path } => read_directory(path, only.as_deref()),
        }
    }

    /// Reads the source for a start: a directory must hold at least one token.
    pub(super) fn read_first(&self) -> Result<Found, CredentialsError> {
        let found = self.read()?;
        let Self::Directory { path, only } = self else { return Ok(found) };
        if found.values().any(Result::is_ok) {
            return Ok(found);
        }
        let trouble = found.into_values().find_map(Result::err);
        Err(trouble.unwrap_or_else(|| CredentialsError::no_organisation(path, only.as_deref())))
    }
}

fn same_for_all(orgs: &[OrgId], credential: &Credential) -> Found {
    orgs.iter().map(|org| (org.clone(), Ok(credential.clone()))).collect()
}

fn read_file(path: &Path) -> Result<Credential, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let token = token(&fs::read_to_string(path).map_err(unreadable)?, path)?;
    let written = fs::metadata(path).and_then(|file| file.modified()).map_err(unreadable)?;
    Ok(Credential { token: Arc::new(token), written })
}

fn read_directory(path: &Path, only: Option<&[OrgId]>) -> Result<Found, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let mut found = Found::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        // A mounted secret has entries such as "..data" besides the files; they are not ids.
        let Some(org) =
            file.file_name().and_then(|name| OrgId::try_from(name.to_str()?.to_owned()).ok())
        else {
            continue;
        };
        // A dangling link is not a file either, but it names an organisation.
        let is_no_file = fs::metadata(&file).is_ok_and(|entry| !entry.is_file());
        if is_no_file || only.is_some_and(|only| !only.contains(&org)) {
            continue;
        }
        found.insert(org, read_file(&file));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_not_what_it_holds() {
        let error = token("s3 cret", Path::new("/run/token")).unwrap_err().to_string();
        assert!(error.contains("/run/token") && !error.contains("s3"));
    }

    #[test]
    fn hidden_names_names_that_are_no_ids_and_directories_name_no_organisation() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["..data", ".hidden", "README.md", "two words", "org-1"] {
            fs::write(directory.path().join(name), "token").unwrap();
        }
        fs::create_dir(directory.path().join("org-2")).unwrap();
        let source = CredentialsSource::Directory { only: None, path: directory.path().to_owned() };
        let found: Vec<_> = source.read().unwrap().into_keys().collect();
        assert_eq!(found, [OrgId::try_from("org-1".to_owned()).unwrap()]);
    }
}
