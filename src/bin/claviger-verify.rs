//! The auditor's program: an exported log, and keys that he holds. Thin: everything is in `claviger::cli::audit`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    claviger::cli::audit::main()
}
