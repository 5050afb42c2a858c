//! Writes registrations: the text that [`super::Apps::parse`] reads back, and what differs between two.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::Path;

use super::{App, Libs, ReplyShape, Seccomp};
use crate::core::units::sha256;

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

impl App {
    /// Its members and their values as TOML, in order; what has its default is left out.
    fn members(&self) -> Vec<(&'static str, String)> {
        let mut members = vec![
            ("id", quoted(self.id.as_str())),
            ("path", path(&self.path)),
            ("sha256", quoted(&hex::encode(self.sha256))),
            ("uid", self.uid.to_string()),
        ];
        let mut also = |name, value: Option<String>| {
            if let Some(value) = value {
                members.push((name, value));
            }
        };
        also("gid", self.gid.map(|gid| gid.to_string()));
        also("unit", self.unit.as_deref().map(quoted));
        also("tier", self.tier.map(|tier| quoted(&format!("{tier:?}"))));
        also("allow_jit", self.allow_jit.then(|| "true".into()));
        also("seccomp", (self.seccomp == Seccomp::Filter).then(|| quoted("filter")));
        also("serial", (self.serial > 0).then(|| self.serial.to_string()));
        also("not_after", self.not_after.map(|t| quoted(t.to_string().get(..10).unwrap_or_default())));
        also("revoked", self.revoked.then(|| "true".into()));
        also(
            "eth_sign_transaction",
            (self.eth_sign_transaction == ReplyShape::Object).then(|| quoted("object")),
        );
        also("chain", self.chain.map(|chain| quoted(&chain.to_string())));
        let keys = self.release_keys.iter().map(|key| quoted(&key.line()));
        also("release_keys", (!self.release_keys.is_empty()).then(|| list(keys)));
        members
    }

    fn scope(&self) -> Vec<(&'static str, String)> {
        let keys = self.scope.keys.as_ref().map(|keys| list(keys.iter().map(|k| quoted(k.as_str()))));
        let purposes = self.scope.purposes.as_ref();
        let purposes = purposes.map(|all| list(all.iter().map(|p| quoted(&p.to_string()))));
        [("keys", keys), ("purposes", purposes)].into_iter().filter_map(|(n, v)| Some((n, v?))).collect()
    }

    fn files(&self) -> Vec<(String, String)> {
        match &self.libs {
            Libs::RootOwned => Vec::new(),
            Libs::Exact(files) => {
                files.iter().map(|(file, digest)| (path(file), quoted(&hex::encode(digest)))).collect()
            }
        }
    }

    /// SHA-256 of what it says, however it is written.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(self.to_toml().as_bytes())
    }

    /// The whole registration as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::from("[[app]]\n");
        for (name, value) in self.members() {
            let _ = writeln!(text, "{name} = {value}");
        }
        let scope = self.scope();
        if !scope.is_empty() {
            text.push_str("[app.scope]\n");
        }
        for (name, value) in scope {
            let _ = writeln!(text, "{name} = {value}");
        }
        if matches!(self.libs, Libs::Exact(_)) {
            text.push_str("[app.libs]\n");
        }
        for (file, digest) in self.files() {
            let _ = writeln!(text, "{file} = {digest}");
        }
        text
    }

    /// What another registration says otherwise, a line each: `-` what goes, `+` what comes.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let lines = |app: &Self| -> Vec<String> {
            let members = app.members().into_iter().map(|(name, value)| format!("{name} = {value}"));
            members
                .chain(app.scope().into_iter().map(|(name, value)| format!("scope.{name} = {value}")))
                .chain(app.files().into_iter().map(|(file, digest)| format!("{file} = {digest}")))
                .collect()
        };
        let (before, after) = (lines(self), lines(other));
        let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
        gone.chain(after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}")))
            .collect()
    }
}

