//! File descriptors: each call, each session with the broker and each client of the operator's port
//! needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the system allows this process. The usual soft limit is 1,024, and
/// `CONCURRENCY` alone may be 1,000. The limit is low for programs that cannot handle more
/// descriptors; this one can.
///
/// # Errors
/// The system's error.
pub fn take_all() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}
