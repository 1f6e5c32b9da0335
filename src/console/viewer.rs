//! Somebody who looks at the console.

/// What people may do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Look,
    Act,
}

/// Somebody who may look.
pub(super) struct Viewer {
    pub(super) by: String,
    /// Whether buttons are shown; that they work is another question (see `access`).
    pub(super) rights: Rights,
}
