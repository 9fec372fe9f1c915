//! Where a model's parameters are: in memory, or on disk until their section of the network runs.

use std::fmt::Debug;
use std::ops::Deref;

use super::error::LoadError;

/// When a checkpoint's weights are read, and how long they stay in memory. MLPs are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residence {
    /// All of them, when the model is loaded.
    Kept,
    /// Each block's when it runs, until it has run; loading checks names, shapes and types alone.
    BySection,
}

/// Something that a checkpoint's file holds: checked, but not read.
pub(super) trait Stored: Debug + Send + Sync {
    /// What it is in memory.
    type Value: Debug + Send + Sync;

    /// Reads it.
    fn read(&self) -> Result<Self::Value, LoadError>;
}

/// Parameters of one section.
#[derive(Debug)]
pub(super) enum Held<S: Stored> {
    Kept(S::Value),
    OnDisk(S),
}

/// Parameters while they are used.
pub(super) enum InUse<'a, V> {
    Kept(&'a V),
    Read(V),
}

impl<V> Deref for InUse<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        match self {
            Self::Kept(value) => value,
            Self::Read(value) => value,
        }
    }
}

impl<S: Stored> Held<S> {
    /// Reads it now, if it is to be kept.
    pub(super) fn new(stored: S, residence: Residence) -> Result<Self, LoadError> {
        match residence {
            Residence::Kept => Ok(Self::Kept(stored.read()?)),
            Residence::BySection => Ok(Self::OnDisk(stored)),
        }
    }

    /// The parameters, read if they are not in memory.
    pub(super) fn get(&self) -> candle_core::Result<InUse<'_, S::Value>> {
        match self {
            Self::Kept(value) => Ok(InUse::Kept(value)),
            Self::OnDisk(stored) => stored.read().map(InUse::Read).map_err(in_a_section),
        }
    }

    /// Reads what was not read yet and keeps none of it, so that what is damaged is found before work.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::OnDisk(stored) => stored.read().map(|_| ()),
        }
    }
}

/// An error of reading, as the curvature hands it on.
pub(super) fn in_a_section(error: LoadError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
