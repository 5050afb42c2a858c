//! The registry of apps: the file and the manifests beside it, held against what was ever in force; revocation.
//!
//! A manifest is judged when the daemon starts and at each reload. What is wrong with one is told and written down, and
//! what was in force goes on.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::{Value, json};

use super::House;
use super::keys::now;
use super::rules::{Texts, read_apps};
use crate::config::{Config, read_text};
use crate::core::app::facts::Host;
use crate::core::app::manifest::{self, Court, ManifestFile};
use crate::core::app::memory::Memory;
use crate::core::app::{App, Signer};
use crate::core::approval::Authority;
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;

/// Most manifests beside the file.
const MOST_MANIFESTS: usize = 1024;

/// What became of one file.
pub(super) struct Heard {
    file: String,
    app: String,
    serial: u64,
    outcome: Result<Signer, Refusal>,
}

/// Who signed, in words.
pub(super) fn signer_told(signer: &Signer) -> String {
    match signer {
        Signer::File => "the file".into(),
        Signer::Agreed(people) => format!("change agreed on by {}", people.join(", ")),
        Signer::People(people) => people.join(", "),
        Signer::Release(key) => format!("release key {key}"),
    }
}

impl Heard {
    /// The file of apps itself, which is not in force.
    pub(super) fn of_file(file: &Path, refusal: Refusal) -> Self {
        let file = file.display().to_string();
        Self { file, app: String::new(), serial: 0, outcome: Err(refusal) }
    }

    /// For status: what is not in force, and why.
    pub(super) fn note(&self) -> Option<String> {
        let refusal = self.outcome.as_ref().err()?;
        Some(format!("{} is not in force: {refusal}", self.file))
    }

    /// For who asked.
    pub(super) fn told(&self) -> Value {
        let refusal = self.outcome.as_ref().err();
        json!({
            "file": self.file,
            "app": self.app,
            "serial": self.serial,
            "in_force": refusal.is_none(),
            "signer": self.outcome.as_ref().ok().map(signer_told),
            "code": refusal.map(|r| r.code.as_str()),
            "sentence": refusal.map(|r| r.sentence.as_str()),
            "advice": refusal.map(|r| r.code.advice()),
        })
    }

    fn entry(&self, uid: u32) -> EntryKind {
        let refusal = self.outcome.as_ref().err();
        EntryKind::Registration {
            app: self.app.clone(),
            serial: self.serial,
            how: if refusal.is_none() { "in-force" } else { "refused" }.into(),
            by: self.outcome.as_ref().map(signer_told).unwrap_or_default(),
            file: Some(self.file.clone()),
            code: refusal.map(|r| r.code.as_str().to_owned()),
            sentence: refusal.map_or_else(String::new, |r| r.sentence.chars().take(512).collect()),
            uid,
        }
    }
}

/// What is remembered once the file's registrations are in force. `now` is the file that is.
pub(super) fn admitted(texts: &Texts, now: Option<&str>, by: &[String]) -> Result<Memory, Refusal> {
    if now == Some(texts.apps.as_str()) && by.is_empty() {
        return Ok(texts.memory.clone());
    }
    texts.memory.with_file(&read_apps(&texts.apps)?, by)
}

/// A manifest by its name, or why it cannot be read.
type Found = (String, Result<ManifestFile, Refusal>);

/// A manifest and its signatures; `None` for what is no manifest's name.
fn one(dir: &Path, file: &str) -> Option<Found> {
    let name = file.strip_suffix(".toml").filter(|name| !name.starts_with('.'))?;
    let form = |why: String| Refusal::new(Code::ManifestForm, format!("{file} cannot be read: {why}"));
    let read = |file: &str| {
        let path = dir.join(file);
        // A pipe in its place would be waited for.
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => read_text(&path).map(Some).map_err(|e| form(e.to_string())),
            Ok(_) => Err(form(format!("{file} is no file"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(form(e.to_string())),
        }
    };
    let both = || {
        let text = read(file)?.ok_or_else(|| form("it is gone".into()))?;
        let signatures = read(&format!("{file}.sig"))?.unwrap_or_default();
        Ok(ManifestFile { name: name.to_owned(), text, signatures })
    };
    Some((name.to_owned(), both()))
}

/// All manifests beside the file of apps, by name.
fn all(dir: &Path) -> Result<Vec<Found>, Refusal> {
    let form = |why: String| Refusal::new(Code::ManifestForm, format!("{}: {why}", dir.display()));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(form(e.to_string())),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(|e| form(e.to_string()))?.file_name().to_string_lossy().into_owned());
        if names.len() > MOST_MANIFESTS * 2 {
            return Err(form(format!("it holds more than {MOST_MANIFESTS} manifests")));
        }
    }
    names.sort_unstable();
    Ok(names.iter().filter_map(|name| one(dir, name)).collect())
}

