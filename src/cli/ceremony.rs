//! `claviger ceremony`: gives the secret of all backups to people, one custodian at a time.
//!
//! Opens the house by itself: the daemon is stopped meanwhile, and no share passes through a socket.
#![forbid(unsafe_code)]

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Failure, Output, show};
use crate::config::{Config, PinSource};
use crate::core::backup::slip39::Scheme;
use crate::secret::Pin;
use crate::service::ceremony::{Ceremony, check_share};
use crate::service::{House, init};

/// Wrong readings of one sheet that are forgiven.
const TRIES: usize = 5;
/// Clears the screen and what was scrolled off it.
const CLEAR: &str = "\x1b[2J\x1b[3J\x1b[H";

/// The ceremony.
#[derive(Subcommand)]
pub enum CeremonyCommand {
    /// Draws the secret, gives it out in shares, proves them, and switches backups on. The daemon is stopped meanwhile.
    Init(Held),
    /// Looks whether a share is still the one that its ceremony gave out. Needs no daemon, no token and nobody else.
    CheckShare {
        /// `quorum.json`, from any backup directory.
        quorum: PathBuf,
    },
    /// Makes an embedded token for one place of the vault, where no other token is at hand.
    Vault {
        /// Its directory, best on a medium of its own.
        #[arg(long)]
        directory: PathBuf,
        /// File of its passphrase; made when it does not exist.
        #[arg(long)]
        pin_file: PathBuf,
    },
}

/// Who gets shares.
#[derive(Args)]
pub struct Held {
    /// A group of custodians: THRESHOLD/SHARES. Several times for several groups.
    #[arg(long = "group", default_value = "3/5", value_parser = group)]
    groups: Vec<(u8, u8)>,
    /// How many groups are needed.
    #[arg(long, default_value_t = 1)]
    groups_needed: u8,
    /// File with the PIN of the token's security officer, where only that one makes keys trusted (PKCS#11).
    #[arg(long)]
    so_pin_file: Option<PathBuf>,
    /// Speak JSON lines in place of a terminal: for tests and rehearsals.
    #[arg(long)]
    script: bool,
}

pub(super) fn officer_pin(file: Option<PathBuf>) -> Result<Option<Pin>, Failure> {
    file.map_or(Ok(None), |file| PinSource::File(file).read().map_err(Failure::plain))
}

fn group(text: &str) -> Result<(u8, u8), String> {
    let number =
        |t: &str| t.parse::<u8>().map_err(|_| format!("{text:?} is not THRESHOLD/SHARES, such as 3/5"));
    let (threshold, shares) =
        text.split_once('/').ok_or_else(|| format!("{text:?} is not THRESHOLD/SHARES"))?;
    Ok((number(threshold)?, number(shares)?))
}

/// Runs one command.
pub fn run(command: CeremonyCommand, config_file: &Path) -> Result<Output, Failure> {
    match command {
        CeremonyCommand::Init(held) => {
            let mut house = house(config_file)?;
            let outcome = hold(&house, held);
            close(&mut house);
            outcome
        }
        CeremonyCommand::CheckShare { quorum } => {
            let text = std::fs::read_to_string(&quorum)
                .map_err(|e| Failure::Usage(format!("{}: {e}", quorum.display())))?;
            let words = if std::io::stdin().is_terminal() {
                let words = crate::service::read_hidden_line("the share (nothing is shown): ");
                Zeroizing::new(words.map_err(Failure::plain)?)
            } else {
                read_line()?
            };
            let value = check_share(&text, &words)?;
            let said = "it is the one; compare the commitment with the sheet, and with the log";
            Ok(Output { text: format!("{said}\n{}", show::fields(&value)), value })
        }
        CeremonyCommand::Vault { directory, pin_file } => {
            let value = init::make_embedded(&directory, &pin_file)?;
            Ok(Output { text: format!("made\n{}", show::fields(&value)), value })
        }
    }
}

