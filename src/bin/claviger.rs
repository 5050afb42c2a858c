//! The command line. Thin: everything is in `claviger::cli`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    claviger::token::worker::host::run_if_asked().unwrap_or_else(claviger::cli::main)
}