/// Takes what the manifests say that is new; tells of each that came into force, or is refused.
// [clause 8.2.4-m] what does not count is told and written down, and what was in force goes on
pub(super) fn take(config: &Config, host: &Host, texts: &mut Texts) -> Result<Vec<Heard>, Refusal> {
    let file = read_apps(&texts.apps)?;
    let authority = texts.people()?;
    let court = Court { authority: authority.as_ref(), now: Some(now()) };
    let mut heard = Vec::new();
    let manifests = match all(&config.apps.manifests) {
        Ok(manifests) => manifests,
        Err(refusal) => return Ok(vec![Heard::of_file(&config.apps.manifests, refusal)]),
    };
    for (name, manifest) in manifests {
        // Whatever stands in a directory is shown to people.
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        let shown = format!("{}/{name}.toml", config.apps.manifests.display());
        let about = manifest.as_ref().ok().and_then(|m| manifest::about(&m.text));
        let serial = about.map_or(0, |(_, serial)| serial);
        let taken = manifest.and_then(|manifest| texts.memory.with_manifest(&file, &manifest, court));
        let taken = taken.and_then(|taken| match taken {
            Some(taken) => reached(&taken.app, host).map(|()| Some(taken)),
            None => Ok(None),
        });
        let outcome = match taken {
            Ok(None) => continue,
            Ok(Some(taken)) => {
                tracing::info!(
                    app = name,
                    serial,
                    "a manifest comes into force, by {}",
                    signer_told(&taken.signer)
                );
                texts.memory = taken.memory;
                Ok(taken.signer)
            }
            Err(refusal) => {
                tracing::warn!(app = name, serial, "a manifest is refused: {refusal}");
                Err(refusal)
            }
        };
        heard.push(Heard { file: shown, app: name, serial, outcome });
    }
    Ok(heard)
}

fn no_app(name: &str) -> Refusal {
    let shown: String = name.chars().take(64).collect();
    Refusal::new(Code::AppUnknown, format!("there is no app {shown:?}"))
}

fn reached(app: &App, host: &Host) -> Result<(), Refusal> {
    let (most, why) = host.reach(app.uid);
    match app.tier {
        Some(wanted) if wanted > most => {
            let why = format!("app {} asks for {wanted:?}, and here {most:?} is the most: {why}", app.id);
            Err(Refusal::new(Code::TierUnsupported, why))
        }
        _ => Ok(()),
    }
}

impl Texts {
    /// The people of these texts.
    pub(super) fn people(&self) -> Result<Option<Authority>, Refusal> {
        self.authority.as_deref().map(super::rules::read_authority).transpose()
    }
}

impl House {
    /// Writes down what became of the files.
    pub(super) async fn write_heard(&self, heard: &[Heard], uid: u32) -> Result<(), Refusal> {
        for heard in heard {
            self.store.append(heard.entry(uid)).await.map_err(|e| self.store_refusal(&e))?;
        }
        Ok(())
    }

    /// An app gets nothing any more, at once: under the serial that it has, and every lower one, for good.
    // [clause 8.2.4-r] whoever may stop keys takes an app out of service without asking anybody
    pub async fn revoke_app(&self, name: &str, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let reason = super::lifecycle::checked_reason(reason)?;
        let _one_at_a_time = self.changes.lock().await;
        let mut texts = self.texts();
        let revoked = Name::parse(name).and_then(|id| texts.memory.with_revoked(&id));
        let Some((memory, serial)) = revoked else {
            return Err(no_app(name));
        };
        texts.memory = memory;
        self.put_in_force(texts, uid).await?;
        let entry = EntryKind::Registration {
            app: name.to_owned(),
            serial,
            how: "revoked".into(),
            by: format!("operator {uid}"),
            file: None,
            code: None,
            sentence: reason.to_owned(),
            uid,
        };
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        tracing::warn!(app = name, serial, uid, "an app was revoked: {reason}");
        Ok(json!({"app": name, "revoked": true, "serial": serial}))
    }

    /// A registration as it is in force, with who stands behind it, and what was ever in force of the app.
    fn app_told(&self, app: &App) -> Value {
        let rules = self.rules();
        let mut told = super::apps::describe(app);
        let Some(map) = told.as_object_mut() else { return told };
        let keys = self.keys().all();
        let may = |name: &Name| rules.policy.may_use(&app.id, name);
        let scoped = |k: &crate::core::key::KeyRecord| app.scope.permits(&app.id, &k.line, k.purpose).is_ok();
        let names = keys.iter().filter(|k| may(&k.record.name) && scoped(&k.record));
        map.insert("keys".into(), names.map(|k| json!(k.record.name)).collect());
        map.insert("signer".into(), json!(signer_told(&rules.apps.signer(&app.id))));
        map.insert("highest_serial".into(), json!(rules.memory.highest(&app.id)));
        map.insert("state".into(), json!(state(app)));
        told
    }

    /// Registered apps.
    #[must_use]
    pub fn app_list(&self) -> Value {
        self.rules().apps.all().iter().map(|app| self.app_told(app)).collect()
    }

    /// One app: what is in force of it, or, of one that is not registered any more, the highest serial it had.
    pub fn app_shown(&self, name: &str) -> Result<Value, Refusal> {
        let rules = self.rules();
        let id = Name::parse(name);
        if let Some(app) = id.as_ref().and_then(|id| rules.apps.named(id)) {
            let mut told = self.app_told(app);
            if let Some(map) = told.as_object_mut() {
                map.insert("text".into(), json!(app.to_toml()));
            }
            return Ok(told);
        }
        if let Some((highest, id)) = id.and_then(|id| Some((rules.memory.highest(&id)?, id))) {
            return Ok(json!({"id": id, "state": "not registered", "highest_serial": highest}));
        }
        Err(no_app(name))
    }

    /// All that is in force of apps, for the commands that look at the disk and at processes.
    #[must_use]
    pub fn registrations(&self) -> Value {
        let rules = self.rules();
        json!({"apps": rules.apps_text, "registrations": rules.memory.render(), "signed": self.config.apps.signed})
    }
}

/// How a registration stands.
pub(super) fn state(app: &App) -> &'static str {
    match (app.revoked, app.unsigned, app.not_after) {
        (true, ..) => "revoked",
        (_, true, _) => "unsigned",
        (.., Some(end)) if now() >= end => "expired",
        _ => "in force",
    }
}
