//! Pays an EIP-1559 transaction with the client library: `cargo run --example pay -- --to 0x… --value 1 --nonce 0`.
//!
//! Register this executable first (`claviger app enrol pay --path target/debug/examples/pay`) and permit it.
#![expect(clippy::print_stdout, reason = "it tells what was decided")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use claviger::client::{Address, Eip1559, Error, Options, Payment, SignedPayment, U256};

#[derive(Parser)]
struct Arguments {
    /// The daemon's socket; without it the one that CLAVIGER_SOCKET names, or the installed one.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// The helper that was installed for this app, in place of the socket.
    #[arg(long)]
    through: Option<PathBuf>,
    /// The user that the daemon runs as, where it is not root that opens the socket.
    #[arg(long)]
    daemon_uid: Option<u32>,
    /// Chain id.
    #[arg(long, default_value_t = 1)]
    chain: u64,
    /// Nonce of the account.
    #[arg(long)]
    nonce: u64,
    /// Who is paid.
    #[arg(long)]
    to: String,
    /// Wei.
    #[arg(long)]
    value: u64,
}

fn main() -> ExitCode {
    match pay(&Arguments::parse()) {
        Ok(signed) => {
            println!("signed {}\nraw {}", signed.hash_hex(), signed.raw_hex());
            ExitCode::SUCCESS
        }
        Err(Error::Refused(why)) => {
            println!("refused {}: {}\nadvice: {}", why.code(), why.message(), why.advice());
            ExitCode::from(1)
        }
        Err(error) => {
            // After Error::Unknown: run it again with the very same words, and the payment is still made once.
            println!("{error}");
            ExitCode::from(75)
        }
    }
}

fn pay(words: &Arguments) -> Result<SignedPayment, Error> {
    let mut options = Options::new();
    if let Some(path) = &words.socket {
        options = options.socket(path);
    }
    if let Some(helper) = &words.through {
        options = options.through(helper);
    }
    if let Some(uid) = words.daemon_uid {
        options = options.daemon_uid(uid);
    }
    let mut client = options.connect()?;
    let account = client.list_keys()?.into_iter().find_map(|key| key.address);
    let payment = Payment::try_from(Eip1559 {
        from: account.ok_or_else(|| Error::Invalid("this app may use no payment key".into()))?,
        chain: words.chain,
        nonce: words.nonce,
        to: Address::parse(&words.to).ok_or_else(|| Error::Invalid("--to is no address".into()))?,
        value: U256::from(words.value),
        gas: 21_000,
        max_fee_per_gas: 1_000_000_000,
        max_priority_fee_per_gas: 1,
        data: Vec::new(),
    })?;
    client.sign_payment(&payment)
}
