//! What was ever in force of each app: its highest serial, what had it, and the manifests that are in force now.
//!
//! Files are proposals. What is remembered decides which of them count, over restarts too: it is kept beside the log, and
//! its SHA-256 stands in the entry that announces the apps.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{self, Court, Draft, ManifestFile};
use super::{App, Apps, AppsError, Signer, parse};
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};

/// A manifest that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    text: String,
    signatures: String,
    /// People, or the fingerprint of a release key.
    by: Vec<String>,
}

/// What is remembered of one app. It is never forgotten, whether the app is registered or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The highest serial that was ever in force.
    highest: u64,
    /// SHA-256 of the registration that had it.
    digest: String,
    /// SHA-256 of what the file said of it last; absent when the file does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// Who agreed to that, where people did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    agreed: Vec<String>,
    /// The manifest of the people, which stands in the file's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    people: Option<Kept>,
    /// The manifest of a release key, over what people or the file say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Kept>,
    /// The serial up to which an operator revoked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
}

/// What is remembered of all apps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(BTreeMap<Name, Known>);

/// A manifest that counts, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What is remembered from now on.
    pub memory: Memory,
    /// The registration.
    pub app: App,
    /// Who signed.
    pub signer: Signer,
}

fn lower(app: &App, highest: u64) -> Refusal {
    let why = format!("app {} has serial {}, and {highest} was in force", app.id, app.serial);
    Refusal::new(Code::AppSerial, why)
}

impl Known {
    /// Refuses what goes back, or says something else under the same number.
    // [clause 8.2.4-n] counted from the highest that was ever in force, whatever became of the app meanwhile
    fn follows(&self, app: &App, digest: &str) -> Result<(), Refusal> {
        if app.serial < self.highest {
            return Err(lower(app, self.highest));
        }
        // A registration that was never numbered may change; from its first number on each change takes another.
        if app.serial > 0 && app.serial == self.highest && self.digest != digest {
            let why = format!("another registration of app {} had serial {}", app.id, app.serial);
            return Err(Refusal::new(Code::AppSerialReused, why));
        }
        Ok(())
    }

    fn is_now(&mut self, app: &App, digest: String) {
        (self.highest, self.digest) = (app.serial, digest);
        // What is decided after a revocation, under a higher serial, is not revoked with it.
        self.revoked = self.revoked.filter(|through| *through >= app.serial);
    }
}

