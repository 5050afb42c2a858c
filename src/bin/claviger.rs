//! The command line. Thin: everything is in `claviger::cli`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    claviger::cli::main()
}
