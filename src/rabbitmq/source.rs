//! The source of the broker's URL. Read at each connect, so that a rotated password needs no
//! restart.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use thiserror::Error;

use super::url::AmqpUrl;

/// The URL or the file that holds it, and the file that holds the password, if any.
#[derive(Debug, Clone)]
pub struct AmqpSource {
    url: UrlSource,
    password: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum UrlSource {
    Fixed(AmqpUrl),
    File(PathBuf),
}

/// Why there is no URL to connect to; never repeats a file's content.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file does not exist or cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("what {path} holds {problem}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl AmqpSource {
    /// A URL that does not change.
    pub fn fixed(url: AmqpUrl) -> Self {
        Self { url: UrlSource::Fixed(url), password: None }
    }

    /// A file that holds the URL.
    pub fn file(path: PathBuf) -> Self {
        Self { url: UrlSource::File(path), password: None }
    }

    /// The same, with the password from this file, whatever the URL says.
    #[must_use]
    pub fn with_password_file(self, password: Option<PathBuf>) -> Self {
        Self { password, ..self }
    }

    /// The current URL.
    ///
    /// # Errors
    /// [`SourceError`] names the file.
    pub fn read(&self) -> Result<AmqpUrl, SourceError> {
        let wrong =
            |path: &Path, problem: String| SourceError::Wrong { path: path.to_owned(), problem };
        let url = match &self.url {
            UrlSource::Fixed(url) => url.clone(),
            UrlSource::File(path) => {
                read(path)?.trim().parse().map_err(|problem| wrong(path, problem))?
            }
        };
        let Some(path) = &self.password else { return Ok(url) };
        let text = read(path)?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(wrong(path, "is not a password: it is empty".to_owned()));
        }
        if password.contains(char::is_control) {
            return Err(wrong(
                path,
                "is not a password: it has a control character in it".to_owned(),
            ));
        }
        Ok(url.with_password(password))
    }
}

fn read(path: &Path) -> Result<String, SourceError> {
    fs::read_to_string(path)
        .map_err(|source| SourceError::Unreadable { path: path.to_owned(), source })
}

impl From<AmqpUrl> for AmqpSource {
    fn from(url: AmqpUrl) -> Self {
        Self::fixed(url)
    }
}

impl FromStr for AmqpSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::fixed)
    }
}

impl fmt::Display for AmqpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            UrlSource::Fixed(url) => url.fmt(f),
            UrlSource::File(path) => write!(f, "the URL in {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(source: &AmqpSource) -> String {
        source.read().unwrap().hosts()[0].authority.userinfo.password.clone()
    }

    #[test]
    fn what_the_files_hold_is_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (url, secret) = (dir.path().join("url"), dir.path().join("password"));
        fs::write(&url, "amqp://u:first@a,b/v\n").unwrap();
        let source = AmqpSource::file(url.clone());
        assert_eq!(password(&source), "first");
        fs::write(&url, "amqp://u:second@a,b/v\n").unwrap();
        assert_eq!(password(&source), "second");
        let source = source.with_password_file(Some(secret.clone()));
        for word in ["th/ird@", " with spaces "] {
            fs::write(&secret, format!("{word}\n")).unwrap();
            assert_eq!(password(&source), word);
        }
        assert_eq!(source.to_string(), format!("the URL in {}", url.display()));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let url = || "amqp://u:p@h/".parse::<AmqpSource>().unwrap();
        let sources =
            [AmqpSource::file(path.clone()), url().with_password_file(Some(path.clone()))];
        let errors = || sources.iter().map(|source| source.read().unwrap_err().to_string());
        assert!(errors().all(|error| error.contains("cannot read") && error.contains("/secret")));
        for text in ["", "s3cret\u{7}x"] {
            fs::write(&path, text).unwrap();
            assert!(errors().all(|error| error.contains("/secret") && !error.contains("s3cret")));
        }
    }
}
