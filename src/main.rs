//! The program: hands the command line and the environment to `run`, prints its answer, exits with its code.

use std::io::Write;
use std::process::ExitCode;

// musl's own allocator maps and unmaps pages for every few kilobytes, which is a third of a short run.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let answer =
        mesh_init::run::main(std::env::args_os().collect(), &std::env::vars_os().collect::<Vec<_>>());
    // A reader that went away (a closed pipe) is no failure of ours, and there is nobody to tell.
    std::io::stderr().write_all(answer.stderr.as_bytes()).ok();
    std::io::stdout().write_all(answer.stdout.as_bytes()).ok();
    ExitCode::from(answer.code)
}
