//! One folder for each run: keyed artifacts, atomic writes, parts, locks (docs/architecture.md).
