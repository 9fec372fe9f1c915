//! What is refused of a pickle.

/// Why bytes are not a pickle that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The bytes end within an opcode.
    #[error("the pickle ends within the opcode at byte {at}")]
    Truncated {
        /// Where the opcode starts.
        at: usize,
    },
    /// An opcode outside the closed list.
    #[error("the pickle has the opcode {opcode:#04x} at byte {at}, which is not one that torch writes")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where.
        at: usize,
    },
    /// A protocol other than 2.
    #[error("the pickle has protocol {protocol}, expected 2")]
    Protocol {
        /// The protocol.
        protocol: u8,
    },
    /// A size beyond what we take.
    #[error("the pickle has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// An opcode does not fit the stack, the memo or the value that it changes.
    #[error("the pickle is damaged: {what} at byte {at}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
        /// Where the opcode starts.
        at: usize,
    },
}
