//! The words of `claviger tpm`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Subcommand;

use crate::config::DEFAULT_TCTI;

/// The PIN, sealed in a TPM.
#[derive(Subcommand)]
pub enum TpmCommand {
    /// Seals the PIN to this machine, its boot state and a counter in its TPM; makes the counter when it is missing.
    Seal {
        /// File to write; token.pin_tpm in the configuration names it.
        #[arg(long)]
        out: PathBuf,
        /// Where the TPM is: device:/dev/tpmrm0, or a software TPM (swtpm:…).
        #[arg(long, default_value = DEFAULT_TCTI)]
        tcti: String,
        /// Index of the counter, of those that belong to the owner.
        #[arg(long, value_parser = nv_index, default_value = "0x01810c1a")]
        nv_index: u32,
        /// File that holds the PIN (mode 0600); asked on the terminal when absent.
        #[arg(long)]
        pin_file: Option<PathBuf>,
    },
    /// Counts up: every PIN that was sealed to the counter so far stays closed for good.
    Raise {
        /// Index of the counter.
        #[arg(long, value_parser = nv_index)]
        nv_index: u32,
        /// Where the TPM is.
        #[arg(long, default_value = DEFAULT_TCTI)]
        tcti: String,
    },
    /// Says whether a sealed PIN would open now, and if not, why. Prints no PIN.
    Check {
        /// What seal wrote.
        file: PathBuf,
        /// Where the TPM is.
        #[arg(long, default_value = DEFAULT_TCTI)]
        tcti: String,
    },
}

/// TPM tools write indexes in hexadecimal, with 0x in front; so do people.
fn nv_index(text: &str) -> Result<u32, String> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    hex.map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16)).map_err(|e| e.to_string())
}
