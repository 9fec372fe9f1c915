//! Training and query examples: readers, tokenization, batches.
