//! The run folder: what lies where in it, what its files say, and reading and writing them.

pub(in crate::job) mod before;
pub(in crate::job) mod calibration;
pub(in crate::job) mod intervals;
pub(in crate::job) mod metadata;
pub(in crate::job) mod output;
pub(in crate::job) mod places;
pub(in crate::job) mod present;
pub(in crate::job) mod query_losses;
pub(in crate::job) mod rankings;
pub(in crate::job) mod record;
pub(in crate::job) mod report;
pub(in crate::job) mod tokens;
pub(in crate::job) mod whole_file;
