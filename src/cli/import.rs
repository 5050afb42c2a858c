//! `claviger key import`: a key that was outside, on its way into the token.
//!
//! It is typed, or comes on standard input; never from the words of the command or its environment, which others can see.
//! Words, passphrases and files are opened here: only the one key reaches the daemon, and only when it would take it.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::arguments::ImportWords;
use super::{Failure, Output, client, show};
use crate::core::key::import::{Incoming, Source};
use crate::core::key::{Algorithm, Purpose};
use crate::core::units::Address;
use crate::refusal::{Code, Refusal};

/// Longest line that is read: 24 words, or a passphrase.
const LONGEST_LINE: usize = 1024;
/// Longest file that is read; the reader of each kind says no sooner.
const LONGEST_FILE: u64 = 1 << 20;
const METHOD: &str = "operator_keyImport";

/// Where secrets come from: the terminal, hidden, or lines of standard input.
struct Lines(Option<std::fs::File>);

impl Lines {
    fn open() -> Result<Self, Failure> {
        let input = std::io::stdin();
        if input.is_terminal() {
            return Ok(Self(None));
        }
        // The standard library's own buffer would keep what passes through it.
        let own = input.as_fd().try_clone_to_owned().map_err(Failure::plain)?;
        Ok(Self(Some(own.into())))
    }

    fn next(&mut self, prompt: &str) -> Result<Zeroizing<String>, Failure> {
        let Some(input) = &mut self.0 else {
            let line = crate::service::read_hidden_line(prompt).map_err(Failure::plain)?;
            return Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()));
        };
        let mut line = Zeroizing::new(Vec::with_capacity(LONGEST_LINE));
        let mut byte = Zeroizing::new([0u8; 1]);
        while input.read(&mut *byte).map_err(Failure::plain)? == 1 && *byte != *b"\n" {
            if line.len() == LONGEST_LINE {
                return Err(Failure::Usage(format!("a line of more than {LONGEST_LINE} bytes came in")));
            }
            line.extend_from_slice(&*byte);
        }
        let text =
            std::str::from_utf8(&line).map_err(|_| Failure::Usage("what came in is no UTF-8".into()))?;
        Ok(Zeroizing::new(text.trim_end_matches('\r').to_owned()))
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |e: std::io::Error| Failure::Usage(format!("{}: {e}", file.display()));
    let opened = std::fs::File::open(file).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    opened.take(LONGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn gather(words: &ImportWords, algorithm: Algorithm) -> Result<(Source, Incoming), Failure> {
    let mut lines = Lines::open()?;
    let only = |source: Source| {
        if algorithm == Algorithm::Secp256k1 {
            return Ok(());
        }
        Err(Failure::Usage(format!("{} holds a secp256k1 key, and no {algorithm}", source.as_str())))
    };
    if let Some(file) = &words.pkcs8 {
        let key = Incoming::from_pkcs8(algorithm, &read(file)?, &lines.next("passphrase of the file: ")?)?;
        return Ok((Source::Pkcs8, key));
    }
    if let Some(file) = &words.keystore {
        only(Source::Keystore)?;
        let key = Incoming::from_keystore(&read(file)?, &lines.next("passphrase of the file: ")?)?;
        return Ok((Source::Keystore, key));
    }
    if words.private_key {
        let key = Incoming::from_hex(algorithm, &lines.next("private key, hex: ")?)?;
        return Ok((Source::PrivateKey, key));
    }
    only(Source::Mnemonic)?;
    let mnemonic = lines.next("words: ")?;
    let passphrase = if words.passphrase {
        lines.next("passphrase of the mnemonic: ")?
    } else {
        Zeroizing::new(String::new())
    };
    Ok((Source::Mnemonic, Incoming::from_mnemonic(&mnemonic, &passphrase, &words.path)?))
}

#[derive(Serialize)]
struct Params<'a> {
    name: &'a str,
    purpose: &'a str,
    algorithm: &'a str,
    public: &'a str,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    private: Option<&'a str>,
}

fn agreed() -> Result<bool, Failure> {
    eprint!("import it? [y/N]: ");
    std::io::stderr().flush().map_err(Failure::plain)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::plain)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Runs the command.
// [clause 8.7.1-o] whoever imports sees which account it is before anything leaves this process
pub fn run(words: &ImportWords, socket: &Path) -> Result<Output, Failure> {
    crate::service::harden_process().map_err(Failure::plain)?;
    let unknown = |what: &str, text: &str| Failure::Usage(format!("there is no {what} {text:?}"));
    let purpose = Purpose::parse(&words.purpose).ok_or_else(|| unknown("purpose", &words.purpose))?;
    let algorithm =
        Algorithm::parse(&words.algorithm).ok_or_else(|| unknown("algorithm", &words.algorithm))?;
    let wanted = match &words.address {
        None => None,
        Some(text) => Some(Address::parse(text).ok_or_else(|| unknown("address", text))?),
    };
    let (source, key) = gather(words, algorithm)?;
    let (public, account) = (hex::encode(key.public().as_bytes()), key.public().evm_address());
    if let Some(wanted) = wanted
        && account != Some(wanted)
    {
        let found = account.map_or_else(|| "a key without an address".to_owned(), |a| a.to_string());
        return Err(Refusal::new(Code::ImportOther, format!("this is {found}, and not {wanted}")).into());
    }
    let shown = account.map_or_else(|| public.clone(), |a| a.to_string());
    eprintln!("account: {shown}\nfrom: {}", source.as_str());
    let mut params = Params {
        name: &words.name,
        purpose: purpose.as_str(),
        algorithm: algorithm.as_str(),
        public: &public,
        source,
        private: None,
    };
    // The daemon says what stands against it, or asks people, before it gets to see the key.
    client::call(socket, METHOD, json!(params))?;
    if !words.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage("nobody can be asked here: say --yes, and --address".into()));
        }
        if !agreed()? {
            return Err(Failure::Usage("nothing was imported".into()));
        }
    }
    let mut digits = Zeroizing::new(vec![0u8; 64]);
    hex::encode_to_slice(key.private().expose(), &mut digits).map_err(Failure::plain)?;
    params.private = Some(std::str::from_utf8(&digits).map_err(Failure::plain)?);
    let value: Value = client::call_sealed(socket, METHOD, &params)?;
    let text = format!(
        "imported, and not equal to a key that was made in the token: copies of it may be elsewhere.\nMove the funds to a new key (claviger key create), and destroy this one.\n{}",
        show::fields(&value)
    );
    Ok(Output { text, value })
}
