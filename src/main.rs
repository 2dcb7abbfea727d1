//! The program: hands the command line and the environment to `run`, prints its answer, exits with its code.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

// musl's own allocator maps and unmaps pages for every few kilobytes, which is a third of a short run.
#[global_allocator]
static ALLOCATOR: mesh_init::sys::alloc::Allocator = mesh_init::sys::alloc::Allocator::new();

fn main() -> ExitCode {
    let answer =
        mesh_init::run::main(std::env::args_os().collect(), &std::env::vars_os().collect::<Vec<_>>());
    std::io::stderr().write_all(answer.stderr.as_bytes()).ok();
    match std::io::stdout().write_all(answer.stdout.as_bytes()) {
        // A reader that went away (a closed pipe) has what it wanted.
        Err(error) if error.kind() != ErrorKind::BrokenPipe && answer.code == 0 => ExitCode::from(1),
        Ok(()) | Err(_) => ExitCode::from(answer.code),
    }
}