impl Memory {
    /// Reads what was kept.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As it is kept: always the same bytes for the same memory.
    #[must_use]
    pub fn render(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The highest serial of an app that was ever in force.
    #[must_use]
    pub fn highest(&self, id: &Name) -> Option<u64> {
        self.0.get(id).map(|known| known.highest)
    }

    /// The app of which less is remembered than before, if there is one: nobody forgets a serial or a revocation.
    #[must_use]
    pub fn goes_back<'a>(&self, before: &'a Self) -> Option<&'a Name> {
        let less = |id: &Name, was: &Known| match self.0.get(id) {
            None => true,
            Some(now) => {
                let lifted = was.revoked > now.revoked && was.revoked >= Some(now.highest);
                now.highest < was.highest || lifted
            }
        };
        before.0.iter().find(|(id, was)| less(id, was)).map(|(id, _)| id)
    }

    /// What is remembered once these registrations are in force. `by` are the people who agreed, where they did.
    pub fn with_file(&self, file: &Apps, by: &[String]) -> Result<Self, Refusal> {
        let mut next = self.clone();
        for app in file.all() {
            let digest = hex::encode(app.digest());
            let known = next.0.entry(app.id.clone()).or_default();
            if known.file.as_ref() == Some(&digest) {
                if !by.is_empty() {
                    known.agreed = by.to_vec();
                }
                continue;
            }
            known.follows(app, &digest)?;
            if app.serial > known.highest {
                (known.people, known.release) = (None, None);
            }
            known.is_now(app, digest.clone());
            (known.file, known.agreed) = (Some(digest), by.to_vec());
        }
        for (id, known) in &mut next.0 {
            if file.named(id).is_none() {
                (known.file, known.agreed) = (None, Vec::new());
                // What it was an update of is gone.
                known.release = known.release.take().filter(|_| known.people.is_some());
            }
        }
        next.in_force(file, false).map_err(|e| Refusal::new(Code::PolicyInvalid, format!("apps: {e}")))?;
        Ok(next)
    }

    /// What is remembered once a manifest is in force; `None` when it is already.
    pub fn with_manifest(
        &self,
        file: &Apps,
        manifest: &ManifestFile,
        court: Court<'_>,
    ) -> Result<Option<Taken>, Refusal> {
        let id = Name::parse(&manifest.name);
        let known = id.as_ref().and_then(|id| self.0.get(id));
        let there = |kept: &Option<Kept>| kept.as_ref().is_some_and(|kept| kept.text == manifest.text);
        if known.is_some_and(|known| there(&known.people) || there(&known.release)) {
            return Ok(None);
        }
        let ground = id.as_ref().and_then(|id| self.ground(file, id).transpose()).transpose();
        let ground = ground.map_err(|e| Refusal::new(Code::ManifestForm, e.to_string()))?;
        let (app, signer) = manifest::judged(manifest, ground.as_ref(), court)?;
        let digest = hex::encode(app.digest());
        let mut next = self.clone();
        let known = next.0.entry(app.id.clone()).or_default();
        known.follows(&app, &digest)?;
        let kept = |by: &[String]| {
            let (text, signatures) = (manifest.text.clone(), manifest.signatures.clone());
            Some(Kept { text, signatures, by: by.to_vec() })
        };
        match &signer {
            Signer::Release(key) => {
                // Who may update it cannot bring back what was taken out of service.
                if known.revoked.is_some() || ground.as_ref().is_some_and(|app| app.revoked) {
                    let why = format!("{} was revoked, which a release key does not undo", app.id);
                    return Err(Refusal::new(Code::AppRevoked, why));
                }
                known.release = kept(std::slice::from_ref(key));
            }
            Signer::People(people) => (known.people, known.release) = (kept(people), None),
            Signer::File | Signer::Agreed(_) => {}
        }
        known.is_now(&app, digest);
        next.in_force(file, false).map_err(|e| Refusal::new(Code::ManifestForm, e.to_string()))?;
        Ok(Some(Taken { memory: next, app, signer }))
    }

    /// What is remembered once an operator has revoked an app as it is.
    // [clause 8.2.4-r] nothing under this serial or a lower one is in force again
    #[must_use]
    pub fn with_revoked(&self, id: &Name) -> Option<(Self, u64)> {
        let mut next = self.clone();
        let known = next.0.get_mut(id)?;
        known.revoked = Some(known.highest);
        let through = known.highest;
        Some((next, through))
    }

    /// What people or the file say of an app: what a release key updates.
    fn ground(&self, file: &Apps, id: &Name) -> Result<Option<App>, AppsError> {
        match self.0.get(id).and_then(|known| known.people.as_ref()) {
            Some(kept) => read(id, &kept.text, None).map(Some),
            None => Ok(file.named(id).cloned()),
        }
    }

    /// The registrations in force: what the file says, what was signed over it, and what was revoked. `signed` when
    /// nothing counts without a signature.
    pub fn in_force(&self, file: &Apps, signed: bool) -> Result<Apps, AppsError> {
        let mut apps = Apps { apps: Vec::new(), ..file.clone() };
        let ids = file.all().iter().map(|app| &app.id);
        let beside = self.0.iter().filter(|(id, known)| file.named(id).is_none() && known.people.is_some());
        for id in ids.chain(beside.map(|(id, _)| id)) {
            let Some(ground) = self.ground(file, id)? else { continue };
            let known = self.0.get(id).cloned().unwrap_or_default();
            let mut app = match &known.release {
                Some(kept) => read(id, &kept.text, Some(&ground))?,
                None => ground,
            };
            let by = |kept: &Kept| kept.by.clone();
            let signer = match (&known.release, &known.people, known.agreed.is_empty()) {
                (Some(kept), ..) => Signer::Release(kept.by.concat()),
                (None, Some(kept), _) => Signer::People(by(kept)),
                (None, None, false) => Signer::Agreed(known.agreed.clone()),
                (None, None, true) => Signer::File,
            };
            app.revoked |= known.revoked.is_some_and(|through| through >= app.serial);
            // [clause 8.2.4-m] a release key updates what somebody signed; by itself it is no signature
            app.unsigned = signed && known.people.is_none() && known.agreed.is_empty();
            parse::apart(&apps.apps, &app)?;
            apps.signers.insert(app.id.clone(), signer);
            apps.apps.push(app);
        }
        Ok(apps)
    }

    /// Judges again, for an auditor, the manifests that are in force and were not before; gives what is wrong.
    #[must_use]
    pub fn audited(&self, file: &Apps, court: Court<'_>, before: &Self) -> Vec<String> {
        let back = self.goes_back(before);
        let mut wrong: Vec<String> =
            back.map(|id| format!("what is remembered of app {id} goes back")).into_iter().collect();
        for (id, known) in &self.0 {
            let was = before.0.get(id);
            let ground = self.ground(file, id).ok().flatten();
            let pairs = [(&known.people, was.map(|w| &w.people)), (&known.release, was.map(|w| &w.release))];
            let fresh = pairs.into_iter().filter(|(now, then)| Some(*now) != *then);
            for kept in fresh.filter_map(|(now, _)| now.as_ref()) {
                let (text, signatures) = (kept.text.clone(), kept.signatures.clone());
                let manifest = ManifestFile { name: id.to_string(), text, signatures };
                if let Err(refusal) = manifest::judged(&manifest, ground.as_ref(), court) {
                    wrong.push(format!("the manifest of app {id} does not count: {}", refusal.sentence));
                }
            }
        }
        wrong
    }
}

/// A manifest that was judged when it came into force.
fn read(id: &Name, text: &str, ground: Option<&App>) -> Result<App, AppsError> {
    let draft = Draft::read(text);
    let app = draft.and_then(|draft| ground.map_or_else(|| draft.whole(), |ground| draft.over(ground)));
    app.map_err(|refusal| AppsError::Syntax(format!("app {id}, as it is kept: {}", refusal.sentence)))
}
