//! Lines of JSON, written to durable files and read back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{DeadLettersError, ExportFile};

type Result<T> = std::result::Result<T, DeadLettersError>;

/// Lines of JSON at the end of a file.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// # A line that was forced to the disk is complete
    ///
    /// A new file survives a power cut only if its directory was forced to the disk too. And a line
    /// that was cut short (by a full disk or a kill) must not spoil the next one.
    pub(super) fn append_to(path: &Path) -> Result<Self> {
        Self::open(path, OpenOptions::new().create(true))
    }

    /// An export that is appended to another by mistake would be imported or replayed with it. So
    /// an existing file is used only on request. A device or a pipe holds nothing that could be
    /// mixed up.
    pub(super) fn of_export(ExportFile { path, may_exist }: &ExportFile) -> Result<Self> {
        if *may_exist || fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Self::append_to(path);
        }
        match Self::open(path, OpenOptions::new().create_new(true)) {
            Err(DeadLettersError::File { path, source })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Err(DeadLettersError::FileExists { path })
            }
            opened => opened,
        }
    }

    fn open(path: &Path, how: &mut OpenOptions) -> Result<Self> {
        let failed = |source| DeadLettersError::File { path: path.to_owned(), source };
        let mut file = how.read(true).append(true).open(path).map_err(failed)?;
        end_the_line(&mut file).map_err(failed)?;
        sync_directory_of(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
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

fn end_the_line(file: &mut File) -> io::Result<()> {
    // A pipe or a device has no last byte to check.
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_short_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letters.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        for number in 0..2 {
            Lines::append_to(&path).unwrap().write(&number).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"b\"\n0\n1\n");
    }

    #[test]
    fn an_export_is_added_to_another_only_where_that_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("letters.jsonl");
        let open = |may_exist| Lines::of_export(&ExportFile { path: path.clone(), may_exist });
        open(false).unwrap().write(&1).unwrap();
        let refused = open(false).err().unwrap().to_string();
        assert!(refused.contains("letters.jsonl is there already; --append"), "{refused}");
        open(true).unwrap().write(&2).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n");
        let device = ExportFile { path: "/dev/null".into(), may_exist: false };
        assert!(Lines::of_export(&device).is_ok());
    }

    #[test]
    fn a_new_file_may_be_named_without_its_directory() {
        assert!(sync_directory_of(Path::new("letters.jsonl")).is_ok());
        assert!(Lines::append_to(Path::new("/nowhere/letters.jsonl")).is_err());
    }
}
