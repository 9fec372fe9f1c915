//! The `ascribe` command: flags become a job, the library does it, results go to stdout and talk to stderr.

mod allocator;
mod cli;
mod commands;
#[cfg(test)]
mod documented;
mod failure;
mod hub;
mod interrupt;
mod message;
mod options;
mod progress;
mod report;
mod score_file;
mod show;
mod status;
mod terminal;
mod token_shares;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::parse().command;
    let (style, wording) = (command.message_style(), command.wording());
    match command.run(cli::definition) {
        Ok(status) => status.into(),
        Err(error) if message::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            message::report(&error, style, wording);
            message::exit_status(&error).into()
        }
    }
}