/// A house that was opened by a command, and what runs it.
pub(super) struct Opened {
    pub(super) house: std::sync::Arc<House>,
    pub(super) runtime: tokio::runtime::Runtime,
}

/// Opens the house; refused while the daemon runs.
pub(super) fn house(config_file: &Path) -> Result<Opened, Failure> {
    let config = Config::load(config_file).map_err(|e| Failure::Usage(e.to_string()))?;
    let runtime = super::commands::runtime()?;
    let asked = matches!(config.token.pin, PinSource::Unlock);
    let house = runtime.block_on(House::open(config, crate::service::Eyes::open()))?;
    if asked {
        let line = crate::service::read_hidden_line("PIN of the token: ").map_err(|e| {
            Failure::Usage(format!(
                "the PIN cannot be asked for here ({e}); name a pin_file in the configuration"
            ))
        })?;
        let pin = Pin::new(line).ok_or_else(|| Failure::Usage("the PIN is empty".into()))?;
        runtime.block_on(house.unlock(pin, crate::service::effective_uid()))?;
    }
    Ok(Opened { house, runtime })
}

pub(super) fn close(opened: &mut Opened) {
    opened.runtime.block_on(opened.house.finish());
}

/// How custodians are spoken to.
trait Room {
    /// Calls the custodian, shows the share, and takes it away again.
    fn show(&mut self, who: &Custodian, words: &str) -> Result<(), Failure>;
    /// Has it typed from the sheet.
    fn typed(&mut self, who: &Custodian) -> Result<Zeroizing<String>, Failure>;
    /// Says what was wrong.
    fn wrong(&mut self, sentence: &str) -> Result<(), Failure>;
}

struct Custodian {
    group: usize,
    member: usize,
    threshold: u8,
    shares: u8,
    commitment: String,
}

fn hold(opened: &Opened, held: Held) -> Result<Output, Failure> {
    let officer = officer_pin(held.so_pin_file)?;
    let scheme = Scheme { groups_needed: held.groups_needed, groups: held.groups };
    let mut room: Box<dyn Room> = if held.script {
        Box::new(Script)
    } else if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        Box::new(Terminal)
    } else {
        return Err(Failure::Usage(
            "shares are shown on a terminal and nowhere else; --script is for tests and rehearsals".into(),
        ));
    };
    let mut ceremony = opened.runtime.block_on(Ceremony::begin(&opened.house, scheme.clone()))?;
    for (group, member) in ceremony.custodians() {
        let (threshold, shares) = scheme.groups.get(group).copied().unwrap_or_default();
        let commitment = ceremony.commitment(group, member).unwrap_or_default();
        let who = Custodian { group, member, threshold, shares, commitment };
        let words = ceremony.words(group, member).unwrap_or_default();
        room.show(&who, &words)?;
        drop(words);
        for left in (0..TRIES).rev() {
            let typed = room.typed(&who)?;
            match ceremony.read_back(group, member, &typed) {
                Ok(()) => break,
                Err(refusal) if left == 0 => return Err(refusal.into()),
                Err(refusal) => room.wrong(&refusal.sentence)?,
            }
        }
    }
    let value = opened.runtime.block_on(ceremony.finish(
        &opened.house,
        officer.as_ref(),
        crate::service::effective_uid(),
    ))?;
    let text = format!(
        "the quorum is in force; {} sets of shares were put together and gave the secret\n\nepoch: {}\nquorum: {}\n\nnext: start the daemon; each payment key is backed up when it is made",
        show::text(&value, "sets_proved"),
        show::text(&value, "epoch"),
        show::text(&value, "quorum"),
    );
    Ok(Output { text, value })
}

