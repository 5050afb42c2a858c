//! Whether payment keys are backed up, where bundles go, and where the locks are kept that can be thrown away.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::TokenConfig;
use super::token::RawToken;
use crate::core::key::policy::length;

/// A place of the vault.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// Its name; bound into the file.
    pub name: String,
    /// The table, encrypted.
    pub file: PathBuf,
    /// The token that holds its root; the daemon's own when absent.
    pub token: Option<TokenConfig>,
}

/// Backups are made.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Where each bundle is written to.
    pub directories: Vec<PathBuf>,
    /// Places of the vault, at least two.
    pub vaults: Vec<VaultConfig>,
    /// How often all of it is looked over, milliseconds.
    pub verify_ms: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    enabled: bool,
    #[serde(default)]
    directories: Vec<PathBuf>,
    #[serde(default)]
    vault: Vec<RawVault>,
    verify: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVault {
    name: String,
    file: PathBuf,
    token: Option<RawToken>,
}

impl RawBackup {
    // [clause 8.7.1-s] a vault in one place is lost with that place, and every backup with it
    pub(super) fn resolve(self, base: &Path) -> Result<BackupConfig, String> {
        if !self.enabled {
            return Err(
                "backup.enabled = false: whether keys may leave the token is settled when they are made, so \
                        that it is not switched; take the table out where no key was made with it"
                    .into(),
            );
        }
        if self.directories.is_empty() {
            return Err("backup.directories names no place for bundles".into());
        }
        if self.vault.len() < 2 {
            return Err("backup.vault needs two places at least: without its lock no bundle opens".into());
        }
        if self.vault.iter().filter(|v| v.token.is_none()).count() > 1 {
            return Err("backup.vault: only one place has its root in the daemon's own token".into());
        }
        let (mut names, mut files) = (HashSet::new(), HashSet::new());
        let mut vaults = Vec::new();
        for vault in self.vault {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if vault.name.is_empty() || vault.name.len() > 64 || !vault.name.chars().all(plain) {
                return Err(format!("backup.vault: {:?} is no name", vault.name));
            }
            let file = base.join(vault.file);
            if !names.insert(vault.name.clone()) || !files.insert(file.clone()) {
                return Err(format!("backup.vault: {} has its name or its file twice", vault.name));
            }
            let token = vault.token.map(|t| t.resolve(base, "backup.vault.token")).transpose()?;
            vaults.push(VaultConfig { name: vault.name, file, token });
        }
        let verify_ms = length("backup.verify", self.verify.as_deref().unwrap_or("24h"))?;
        if verify_ms == 0 {
            return Err("backup.verify = 0 would do nothing else than look at backups".into());
        }
        let directories = self.directories.into_iter().map(|d| base.join(d)).collect();
        Ok(BackupConfig { directories, vaults, verify_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BackupConfig, String> {
        toml::from_str::<RawBackup>(text).map_err(|e| e.to_string())?.resolve(Path::new("/etc/claviger"))
    }

    // [clause 8.7.1-s] test
    #[test]
    fn a_vault_stands_in_two_places_at_least() {
        let other = "[vault.token]\nprofile = \"embedded\"\ndirectory = \"v\"\n";
        let vault = |name: &str, file: &str| format!("[[vault]]\nname = {name:?}\nfile = {file:?}\n");
        let head = "enabled = true\ndirectories = [\"b\"]\n";
        let good =
            read(&[head, &vault("a", "a.vault"), &vault("b", "/mnt/b.vault"), other].concat()).unwrap();
        assert_eq!(good.directories, [PathBuf::from("/etc/claviger/b")]);
        assert_eq!(good.vaults[1].file, PathBuf::from("/mnt/b.vault"));
        assert_eq!(good.verify_ms, 86_400_000);
        for (text, word) in [
            ([head, &vault("a", "a"), other].concat(), "two places"),
            (["enabled = true\n", &vault("a", "a"), &vault("b", "b"), other].concat(), "directories"),
            ([head, &vault("a", "a"), &vault("b", "b")].concat(), "only one"),
            ([head, &vault("a", "a"), &vault("a", "b"), other].concat(), "twice"),
            ([head, &vault("a", "a"), &vault("b", "a"), other].concat(), "twice"),
            ([head, &vault("a", "a"), &vault("b c", "b"), other].concat(), "no name"),
            (head.replace("true", "false"), "settled"),
            (["verify = \"0h\"\n", head, &vault("a", "a"), &vault("b", "b"), other].concat(), "nothing else"),
        ] {
            assert!(read(&text).unwrap_err().contains(word), "{text}");
        }
    }
}
