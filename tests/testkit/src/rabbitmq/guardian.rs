//! A dead man's switch: runs a shell script once this process has ended, however it ended, `kill
//! -9` included.
//!
//! It is a small shell whose standard input is a pipe that only this process holds; the kernel
//! closes that pipe when the process is gone. Its own process group keeps Ctrl-C from ending the
//! guardian too early.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Sets the switch: `begin` runs now, in the guardian's shell, `end` when this process is gone.
/// Both see the arguments as `$1`, `$2` and on.
pub fn guard(begin: &str, end: &str, arguments: &[&str]) -> Result<(), String> {
    let script = format!("trap '' HUP INT TERM\n{begin}\ncat >/dev/null\n{end}");
    let guardian = Command::new("sh")
        .args(["-c", &script, "guardian"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("sh: {error}"))?;
    // Neither waited for nor dropped: dropping it would close the pipe.
    std::mem::forget(guardian);
    Ok(())
}
