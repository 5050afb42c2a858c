//! The duties that come with keys: what users and those who run apps must have read before a key does something for them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::core::log::user::UserEvent;
use crate::core::units::sha256;

/// Longest text, bytes: it is read on a terminal.
const LONGEST: usize = 8192;

/// Who must have acknowledged them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// The user whose key it is.
    Users,
    /// An operator, for each app.
    Apps,
}

/// When they are to be acknowledged anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Again {
    /// When their text changes.
    #[default]
    Text,
    /// When the spending policy changes too.
    Policy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDuties {
    text: String,
    ack: BTreeSet<Whom>,
    #[serde(default)]
    again: Again,
}

/// The duties in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duties {
    /// What people read.
    pub text: String,
    /// SHA-256 of it, hex.
    pub hash: String,
    /// Who must have acknowledged it.
    pub of: BTreeSet<Whom>,
    /// When anew.
    pub again: Again,
}

impl RawDuties {
    pub(super) fn read(self) -> Result<Duties, String> {
        let text = self.text.trim().to_owned();
        if text.is_empty() || text.len() > LONGEST {
            return Err(format!("text has 1 to {LONGEST} bytes"));
        }
        // It is shown on terminals: what moves a cursor there could hide a line.
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return Err("text holds no control characters but line ends".into());
        }
        if self.ack.is_empty() {
            return Err("ack names nobody: say \"users\", \"apps\" or both".into());
        }
        let hash = hex::encode(sha256(text.as_bytes()));
        Ok(Duties { text, hash, of: self.ack, again: self.again })
    }
}

/// What the log calls a user who acknowledges: by name and by the user of this machine, so that a namesake is another one.
#[must_use]
pub fn user(name: &str, uid: u32) -> String {
    format!("user {name} (uid {uid})")
}

/// The same of an app.
#[must_use]
pub fn app(id: &str, uid: u32) -> String {
    format!("app {id} (uid {uid})")
}

/// Who acknowledged what, as the log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged(BTreeSet<(String, String, String)>);

impl Acknowledged {
    /// Keeps what an entry tells.
    pub fn hear(&mut self, event: &UserEvent) {
        if let UserEvent::Acknowledged { who, duties, policy, .. } = event {
            self.0.insert((who.clone(), duties.clone(), policy.clone()));
        }
    }

    /// Whether somebody acknowledged these duties, under this policy where that is asked.
    // [clause 8.8-d] by their very text: other duties are other words, and are read anew
    #[must_use]
    pub fn by(&self, who: &str, duties: &Duties, policy: &str) -> bool {
        match duties.again {
            Again::Text => self.0.iter().any(|(w, text, _)| w == who && *text == duties.hash),
            Again::Policy => self.0.contains(&(who.to_owned(), duties.hash.clone(), policy.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::user::Users;

    fn read(table: &str) -> Result<Duties, String> {
        let users = Users::parse(&format!("schema = 1\n[duties]\n{table}")).map_err(|e| e.to_string())?;
        Ok(users.duties.unwrap())
    }

    // [clause 8.8-d] test
    #[test]
    fn an_acknowledgement_is_of_one_text_and_where_asked_of_one_policy() {
        let duties = read("text = \"Lock the screen.\"\nack = [\"users\"]").unwrap();
        let strict = read("text = \"Lock the screen.\"\nack = [\"users\"]\nagain = \"policy\"").unwrap();
        let other = read("text = \"Lock the door.\"\nack = [\"users\"]").unwrap();
        assert_eq!(duties.hash, strict.hash);
        let (anna, namesake) = (user("anna", 7), user("anna", 8));
        let mut told = Acknowledged::default();
        assert!(!told.by(&anna, &duties, "p1"));
        told.hear(&UserEvent::Acknowledged {
            who: anna.clone(),
            uid: 7,
            duties: duties.hash.clone(),
            policy: "p1".into(),
        });
        assert!(told.by(&anna, &duties, "p1") && told.by(&anna, &duties, "p2"));
        assert!(told.by(&anna, &strict, "p1") && !told.by(&anna, &strict, "p2"), "another policy");
        assert!(!told.by(&anna, &other, "p1"), "another text");
        assert!(!told.by(&namesake, &duties, "p1") && !told.by(&app("anna", 7), &duties, "p1"));
    }

    #[test]
    fn duties_that_nobody_can_read_are_refused() {
        assert!(read("text = \"Report losses.\\nAt once.\"\nack = [\"users\", \"apps\"]").is_ok());
        for (table, why) in [
            ("text = \" \"\nack = [\"users\"]".to_owned(), "1 to 8192"),
            (format!("text = \"{}\"\nack = [\"users\"]", "x".repeat(8193)), "1 to 8192"),
            ("text = \"a\\u001b[2Jb\"\nack = [\"users\"]".to_owned(), "control"),
            ("text = \"a\"\nack = []".to_owned(), "nobody"),
            ("text = \"a\"\nack = [\"owners\"]".to_owned(), "owners"),
            ("text = \"a\"\nack = [\"users\"]\nagain = \"never\"".to_owned(), "never"),
        ] {
            let said = read(&table).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
    }
}
