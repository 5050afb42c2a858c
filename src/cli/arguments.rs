//! The words of the command line.
#![forbid(unsafe_code)]

mod rules;
mod tpm;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::rules::{AppCommand, Enrol, PolicyCommand};
use super::backup::{BackupCommand, Recover};
use super::ceremony::CeremonyCommand;
use super::duties::DutiesCommand;
use super::incident::IncidentCommand;
use super::order::OrderCommand;
use super::user::UserCommand;
pub use tpm::TpmCommand;

/// Operates clavigerd: keys in a token, payments under a policy, a log that proves itself.
#[derive(Parser)]
#[command(
    name = "claviger",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the daemon cannot be reached."
)]
pub struct Arguments {
    /// Configuration of the daemon.
    #[arg(long, global = true, env = "CLAVIGER_CONFIG", default_value = "/etc/claviger/clavigerd.toml")]
    pub config: PathBuf,
    /// Print one JSON document.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Sets up a directory: configuration, rules, the system key.
    Init(Init),
    /// Tells the state of the daemon, its token and its log.
    Status {
        /// Wait up to this many seconds until payments can be signed.
        #[arg(long)]
        wait: Option<u64>,
    },
    /// Keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Signs a payment, for people without a wallet.
    Sign(Payment),
    /// The policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Registered apps.
    #[command(subcommand)]
    App(AppCommand),
    /// Payments that wait for people.
    #[command(subcommand)]
    Approval(ApprovalCommand),
    /// The people who decide: roles, groups, quorums.
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Orders that stop this device, and what it takes to start it again.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Something has happened: stops everything, and keeps what is known.
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// Users: whose keys they are, sessions, confirmations.
    #[command(subcommand)]
    User(UserCommand),
    /// What those who use keys answer for.
    #[command(subcommand)]
    Duties(DutiesCommand),
    /// The log.
    #[command(subcommand)]
    Log(LogCommand),
    /// The token.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Gives the secret of all backups to people.
    #[command(subcommand)]
    Ceremony(CeremonyCommand),
    /// Backups of payment keys.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Brings keys back: shares of the quorum, bundles, and one place of the vault.
    Recover(Recover),
    /// What is known about this machine, and what is demanded of it.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// The state directory.
    #[command(subcommand)]
    State(StateCommand),
    /// Watches that the logs of others only grow.
    #[command(subcommand)]
    Witness(WitnessCommand),
    /// Seals the token's PIN in this machine's TPM.
    #[command(subcommand)]
    Tpm(TpmCommand),
    /// Hands the PIN to the daemon; it is asked on the terminal, or read from standard input.
    Unlock,
    /// Reads policy and apps again.
    Reload,
    /// Finds what is misconfigured and says how to mend it.
    Doctor,
    /// Prints shell completions.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Writes manual pages into a directory.
    Man {
        /// The directory.
        dir: PathBuf,
    },
}

/// Set-up.
#[derive(Args)]
pub struct Init {
    /// Directory to make.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// embedded, softhsm2, yubihsm2, or the path of a profile.
    #[arg(long)]
    pub profile: Option<String>,
    /// Label of the token (PKCS#11).
    #[arg(long)]
    pub token_label: Option<String>,
    /// PKCS#11 module, in place of the profile's candidates.
    #[arg(long)]
    pub module: Option<PathBuf>,
    /// Connector of a YubiHSM: http://HOST:PORT, or usb.
    #[arg(long)]
    pub connector: Option<String>,
    /// File that holds the PIN (mode 0600).
    #[arg(long)]
    pub pin_file: Option<PathBuf>,
    /// Accept a state directory that does not survive power loss.
    #[arg(long)]
    pub allow_volatile: bool,
    /// Ask nothing.
    #[arg(long)]
    pub yes: bool,
}