/// What is written on paper or steel: words by number, and room for what seals the bag.
fn sheet(who: &Custodian, words: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2048));
    text.push_str(&format!(
        "CLAVIGER BACKUP SHARE (SLIP-39, no passphrase)\n\ngroup {}, share {} of {}; {} of this group are needed\n\n",
        who.group + 1,
        who.member + 1,
        who.shares,
        who.threshold
    ));
    for (at, word) in (1..).zip(words.split(' ')) {
        text.push_str(&format!("{at:>2} {word:<10}"));
        text.push(if at % 4 == 0 { '\n' } else { ' ' });
    }
    text.push_str(&format!(
        "\n\ncommitment {}\n\ncustodian ______________________   date ____________\nbag serial _____________________   seal ____________\n",
        who.commitment
    ));
    text
}

struct Terminal;

impl Terminal {
    fn line(prompt: &str) -> Result<Zeroizing<String>, Failure> {
        print!("{prompt}");
        std::io::stdout().flush().map_err(Failure::plain)?;
        read_line()
    }
}

/// One line of standard input, with room so that it is not copied while it grows.
pub(super) fn read_line() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::with_capacity(4096));
    let read =
        std::io::Read::take(std::io::stdin().lock(), 4096).read_line(&mut line).map_err(Failure::plain)?;
    if read == 0 {
        return Err(Failure::Usage("the input ended".into()));
    }
    Ok(line)
}

impl Room for Terminal {
    fn show(&mut self, who: &Custodian, words: &str) -> Result<(), Failure> {
        Self::line(&format!(
            "{CLEAR}Call the custodian of group {}, share {}. Everybody else looks away. Enter shows the share. ",
            who.group + 1,
            who.member + 1
        ))?;
        print!("{CLEAR}{}\nWrite it down, then Enter: the screen is cleared. ", *sheet(who, words));
        std::io::stdout().flush().map_err(Failure::plain)?;
        read_line()?;
        Ok(())
    }

    fn typed(&mut self, who: &Custodian) -> Result<Zeroizing<String>, Failure> {
        let typed = Self::line(&format!(
            "{CLEAR}Type the words of group {}, share {} from the sheet, in one line:\n> ",
            who.group + 1,
            who.member + 1
        ))?;
        print!("{CLEAR}");
        std::io::stdout().flush().map_err(Failure::plain)?;
        Ok(typed)
    }

    fn wrong(&mut self, sentence: &str) -> Result<(), Failure> {
        Self::line(&format!("{CLEAR}{sentence}. Look at the sheet, then Enter. "))?;
        Ok(())
    }
}

struct Script;

fn say(value: &Value) -> Result<(), Failure> {
    let line = Zeroizing::new(format!("{value}\n"));
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(Failure::plain)
}

impl Room for Script {
    fn show(&mut self, who: &Custodian, words: &str) -> Result<(), Failure> {
        say(
            &json!({"group": who.group + 1, "share": who.member + 1, "words": words, "commitment": who.commitment}),
        )
    }

    fn typed(&mut self, _: &Custodian) -> Result<Zeroizing<String>, Failure> {
        read_line()
    }

    fn wrong(&mut self, sentence: &str) -> Result<(), Failure> {
        say(&json!({"wrong": sentence}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.2-b] test
    #[test]
    fn a_sheet_holds_every_word_by_its_number_and_room_for_the_seal() {
        let who = Custodian { group: 1, member: 2, threshold: 3, shares: 5, commitment: "c0ffee".into() };
        let words: Vec<String> = (0..33).map(|n| format!("word{n}")).collect();
        let text = sheet(&who, &words.join(" "));
        for part in ["group 2, share 3 of 5; 3 of this group", "commitment c0ffee", "bag serial", "seal"] {
            assert!(text.contains(part), "{part}\n{}", *text);
        }
        for (at, word) in (1..).zip(&words) {
            assert!(text.contains(&format!("{at:>2} {word} ")), "{at}\n{}", *text);
        }
        assert_eq!(group("3/5"), Ok((3, 5)));
        assert!(group("3").is_err() && group("a/5").is_err() && group("3/500").is_err());
    }
}
