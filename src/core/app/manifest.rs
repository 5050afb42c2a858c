//! Signed manifests: a registration, or an update of one, that people or the app's own release key have signed.
//!
//! A manifest is signed as it is, with `ssh-keygen -Y sign -n clavigerd-app@v1`; the signatures stand one after the other
//! in a file of the same name with `.sig` behind it. Once it is in force the file is not needed any more: the daemon keeps
//! what was signed (see [`super::memory`]).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{App, Libs, Signer, parse};
use crate::core::approval::sshsig::{SshSigError, each_armoured, verify};
use crate::core::approval::{Authority, Matter, Shown, judge};
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// SSHSIG namespace of a manifest.
pub const MANIFEST: &str = "clavigerd-app@v1";
/// Most signatures of one manifest.
const MOST_SIGNATURES: usize = 16;
/// Longest manifest, bytes.
const MAX_TEXT: usize = 64 * 1024;
/// The highest serial that a release key may name: people can always go above it.
const HIGHEST_RELEASE: u64 = 1 << 53;
/// Nobody asked for a manifest: no user id is told apart from its signers'.
const NOBODY: u32 = u32::MAX;

/// A manifest's file and the file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// The app that the file is named after.
    pub name: String,
    /// The manifest.
    pub text: String,
    /// Its signatures, armoured, one after the other.
    pub signatures: String,
}

/// Who may speak for apps, and when.
#[derive(Clone, Copy)]
pub struct Court<'a> {
    /// The people.
    pub authority: Option<&'a Authority>,
    /// Now; `None` where it was looked at before.
    pub now: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    deployment: Option<String>,
    app: toml::Table,
}

/// A manifest as it was read; nobody's signature was looked at.
pub(super) struct Draft {
    id: Name,
    serial: u64,
    deployment: Option<String>,
    table: toml::Table,
}

fn form(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::ManifestForm, format!("the manifest cannot be read: {why}"))
}

impl Draft {
    /// Reads a text.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        if text.len() > MAX_TEXT {
            return Err(form(format!("it is longer than {MAX_TEXT} bytes")));
        }
        let raw: Raw = toml::from_str(text).map_err(|e| form(e.message()))?;
        if raw.schema != 1 {
            return Err(form(format!("schema {} is not known here", raw.schema)));
        }
        let id = raw.app.get("id").and_then(toml::Value::as_str).and_then(Name::parse);
        let serial = raw.app.get("serial").and_then(toml::Value::as_integer);
        let serial = serial.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        if !raw.app.contains_key("sha256") {
            return Err(form("it names no sha256"));
        }
        Ok(Self {
            id: id.ok_or_else(|| form("it names no app"))?,
            serial: serial.ok_or_else(|| form("it has no serial of 1 or more"))?,
            deployment: raw.deployment,
            table: raw.app,
        })
    }

    /// The registration, by itself.
    pub(super) fn whole(&self) -> Result<App, Refusal> {
        parse::one(self.table.clone()).map_err(form)
    }

    /// What becomes of a registration with it: what it does not name stays.
    // [clause 8.2.4-m] a release key changes digests, its serial and how long it holds, and nothing that gives more
    pub(super) fn over(&self, ground: &App) -> Result<App, Refusal> {
        let mut table = parse::table_of(ground).ok_or_else(|| form("what it updates cannot be written"))?;
        table.extend(self.table.clone());
        let app = parse::one(table).map_err(form)?;
        let beyond = |what: &str| {
            let why = format!("a release key of {} cannot change {what}", ground.id);
            Err(Refusal::new(Code::ManifestBeyond, why))
        };
        let mut same = ground.clone();
        if app.serial > HIGHEST_RELEASE {
            return beyond("the serial to one above which nobody could go");
        }
        (same.sha256, same.serial, same.not_after, same.revoked) =
            (app.sha256, app.serial, app.not_after, app.revoked);
        same.libs.clone_from(&app.libs);
        if same != app {
            let what: Vec<String> = same.differences(&app);
            return beyond(&what.join(", "));
        }
        match (&ground.libs, &app.libs) {
            (Libs::Exact(_), Libs::RootOwned) => return beyond("a list of libraries to all that root owns"),
            (Libs::Exact(_) | Libs::RootOwned, _) => {}
        }
        let longer = match (ground.not_after, app.not_after) {
            (Some(most), Some(asked)) => asked > most,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if longer {
            return beyond("the day on which the registration ends to a later one");
        }
        Ok(app)
    }
}

/// The signature that was made for something else, or does not fit.
fn unfit(at: usize, e: &SshSigError) -> Refusal {
    Refusal::new(Code::ManifestSignature, format!("signature {at}: {e}"))
}

fn stranger(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::ManifestSigner, why)
}

