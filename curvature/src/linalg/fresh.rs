//! New memory that is written by all threads: one thread that zeroes it first would have the others wait.
#![allow(unsafe_code)] // memory is called initialised after every place of it was written

use rayon::prelude::*;

use crate::linalg::gemm::Real;

/// `n` numbers, written in tasks of `task`: `write` gets the place of a task's first number and the task's numbers,
/// zero before it.
///
/// # Panics
/// If `task` is 0.
pub fn fresh<T: Real>(n: usize, task: usize, write: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut memory: Vec<T> = Vec::with_capacity(n);
    memory.spare_capacity_mut()[..n].par_chunks_mut(task).enumerate().for_each(|(index, part)| {
        for place in part.iter_mut() {
            place.write(T::of(0.0));
        }
        // SAFETY: every place of the part was written just now, and the slice keeps its borrow.
        let part = unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast::<T>(), part.len()) };
        write(index * task, part);
    });
    // SAFETY: the parts cover the first n places, and each place was written.
    unsafe { memory.set_len(n) };
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_written_once() {
        for (n, task) in [(0, 4), (1, 4), (4, 4), (1001, 16)] {
            let found: Vec<f64> = fresh(n, task, |first, part| {
                part.iter_mut().enumerate().for_each(|(k, x)| *x += (first + k) as f64);
            });
            let want: Vec<f64> = (0..n).map(|k| k as f64).collect();
            assert_eq!(found, want);
        }
        assert_eq!(fresh::<f32>(40, 7, |_, _| ()), vec![0.0; 40]);
    }
}
