//! A user who looks at the console.

/// What users may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Look,
    Act,
}

/// A user who may look.
pub(super) struct Viewer {
    pub(super) by: String,
    /// Whether buttons are shown. Whether they work is decided in `access`.
    pub(super) rights: Rights,
}