/// Who signed: enough people, or a release key.
fn signer(file: &ManifestFile, ground: Option<&App>, court: Court<'_>) -> Result<Signer, Refusal> {
    let quorum = court.authority.and_then(|a| Some((a, a.quorum(Matter::Apps)?)));
    let (mut people, mut release, mut last) = (BTreeSet::new(), None, None);
    for (at, armoured) in (1..).zip(each_armoured(&file.signatures)) {
        if at > MOST_SIGNATURES {
            return Err(stranger(format!("more than {MOST_SIGNATURES} signatures stand beside it")));
        }
        let signature = verify(armoured, MANIFEST, file.text.as_bytes()).map_err(|e| unfit(at, &e))?;
        let fingerprint = signature.key.fingerprint();
        if ground.is_some_and(|app| app.release_keys.contains(&signature.key)) {
            if court.authority.is_some_and(|a| a.is_revoked(&fingerprint)) {
                return Err(stranger(format!("the release key {fingerprint} is revoked")));
            }
            if signature.presence.is_some_and(|presence| !presence.touched) {
                return Err(stranger(format!("the authenticator of {fingerprint} was not touched")));
            }
            release = Some(fingerprint.clone());
            // A person's key may be one too: then it is both.
            if court.authority.is_none_or(|a| a.person_of(&signature.key).is_none()) || quorum.is_none() {
                continue;
            }
        }
        // One that does not count is no noise to be skipped: somebody put it there.
        let Some((authority, quorum)) = quorum else {
            let why = format!("{fingerprint} is no release key of the app, and no [quorum.apps] is in force");
            return Err(stranger(why));
        };
        let shown = Shown { text: file.text.clone(), needs: quorum.needs.clone() };
        let voice = judge(authority, &shown, NOBODY, MANIFEST, armoured, |_| None)
            .map_err(|refusal| stranger(format!("signature {at}: {}", refusal.sentence)))?;
        people.insert(voice.person);
        last = Some((authority, quorum));
    }
    let enough = last.filter(|(_, q)| u32::try_from(people.len()).is_ok_and(|n| n >= q.needs.quorum));
    match (enough, release, last) {
        (Some((authority, quorum)), ..) => {
            // What people decide rests as long as their document says: a manifest is no way around a veto.
            if quorum.delay_ms > 0 && court.now.is_some() {
                let seconds = quorum.delay_ms / 1000;
                let why =
                    format!("what {} decide on apps rests {seconds} s before it counts", quorum.needs.of);
                return Err(Refusal::new(Code::ManifestHeld, why));
            }
            let draft = Draft::read(&file.text)?;
            if draft.deployment.as_ref() != Some(&authority.deployment) {
                let why = format!("it is not for deployment {:?}", authority.deployment);
                return Err(Refusal::new(Code::ManifestOther, why));
            }
            Ok(Signer::People(people.into_iter().collect()))
        }
        (None, Some(fingerprint), _) => Ok(Signer::Release(fingerprint)),
        (None, None, Some((_, quorum))) => {
            let who: Vec<&str> = people.iter().map(String::as_str).collect();
            let (n, of) = (quorum.needs.quorum, &quorum.needs.of);
            Err(stranger(format!("{n} of {of} must sign it, and {} did", who.join(", "))))
        }
        (None, None, None) => {
            let why = format!("nobody has signed the manifest of {}", file.name);
            Err(Refusal::new(Code::ManifestUnsigned, why))
        }
    }
}

/// Judges a manifest against what it would update: the registration that it makes, and who stands behind it.
// [clause 8.2.4-m] these very bytes, signed by who may, for this app and deployment, and not past its day
pub(super) fn judged(
    file: &ManifestFile,
    ground: Option<&App>,
    court: Court<'_>,
) -> Result<(App, Signer), Refusal> {
    if file.text.contains('\r') || file.text.starts_with('\u{feff}') {
        let why =
            format!("the manifest of {} has other line ends, or a mark, than what is signed", file.name);
        return Err(Refusal::new(Code::ManifestLines, why));
    }
    let draft = Draft::read(&file.text)?;
    if draft.id.as_str() != file.name {
        let why = format!("{}.toml is the manifest of app {}", file.name, draft.id);
        return Err(Refusal::new(Code::ManifestOther, why));
    }
    let here = court.authority.map(|a| a.deployment.as_str());
    if let (Some(named), Some(here)) = (&draft.deployment, here)
        && named != here
    {
        let why = format!("it is for deployment {named:?}, and this is {here:?}");
        return Err(Refusal::new(Code::ManifestOther, why));
    }
    let signer = signer(file, ground, court)?;
    let app = match (&signer, ground) {
        (Signer::Release(_), Some(ground)) => draft.over(ground)?,
        _ => draft.whole()?,
    };
    if let (Some(end), Some(now)) = (app.not_after, court.now)
        && now >= end
    {
        return Err(Refusal::new(
            Code::ManifestExpired,
            format!("the manifest of {} ended at {end}", app.id),
        ));
    }
    Ok((app, signer))
}

/// The app and serial that a text is about, for the log; nothing is believed of it.
#[must_use]
pub fn about(text: &str) -> Option<(Name, u64)> {
    Draft::read(text).ok().map(|draft| (draft.id, draft.serial))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
