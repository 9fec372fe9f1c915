//! Why something cannot be had from the hub.

use std::path::PathBuf;

use crate::Hint;

/// Why something cannot be had from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is none.
    #[error("`{name}` {problem}")]
    Name {
        /// As it was given.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The hub was not reached.
    #[error("{name}: the hub at {endpoint} cannot be reached")]
    Unreachable {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// Why not.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The hub has no such thing.
    #[error("{name}: the hub at {endpoint} has no {what}")]
    Absent {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// What is not there.
        what: String,
    },
    /// The hub does not give it to whoever asks.
    #[error("{name}: the hub at {endpoint} refuses it (status {status})")]
    Refused {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// The answer's status.
        status: u16,
    },
    /// The hub answered with something else.
    #[error("{name}: the hub at {endpoint} {problem}")]
    Answer {
        /// What was asked for.
        name: String,
        /// Where.
        endpoint: String,
        /// What is wrong with its answer.
        problem: String,
    },
    /// A download that ended early, also when it was tried again.
    #[error("{name}: the download of `{file}` ended after {found} of {size} bytes")]
    Cut {
        /// What was asked for.
        name: String,
        /// The file.
        file: String,
        /// Bytes that are there.
        found: u64,
        /// Bytes that it has.
        size: u64,
    },
    /// A download with other contents than the hub has.
    #[error("{name}: `{file}` was damaged on its way: its SHA-256 is not {expected}")]
    Damaged {
        /// What was asked for.
        name: String,
        /// The file.
        file: String,
        /// The hub's hash.
        expected: String,
    },
    /// Another process fetches the same file.
    #[error("{}: another process is downloading this", file.display())]
    Busy {
        /// The unfinished file.
        file: PathBuf,
    },
    /// Offline, and not in the cache.
    #[error("{name}: not in the cache at {}: no {missing}, and `HF_HUB_OFFLINE` is set", cache.display())]
    NotCached {
        /// What was asked for.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: {action}", path.display())]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Hint for HubError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name { .. } => "a folder or file of this machine is given without `hub:`".into(),
            Self::Unreachable { .. } => {
                "is there a network? `HF_HUB_OFFLINE=1` reads what is in the cache, `HF_ENDPOINT` asks another hub"
                    .into()
            }
            Self::Absent { .. } => {
                "is the name spelt as on the hub? private repositories need a token (`HF_TOKEN`)".into()
            }
            Self::Refused { status: 401 | 403, .. } => {
                "it is private, gated or not there: accept its terms on the hub, and give a token (`HF_TOKEN`)".into()
            }
            Self::Refused { .. } => "try again later".into(),
            Self::Cut { .. } => "run the same command again: it goes on from there".into(),
            Self::Damaged { .. } => "run the same command again".into(),
            Self::Busy { .. } => "wait for it, and run the same command again".into(),
            Self::NotCached { .. } => "leave `HF_HUB_OFFLINE` out once to fetch it".into(),
            Self::Answer { .. } | Self::Cache { .. } => return None,
        })
    }
}