/// The text with the registration of this app's id in the place of the one before, or at the end.
#[must_use]
pub fn put(text: &str, app: &App) -> String {
    let mut blocks: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.trim_start().starts_with("[[app]]") {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    let ours =
        |block: &String| super::parse::parse(block).is_ok_and(|apps| apps.iter().any(|a| a.id == app.id));
    match blocks.iter_mut().find(|block| ours(block)) {
        // The comments after it belong to what follows.
        Some(block) => {
            let kept: Vec<&str> =
                block.lines().rev().take_while(|l| l.is_empty() || l.starts_with('#')).collect();
            let after: String = kept.iter().rev().map(|line| format!("{line}\n")).collect();
            *block = app.to_toml() + &after;
        }
        None => blocks.push(format!("\n{}", app.to_toml())),
    }
    blocks.concat()
}

#[cfg(test)]
mod tests {
    use super::super::Apps;
    use super::*;

    // [clause 8.2.4-n] test
    #[test]
    fn what_is_remembered_of_a_registration_is_the_digest_of_a_text_that_does_not_change() {
        // A member that comes later is not written where it has its default: or every serial would look used.
        let text = format!(
            "[[app]]\nid = \"a\"\npath = \"/a\"\nsha256 = \"{}\"\nuid = 1\nserial = 2\n",
            "00".repeat(32)
        );
        let reordered = format!(
            "# why\n[[app]]\nuid = 1\nserial = 2\nlibs = \"root-owned\"\ntier = \"T1\"\npath = \"/a\"\nid = \"a\"\nsha256 = \"{}\"\n",
            "00".repeat(32)
        );
        let app = |text: &str| Apps::parse(text).unwrap().all()[0].clone();
        assert_eq!(app(&text).to_toml(), text);
        assert_eq!(app(&text).digest(), sha256(text.as_bytes()));
        assert_eq!(app(&reordered.replace("tier = \"T1\"\n", "")).digest(), app(&text).digest());
        assert_ne!(app(&reordered).digest(), app(&text).digest());
    }

    #[test]
    fn what_is_written_is_read_back_and_takes_the_place_of_what_was() {
        let text = "# apps\n\n[[app]]\nid = \"a\"\npath = \"/a\"\nsha256 = \"00\"\nuid = 1\n\n# the other\n[[app]]\nid = \"b\"\npath = \"/b\"\nsha256 = \"11\"\nuid = 2\n"
            .replace("\"00\"", &quoted(&"00".repeat(32)))
            .replace("\"11\"", &quoted(&"11".repeat(32)));
        let mut app = Apps::parse(&text).unwrap().all()[0].clone();
        app.serial = 7;
        app.tier = Some(crate::core::proof::Tier::T2);
        app.not_after = crate::core::units::Timestamp::parse_day("2031-01-31");
        app.libs = Libs::Exact([("/lib/x y.so".into(), [3; 32])].into());
        app.unit = Some("a.service".into());
        app.seccomp = Seccomp::Filter;
        app.eth_sign_transaction = ReplyShape::Object;
        app.chain = crate::core::payment::Chain::parse("eip155:1");
        app.scope.keys = Some([crate::core::units::Name::parse("hot").unwrap()].into());
        app.scope.purposes = Some([crate::core::key::Purpose::Payment].into());
        let key = include_str!("../../../tests/vectors/sshsig/alice.pub");
        app.release_keys = vec![crate::core::approval::sshsig::SshKey::parse(key).unwrap()];
        let new = put(&text, &app);
        let apps = Apps::parse(&new).unwrap();
        assert_eq!(apps.all()[0], app);
        assert_eq!(apps.all().len(), 2);
        assert!(new.starts_with("# apps\n") && new.contains("# the other\n[[app]]\nid = \"b\""), "{new}");
        let old = Apps::parse(&text).unwrap().all()[0].clone();
        let differences = old.differences(&app);
        assert!(
            differences.contains(&"+ serial = 7".to_owned())
                && !differences.iter().any(|l| l.starts_with('-'))
        );
        app.id = crate::core::units::Name::parse("c").unwrap();
        app.path = "/c".into();
        assert_eq!(Apps::parse(&put(&new, &app)).unwrap().all().len(), 3);
    }
}
