//! How the command ended, as scripts see it.

use std::process::ExitCode;

/// What every `--help` says about exit codes.
macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0    done (a closed pipe counts as done)
  1    a check said no (`evaluate --at-least`)
  2    an error, or flags that make no sense
  130  interrupted; what was finished is kept, and the same command goes on from there"
    };
}

/// Examples, and then the exit codes.
macro_rules! with_exit_codes {
    ($examples:literal) => {
        concat!($examples, "\n\n", $crate::status::exit_codes!())
    };
}

pub(crate) use {exit_codes, with_exit_codes};

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The command did what was asked.
    Done,
    /// A check said no.
    CheckFailed,
    /// The command could not do what was asked.
    Error,
    /// Somebody stopped it; finished work is kept.
    Interrupted,
}

impl Status {
    /// The code that the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::CheckFailed => 1,
            Self::Error => 2,
            Self::Interrupted => 130,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}
