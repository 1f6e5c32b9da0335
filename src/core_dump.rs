//! No core dump of ours: it would write the tokens to a disk, or send them to a collector of dumps.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Forbids core dumps for the rest of this process's life.
///
/// The limit stops files; a kernel that pipes dumps to a collector (`core(5)`) is stopped by the
/// process being marked as not dumpable, where there is such a mark.
///
/// # Errors
/// The system's word.
pub fn forbid() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