/// Keys.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Makes a key in the token, for one purpose and for good.
    Create {
        /// Its name.
        name: String,
        /// payment, authentication, encryption, integrity, transport or random.
        #[arg(long, default_value = "payment")]
        purpose: String,
        /// secp256k1, p256, ed25519, aes256-gcm, hmac-sha256 or aes256-kw; the usual one of the purpose when absent.
        #[arg(long)]
        algorithm: Option<String>,
    },
    /// Takes a key over that is in the token already.
    Adopt {
        /// The name that it gets.
        name: String,
        /// Its CKA_ID, hex.
        #[arg(long)]
        id: String,
        /// Its one purpose.
        #[arg(long, default_value = "payment")]
        purpose: String,
    },
    /// Puts a key into the token that was outside. What it is typed from, or read from standard input, nobody else sees.
    Import(ImportWords),
    /// Makes a key usable: a new one, or one that was suspended.
    Activate(Move),
    /// Stops a key for now.
    Suspend(Move),
    /// Ends a payment key: it pays only to what sweep.to in the policy lists.
    SweepOnly(Move),
    /// Ends a key: what it protected may still be processed.
    Deactivate(Move),
    /// Says that a key is, or may be, in other hands: it does nothing any more.
    Compromise(Move),
    /// Destroys a key for good, with every copy: what the daemon reaches at once, the rest by its time.
    Destroy {
        /// Which, and why.
        #[command(flatten)]
        of: Move,
        /// The name once more: what is destroyed does not come back.
        #[arg(long)]
        confirm: String,
        /// Of a payment key: a signed statement that nothing is left in its account.
        #[arg(long, requires = "signature")]
        evidence: Option<PathBuf>,
        /// The signature over it, as ssh-keygen made it.
        #[arg(long, requires = "evidence")]
        signature: Option<PathBuf>,
        /// Or why it is destroyed without one; those who decide read it.
        #[arg(long, conflicts_with = "evidence")]
        waive_balance: Option<String>,
    },
    /// Gives a receipt for a copy that is gone and that the daemon does not reach.
    DestroyReceipt {
        /// The key.
        name: String,
        /// token, vault, bundle or medium, as `claviger key copies` lists it.
        #[arg(long, default_value = "medium")]
        what: String,
        /// Where it was, as it is listed there.
        #[arg(long)]
        place: String,
        /// How it was destroyed, and who saw it.
        #[arg(long)]
        how: String,
    },
    /// Where a key is, by when each copy has to be gone, and what says that it is.
    Copies {
        /// The key.
        name: String,
    },
    /// Prints the signed certificate of a key that is destroyed.
    Certificate {
        /// The key.
        name: String,
    },
    /// Makes a successor and puts it in the key's place; apps go on by the same name.
    Rotate(Move),
    /// When keys end, and what is overdue.
    Due,
    /// Lists all keys.
    List,
    /// Shows one key.
    Show {
        /// Its name.
        name: String,
    },
}

/// A key that was outside.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("from").required(true))]
pub struct ImportWords {
    /// The name that it gets.
    pub name: String,
    /// payment or authentication.
    #[arg(long, default_value = "payment")]
    pub purpose: String,
    /// secp256k1, p256 or ed25519.
    #[arg(long, default_value = "secp256k1")]
    pub algorithm: String,
    /// From the words of a wallet (BIP-39, English).
    #[arg(long, group = "from")]
    pub mnemonic: bool,
    /// From the private key itself, 64 hex digits.
    #[arg(long, group = "from")]
    pub private_key: bool,
    /// From an encrypted PKCS#8 file.
    #[arg(long, group = "from", value_name = "FILE")]
    pub pkcs8: Option<PathBuf>,
    /// From an Ethereum keystore of version 3.
    #[arg(long, group = "from", value_name = "FILE")]
    pub keystore: Option<PathBuf>,
    /// The words have a passphrase of their own: ask for it.
    #[arg(long, requires = "mnemonic")]
    pub passphrase: bool,
    /// The way from the words to the key (BIP-32).
    #[arg(long, requires = "mnemonic", default_value = "m/44'/60'/0'/0/0")]
    pub path: String,
    /// Import this account and no other.
    #[arg(long)]
    pub address: Option<String>,
    /// Ask nothing.
    #[arg(long)]
    pub yes: bool,
}

/// Payments and changes that wait for people.
#[derive(Subcommand)]
pub enum ApprovalCommand {
    /// Lists them.
    List,
    /// Prints the text of one, and nothing else: it is what `ssh-keygen -Y sign -n NAMESPACE` signs. The namespace of a
    /// payment is clavigerd-approval@v1; --json names the others.
    Show {
        /// Request id.
        request: String,
    },
    /// Approves one.
    Approve(Voice),
    /// Refuses one.
    Reject(Voice),
    /// Takes a change back that one asked for.
    Withdraw {
        /// Change id.
        request: String,
    },
}

/// The people who decide.
#[derive(Subcommand)]
pub enum AuthorityCommand {
    /// Shows the document in force.
    Show,
    /// Reads a document and says what is wrong with it.
    Check {
        /// File.
        file: PathBuf,
    },
    /// Puts a document in force, or asks the old people and the new for it.
    Apply {
        /// File.
        file: PathBuf,
    },
}

/// A voice: a signature that was made elsewhere, or a key to make it with here.
#[derive(Args)]
pub struct Voice {
    /// Request id.
    pub request: String,
    /// File of the signature, as ssh-keygen made it.
    #[arg(long, conflicts_with = "key")]
    pub signature: Option<PathBuf>,
    /// SSH key to sign with, through ssh-keygen; the text is shown first.
    #[arg(long)]
    pub key: Option<PathBuf>,
}

