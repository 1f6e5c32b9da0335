//! File descriptors: each call, each session with the broker and each client of the operator's port
//! needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is needed beside the calls: sessions with the broker, the operator's port with its clients,
/// name servers, files.
pub const BESIDE_CALLS: u64 = 64;

/// How many this process may have; `None` without a limit.
pub fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

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
