//! How fast memory is read, and how fast files are written.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

/// Bytes that are read from memory, and that are written into a file.
const READ: usize = 64 << 20;
const WRITTEN: usize = 16 << 20;

/// Bytes a second that all threads read together.
pub(super) fn of_memory() -> f64 {
    let numbers = vec![1.0f32; READ / size_of::<f32>()];
    let sum = || numbers.par_chunks(1 << 16).map(|part| part.iter().sum::<f32>()).sum::<f32>();
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        std::hint::black_box(sum());
        best = best.min(start.elapsed().as_secs_f64());
    }
    READ as f64 / best.max(1e-9)
}

/// Bytes a second into a file beside the run folder, and from there onto the disk; guesses if there can be none.
pub(super) fn of_files(run: &Path) -> (f64, f64) {
    let folder = run.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let timed = || -> std::io::Result<(f64, f64)> {
        // it has no name, so that nothing is left of it whatever happens
        let mut file = tempfile::tempfile_in(folder)?;
        let bytes = vec![7u8; WRITTEN];
        let start = Instant::now();
        file.write_all(&bytes)?;
        let copied = start.elapsed().as_secs_f64();
        file.sync_all()?;
        Ok((copied.max(1e-6), start.elapsed().as_secs_f64().max(1e-6)))
    };
    match timed() {
        Ok((copied, synced)) => (WRITTEN as f64 / copied, WRITTEN as f64 / synced),
        Err(_) => (1e9, 2e8),
    }
}
