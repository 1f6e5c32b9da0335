//! Disables core dumps: one would write the tokens to a disk, or send them to a dump collector.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Forbids core dumps for the rest of this process's life.
///
/// The limit stops files. Marking the process as not dumpable, on systems that can, also stops a
/// kernel that pipes dumps to a collector (`core(5)`).
///
/// # Errors
/// The system's error.
pub fn forbid() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
