//! Memory that a thread keeps between tasks, and columns of one buffer that several tasks write.
#![allow(unsafe_code)] // disjoint parts of one buffer, written from several threads

use std::cell::Cell;
use std::marker::PhantomData;
use std::thread::LocalKey;

thread_local! {
    static SINGLE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static DOUBLE: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// A type of numbers that a thread keeps memory of.
pub(crate) trait Workspace: Copy + 'static {
    /// Zero.
    const ZERO: Self;

    /// The memory that this thread keeps.
    fn kept() -> &'static LocalKey<Cell<Vec<Self>>>;
}

impl Workspace for f32 {
    const ZERO: Self = 0.0;

    fn kept() -> &'static LocalKey<Cell<Vec<Self>>> {
        &SINGLE
    }
}

impl Workspace for f64 {
    const ZERO: Self = 0.0;

    fn kept() -> &'static LocalKey<Cell<Vec<Self>>> {
        &DOUBLE
    }
}

/// Lends `n` numbers of unspecified value that this thread keeps for the next task: fresh memory of this
/// size costs more than most kernels, and an allocator gives what was freed back only after a while.
pub(crate) fn with_workspace<T: Workspace, R>(n: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut memory = T::kept().take();
    if memory.len() < n {
        // not `resize`: what the old block holds is not needed
        drop(memory);
        memory = vec![T::ZERO; n];
    }
    let result = f(&mut memory[..n]);
    T::kept().set(memory);
    result
}

/// A row-major matrix whose columns are handed out to different tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns<'a> {
    data: *mut f32,
    length: usize,
    stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is `Columns::part`, whose callers promise that parts in use do not overlap.
unsafe impl Send for Columns<'_> {}
// SAFETY: the same.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// A matrix with rows `stride` apart.
    pub(crate) fn new(data: &'a mut [f32], stride: usize) -> Self {
        Self { data: data.as_mut_ptr(), length: data.len(), stride, lifetime: PhantomData }
    }

    /// Columns `start..start + width` of `row`.
    ///
    /// # Panics
    /// If they lie outside the matrix.
    /// # Safety
    /// No other part that overlaps this one may be in use, on this thread or another.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, row: usize, start: usize, width: usize) -> &'a mut [f32] {
        assert!(start + width <= self.stride && (row + 1) * self.stride <= self.length, "a part inside the matrix");
        // SAFETY: inside the buffer by the assertion; not shared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_nest() {
        with_workspace(8, |outer| {
            outer.fill(1.0);
            with_workspace(16, |inner| inner.fill(2.0));
            assert_eq!(outer, [1.0; 8]);
        });
    }

    #[test]
    fn columns_address_their_rows() {
        let mut data = vec![0.0; 12];
        let columns = Columns::new(&mut data, 4);
        // SAFETY: one part at a time.
        unsafe { columns.part(1, 1, 2).fill(5.0) };
        assert_eq!(data, [0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "inside the matrix")]
    fn columns_outside_are_refused() {
        let mut data = vec![0.0; 12];
        // SAFETY: one part at a time.
        unsafe { Columns::new(&mut data, 4).part(3, 0, 1) };
    }
}
