//! The tests of the library from files to scores, a module for each subject. They are one program, since every program
//! compiles the library's generic code and links it anew.

#![allow(unreachable_pub, reason = "what the modules share is reachable from this program alone")]

mod activations;
mod adam_curvature;
mod adapters;
mod averaged_influence;
mod checkpoints;
mod classifiers;
mod contrasts;
mod damaged;
mod dependencies;
mod families;
mod fit_examples;
mod floors;
mod gauss_newton;
mod golden;
mod gpu;
mod images;
mod invariance;
mod kronfluence;
mod matrix_free;
mod memory;
mod models;
mod resumption;
mod retraining;
mod source;
mod subspace;
mod support;
mod token_shares;
mod zoo;
