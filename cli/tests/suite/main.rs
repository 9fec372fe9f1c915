//! The tests of the command, a module for each subject. They are one program, since every program compiles the
//! library's generic code and links it anew.

#![allow(unreachable_pub, reason = "what the modules share is reachable from this program alone")]

mod averaged_influence;
mod bad_input;
mod bad_training_runs;
mod bf16;
mod contrasts;
mod eigen_blocks;
mod encoder_decoder;
mod evaluate;
mod evaluation_loss;
mod forms;
mod groups;
mod help;
mod hostile;
mod images;
mod influence;
mod layer_sets;
mod loss_check;
mod low_rank;
mod masked_language_model;
mod memory;
mod plan;
mod progress;
mod report;
mod scripts;
mod source;
mod steps;
mod support;
mod token_shares;
mod training_runs;
mod trajectory;