/// Which key, and why.
#[derive(Args)]
pub struct Move {
    /// Its name.
    pub name: String,
    /// One line, for those who read the log in years.
    #[arg(long)]
    pub reason: String,
}

/// A payment, by its parts.
#[derive(Args)]
pub struct Payment {
    /// Key name.
    #[arg(long)]
    pub key: String,
    /// Chain, CAIP-2: eip155:N.
    #[arg(long)]
    pub chain: String,
    /// Destination address.
    #[arg(long)]
    pub to: String,
    /// Amount in base units (wei, or the token's).
    #[arg(long)]
    pub amount: String,
    /// native, or erc20:0x… of the token's contract.
    #[arg(long, default_value = "native")]
    pub asset: String,
    /// Account nonce.
    #[arg(long)]
    pub nonce: u64,
    /// Gas limit.
    #[arg(long, default_value_t = 21_000)]
    pub gas: u64,
    /// Highest fee per gas, wei.
    #[arg(long)]
    pub max_fee: String,
    /// Highest priority fee per gas, wei.
    #[arg(long, default_value = "0")]
    pub priority_fee: String,
    /// Only decide: no signature, no reservation.
    #[arg(long)]
    pub simulate: bool,
}

/// The log.
#[derive(Subcommand)]
pub enum LogCommand {
    /// Shows entries.
    Show {
        /// First index; negative counts from the end.
        #[arg(long, default_value_t = -20, allow_negative_numbers = true)]
        from: i64,
        /// How many.
        #[arg(long, default_value_t = 20)]
        count: u64,
    },
    /// Writes the log as static files (C2SP tlog-tiles).
    Export {
        /// Directory to make.
        dir: PathBuf,
    },
    /// Prints the proof that an entry is in the log (C2SP tlog-proof), for somebody who sees nothing else of it.
    Prove {
        /// Index of the entry.
        index: u64,
    },
    /// Verifies an exported log, offline.
    Verify {
        /// Directory.
        dir: PathBuf,
        /// File with the verifier key, from a place that you trust; log.vkey of the export when absent.
        #[arg(long)]
        key: Option<PathBuf>,
    },
}

/// The token.
#[derive(Subcommand)]
pub enum TokenCommand {
    /// Compares the token's objects with the registered keys.
    Inventory,
    /// Proves on the device what its profile claims: the daemon's own token, or another one without the daemon.
    Check {
        /// Profile to check without the daemon; the configured token, through the daemon, when absent.
        profile: Option<String>,
        /// Token label.
        #[arg(long)]
        label: Option<String>,
        /// PKCS#11 module.
        #[arg(long)]
        module: Option<PathBuf>,
        /// Connector of a YubiHSM: http://HOST:PORT, or usb.
        #[arg(long)]
        connector: Option<String>,
        /// PIN file.
        #[arg(long)]
        pin_file: Option<PathBuf>,
        /// Directory of an embedded token.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// The daemon's own token (the default without a profile).
        #[arg(long)]
        configured: bool,
    },
}

/// The machine.
#[derive(Subcommand)]
pub enum DeviceCommand {
    /// Shows each fact: pass, fail or unknown, what is demanded, and what to do about it.
    Facts,
    /// Has the TPM sign the facts and the boot's PCRs, for another machine to judge.
    Quote {
        /// 16 to 64 bytes in hex, drawn by who will judge the quote.
        #[arg(long)]
        nonce: String,
    },
    /// Judges a quote of another machine, without a daemon.
    VerifyQuote {
        /// What `device quote --json` printed there.
        file: PathBuf,
        /// The nonce that was sent.
        #[arg(long)]
        nonce: String,
        /// The key of that machine's TPM, as it was seen when the machine was set up.
        #[arg(long)]
        key: Option<String>,
    },
}

/// The state directory.
#[derive(Subcommand)]
pub enum StateCommand {
    /// Says whether it is the one that was left, and how that is known.
    Show,
    /// Goes on with one that was refused: approvals are void, and every window counts as full until it has passed.
    #[command(alias = "accept-rollback")]
    Accept {
        /// One line, for those who read the log in years.
        #[arg(long)]
        reason: String,
    },
}

/// A witness (C2SP tlog-witness).
#[derive(Subcommand)]
pub enum WitnessCommand {
    /// Cosigns checkpoints of logs that only grow; prints its address and its key, and serves until it is ended.
    Serve {
        /// Directory of its key and of what it saw; made when it is not there.
        #[arg(long)]
        dir: PathBuf,
        /// Its name, such as witness.example/1.
        #[arg(long)]
        name: String,
        /// Address and port.
        #[arg(long, default_value = "127.0.0.1:7380")]
        listen: String,
        /// File with verifier keys of the logs that it watches.
        #[arg(long, required = true)]
        log: Vec<PathBuf>,
    },
}
