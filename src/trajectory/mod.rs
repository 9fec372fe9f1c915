//! Training runs on disk: Trainer folders and TOML files, read into validated trajectories.
