//! Lines of JSON: in files that must outlive us, and from them.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use super::DeadLettersError;

type Result<T> = std::result::Result<T, DeadLettersError>;

/// Lines of JSON at the end of a file.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    pub(super) fn append_to(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let failed = |source| DeadLettersError::File { path: path.to_owned(), source };
        Ok(Self { path: path.to_owned(), file: file.map_err(failed)? })
    }

    pub(super) fn write(&mut self, line: &impl serde::Serialize) -> Result<()> {
        json_line(&mut self.file, line).map_err(|source| self.failed(source))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> DeadLettersError {
        DeadLettersError::File { path: self.path.clone(), source }
    }
}

/// In one write, so that a kill leaves whole lines.
pub(super) fn json_line(out: &mut impl Write, line: &impl serde::Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line).map_err(io::Error::other)?;
    out.write_all(format!("{line}\n").as_bytes())
}

pub(super) fn read_lines(file: Option<&Path>) -> Result<Vec<String>> {
    let path = file.map_or_else(|| PathBuf::from("standard input"), Path::to_owned);
    let read = match file {
        Some(file) => File::open(file).and_then(|file| io::BufReader::new(file).lines().collect()),
        None => io::stdin().lines().collect(),
    };
    read.map_err(|source| DeadLettersError::File { path, source })
}
