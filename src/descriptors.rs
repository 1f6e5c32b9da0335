//! Descriptors of files: each call, each session with the broker and each visitor of the operator's
//! port needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes as many as the system lets this process have. The usual first limit is 1,024, and
/// `CONCURRENCY` alone may be 1,000; it is kept low for programs that cannot handle more, and this
/// one can.
///
/// # Errors
/// The system's word.
pub fn take_all() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(())
}
