//! Constants of the algorithms that bound what each holds in memory. The algorithms obey them and the count of memory
//! adds them up, so both read them here. No number of a result depends on one.

/// Bytes of mapped query vectors, or of factors, that stay in memory between two uses if no budget says less. What is
/// read again for every batch should cost no page faults while it is small.
pub(in crate::job) const STAYS: u64 = 160 << 20;

/// Bytes of eigenvectors that wait to be written, at most. Beyond them a part is written, so that a run that is stopped
/// loses little.
pub(in crate::job) const UNSAVED: usize = 64 << 20;

/// Bytes of gradients that the queries of one batch may take at the widest layer. Query gradients are whole matrices,
/// and one batch must not decide the memory of a job.
pub(in crate::job) const GRADIENT_BYTES: usize = 64 << 20;

/// Scores that are in memory before a part of them is written. A part is a file, and many small files are slow.
pub(in crate::job) const PENDING: usize = 1 << 24;

/// Examples whose self-influence is computed between two parts. Each is a query of its own, with a gradient and a walk.
pub(in crate::job) const PART: usize = 256;

/// Numbers of the tangents of one layer that may exist together, the largest first: more of them go through the network
/// beside one pass of its values.
pub(in crate::job) const TANGENTS: [usize; 4] = [1 << 24, 1 << 22, 1 << 20, 1 << 18];
