//! What `claviger policy` and `claviger app` understand.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Payment;

/// The policy.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Reads a text and says what is wrong with it, by line; also what it hardly means, such as rules that stand twice.
    Check {
        /// File; signed books are looked for beside it.
        file: PathBuf,
        /// The people who approve and sign; authority_file of the configuration when absent.
        #[arg(long)]
        authority: Option<PathBuf>,
    },
    /// Shows the policy in force.
    Show,
    /// Says what would be decided for a payment of an app, and why.
    Explain {
        /// App id.
        #[arg(long)]
        app: String,
        /// What is known of it: T0, T1, T2 or T3.
        #[arg(long, default_value = "T1")]
        tier: String,
        /// The payment.
        #[command(flatten)]
        payment: Payment,
    },
    /// Compares a text with the policy in force: neutral, tightens, loosens or incomparable.
    Diff {
        /// File.
        file: PathBuf,
        /// Compare with this text in place of the policy in force; no daemon is asked.
        #[arg(long)]
        against: Option<PathBuf>,
        /// With --against: the people who approve and sign; authority_file of the configuration when absent.
        #[arg(long)]
        authority: Option<PathBuf>,
    },
    /// Decides the payments of the past again under a text: which would end otherwise.
    Replay {
        /// File.
        file: PathBuf,
    },
    /// Shows who decides what, and how that came about.
    History,
    /// Puts a policy in force.
    Apply {
        /// File.
        file: PathBuf,
    },
}

/// Apps.
#[derive(Subcommand)]
pub enum AppCommand {
    /// Lists registered apps: serial, who signed, until when, at which tier, how each stands, and its keys.
    List,
    /// Shows one registration, as it is in force.
    Show {
        /// App id.
        id: String,
    },
    /// Takes an app out of service, at once: nothing under its serial or a lower one is in force again.
    Revoke {
        /// App id.
        id: String,
        /// One line, for those who read the log in years.
        #[arg(long)]
        reason: String,
    },
    /// Registers an executable, or what a process runs: prints what will be trusted; takes effect with the reload that
    /// follows.
    #[command(visible_alias = "add")]
    Enrol(Box<Enrol>),
    /// Says what changed since an app was registered, as after an update of the distribution; with --yes, registers it.
    Update {
        /// App id.
        id: String,
        /// A process that runs it, to read its libraries from.
        #[arg(long)]
        pid: Option<i32>,
        /// Write it down.
        #[arg(long)]
        yes: bool,
    },
    /// Makes the full check of a running process, and says what each part came to. Wants the daemon's privileges.
    Verify {
        /// The process.
        pid: i32,
    },
}

/// A registration.
#[derive(Args)]
pub struct Enrol {
    /// App id.
    pub id: String,
    /// Executable; symbolic links are followed.
    #[arg(long, required_unless_present = "pid")]
    pub path: Option<PathBuf>,
    /// A process that runs it: its libraries are looked at as well.
    #[arg(long)]
    pub pid: Option<i32>,
    /// User id that it runs as; the process's, or this user's, when absent.
    #[arg(long)]
    pub uid: Option<u32>,
    /// The least tier at which it is served: T0, T1 (the default), T2, T3.
    #[arg(long)]
    pub tier: Option<String>,
    /// The system unit that it runs in, under a user of its own.
    #[arg(long)]
    pub unit: Option<String>,
    /// It makes code while it runs (JavaScript, Java): T1 at most.
    #[arg(long)]
    pub allow_jit: bool,
    /// Each library by its digest, in place of all that only root can change.
    #[arg(long)]
    pub exact: bool,
    /// The day on which the registration ends: 2030-12-31.
    #[arg(long)]
    pub not_after: Option<String>,
    /// Reply shape of eth_signTransaction: string or object.
    #[arg(long, default_value = "string")]
    pub eth_sign_transaction: String,
    /// What eth_chainId answers, CAIP-2.
    #[arg(long)]
    pub chain: Option<String>,
    /// Print what would be trusted, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}
