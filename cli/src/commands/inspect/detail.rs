//! How much `ascribe inspect` says.

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// What fits a screen.
    Short,
    /// Everything.
    Full,
}
