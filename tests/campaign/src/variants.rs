//! Builds of the worker that are never released: with failpoints, and with a fault that the checker
//! must find.
//!
//! Each is built from a copy of the sources, under a name of its own. So `src/` never contains a
//! dangerous line, and no such build lies where the real one is expected.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The changes of one file: each text must occur in it exactly once.
pub(crate) type Change = (&'static str, &'static [(&'static str, &'static str)]);

/// Builds the worker with its failpoints and with these changes, and returns where the program is.
///
/// # Errors
/// Which text did not occur exactly once, or the compiler's message.
pub(crate) fn build(name: &str, changes: &[Change]) -> Result<PathBuf, String> {
    let directory = directory();
    let project = worker();
    let copy = directory.join("campaign").join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", copy.display());
    copy_tree(&project.join("src"), &copy.join("src")).map_err(failed)?;
    copy_file(&project.join("Cargo.lock"), &copy.join("Cargo.lock")).map_err(failed)?;
    let manifest = fs::read_to_string(project.join("Cargo.toml")).map_err(failed)?;
    let manifest = only_the_worker(&manifest, name);
    write(&copy.join("Cargo.toml"), manifest.as_bytes()).map_err(failed)?;
    for (file, texts) in changes {
        let path = copy.join(file);
        let text = change(&fs::read_to_string(&path).map_err(failed)?, texts);
        fs::write(&path, text.map_err(|why| format!("{name}: {file}: {why}"))?).map_err(failed)?;
    }
    compile(&copy, &directory, name)
}

/// Where cargo puts the programs of this build: `target/release`, say.
fn profile() -> PathBuf {
    let own = std::env::current_exe().expect("the campaign's own path");
    own.parent().expect("target/PROFILE/campaign").to_owned()
}

fn directory() -> PathBuf {
    profile().parent().expect("target/PROFILE").to_owned()
}

/// The worker's package.
pub(crate) fn worker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Applies the changes of one file; each text must occur in it exactly once.
pub(crate) fn change(text: &str, texts: &[(&str, &str)]) -> Result<String, String> {
    texts.iter().try_fold(text.to_owned(), |text, (find, replace)| {
        match text.matches(find).count() {
            1 => Ok(text.replace(find, replace)),
            found => Err(format!("{found} times instead of once: {find}")),
        }
    })
}

/// The manifest with one program, under another name, and without anything whose files are not
/// copied.
fn only_the_worker(manifest: &str, name: &str) -> String {
    let left_out = ["workspace]", "dev-dependencies]"];
    let sections = manifest.split("\n[").skip(1);
    let kept: Vec<_> = sections
        .filter(|section| !left_out.iter().any(|header| section.starts_with(header)))
        .map(|section| format!("[{section}\n"))
        .collect();
    // A version of its own; otherwise cargo would take the libraries of two variants for the same
    // one.
    let manifest = kept.concat().replacen(
        "version.workspace = true",
        &format!("version = \"0.0.0+{name}\"\nautobins = false"),
        1,
    );
    format!("{manifest}\n[[bin]]\nname = \"{name}\"\npath = \"src/main.rs\"\n\n[workspace]\n")
}

fn compile(copy: &Path, target: &Path, name: &str) -> Result<PathBuf, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--features", "failpoints", "--bin", name, "--manifest-path"]);
    build.arg(copy.join("Cargo.toml")).arg("--target-dir").arg(target);
    if profile().ends_with("release") {
        build.arg("--release");
    }
    let output = build.stdin(Stdio::null()).output().map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(profile().join(name))
    } else {
        Err(format!("{name} does not build:\n{said}"))
    }
}

/// Does not touch files that are unchanged, so that cargo does not build them again.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for gone in fs::read_dir(to)? {
        let gone = gone?.path();
        match from.join(gone.file_name().unwrap_or_default()) {
            original if original.exists() => {}
            _ if gone.is_dir() => fs::remove_dir_all(gone)?,
            _ => fs::remove_file(gone)?,
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    write(to, &fs::read(from)?)
}

fn write(to: &Path, content: &[u8]) -> std::io::Result<()> {
    if fs::read(to).is_ok_and(|there| there == content) { Ok(()) } else { fs::write(to, content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_whose_text_does_not_occur_exactly_once_is_refused() {
        assert_eq!(change("a b", &[("a", "c")]), Ok("c b".to_owned()));
        assert!(change("a a", &[("a", "c")]).is_err());
        assert!(change("b", &[("a", "c")]).is_err());
    }

    #[test]
    fn the_copied_manifest_names_one_program_and_no_tests() {
        let manifest = only_the_worker(include_str!("../../../Cargo.toml"), "variant");
        assert!(manifest.contains("version = \"0.0.0+variant\""), "{manifest}");
        assert!(
            manifest.contains("[[bin]]\nname = \"variant\"\npath = \"src/main.rs\""),
            "{manifest}"
        );
        for gone in ["members", "[dev-dependencies]", "testkit.workspace"] {
            assert!(!manifest.contains(gone), "{gone}: {manifest}");
        }
    }
}
