//! Arguments in, exit code out.

// The commands are futures in futures, deeper than the compiler looks by default.
#![recursion_limit = "256"]

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(expunged::cli::main()),
        Err(error) => {
            anstream::eprintln!("error: the runtime cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}
