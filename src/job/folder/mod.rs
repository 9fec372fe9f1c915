//! The run folder: what lies where in it, and what its files say.

pub(in crate::job) mod calibration;
pub(in crate::job) mod output;
pub(in crate::job) mod rankings;
pub(in crate::job) mod report;
