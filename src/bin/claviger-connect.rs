//! The helper that speaks for one app. Thin: everything is in `claviger::connect`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    claviger::connect::main()
}
