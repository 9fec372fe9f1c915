//! Where the numbers of a lower triangle lie when its rows stand one behind the other.

/// Numbers in the lower triangle of `[n, n]`, which are also those before row `n`.
pub(crate) const fn numbers(n: usize) -> usize {
    n * (n + 1) / 2
}
