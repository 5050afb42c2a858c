//! The rules in force: read from files, held against those that people decided on, put in force, kept, logged.
//!
//! Where the authority document names a quorum for a document, a file alone puts nothing in force that loosens it: what was
//! in force before stays, and the difference is shown, or asked for.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::detail::{authority_detail, line_detail};
use super::file::books_beside;
pub use super::file::parse_policy;
pub use super::file::write_atomically;
use super::ledger::PolicyLedger;
use super::registry::{self, Heard};
use super::{House, Rules};
use crate::config::{Config, read_text};
use crate::core::app::Apps;
use crate::core::app::facts::Host;
use crate::core::app::memory::Memory;
use crate::core::approval::{Act, Authority, Deed, Matter};
use crate::core::key::policy::{BUILT_IN, KeyPolicy};
use crate::core::policy::books::Sources;
use crate::core::policy::diff::Class;
use crate::core::policy::{Policy, diff};
use crate::core::units::sha256;
use crate::core::user::Ended;
use crate::refusal::{Code, Refusal};
use crate::store::Store;

/// The five texts that say who may do what.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Texts {
    policy: String,
    pub(super) apps: String,
    /// What is remembered of apps, beside their text.
    pub(super) memory: Memory,
    key_policy: String,
    pub(super) authority: Option<String>,
    users: Option<String>,
}

/// A file that is not in force, and why.
pub(super) struct Held {
    pub(super) matter: Matter,
    pub(super) text: String,
    pub(super) why: String,
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::PolicyInvalid, why)
}

pub(super) fn read_authority(text: &str) -> Result<Authority, Refusal> {
    Authority::parse(text).map_err(|e| invalid(format!("authority: {e}")))
}

pub(super) fn read_apps(text: &str) -> Result<Apps, Refusal> {
    Apps::parse(text).map_err(|e| invalid(format!("apps: {e}")))
}

impl Texts {
    /// As the files have them.
    pub(super) fn of_files(config: &Config) -> Result<Self, Refusal> {
        let text = |path: &Path| read_text(path).map_err(|e| invalid(e.to_string()));
        Ok(Self {
            policy: text(&config.policy_file)?,
            apps: text(&config.apps_file)?,
            memory: Memory::default(),
            key_policy: config.keys_file.as_deref().map_or_else(|| Ok(BUILT_IN.to_owned()), text)?,
            authority: config.authority_file.as_deref().map(text).transpose()?,
            users: config.users_file.as_deref().map(text).transpose()?,
        })
    }

    /// As they came into force last; `None` where nothing was kept.
    async fn kept(store: &Store) -> Result<Option<Self>, Refusal> {
        let failed = |e: crate::store::StoreError| Refusal::new(Code::StoreFailed, e.to_string());
        let (policy, apps, key_policy, authority) = (
            store.document("policy").await.map_err(failed)?,
            store.document("apps").await.map_err(failed)?,
            store.document("key-policy").await.map_err(failed)?,
            store.document("authority").await.map_err(failed)?,
        );
        let users = store.document("users").await.map_err(failed)?.filter(|u| !u.is_empty());
        let (Some(policy), Some(apps), Some(key_policy)) = (policy, apps, key_policy) else {
            return Ok(None);
        };
        let memory = match store.document("registrations").await.map_err(failed)? {
            Some(text) => {
                Memory::parse(&text).ok_or_else(|| invalid("what was kept of apps cannot be read"))?
            }
            // Of a house that remembered nothing yet: it begins with what was in force last.
            None => Memory::default().with_file(&read_apps(&apps)?, &[])?,
        };
        let authority = authority.filter(|a| !a.is_empty());
        Ok(Some(Self { policy, apps, memory, key_policy, authority, users }))
    }

    /// Compiled, and held against each other.
    fn compile(self, config: &Config, host: &Host) -> Result<(Rules, KeyPolicy), Refusal> {
        let apps = self
            .memory
            .in_force(&read_apps(&self.apps)?, config.apps.signed)
            .map_err(|e| invalid(format!("apps: {e}")))?;
        apps.within(|uid| host.reach(uid))?;
        let key_policy = KeyPolicy::parse(&self.key_policy).map_err(|e| invalid(format!("keys: {e}")))?;
        let authority = self.authority.as_deref().map(read_authority).transpose()?;
        let users = self.users.as_deref().map(super::user::read_document).transpose()?;
        let books = books_beside(&self.policy, directory(config));
        let policy =
            Policy::read(&self.policy, &Sources { files: Some(&books), authority: authority.as_ref() })
                .map_err(|e| invalid(e.to_string()))?;
        let books = books.into_values().flatten().collect();
        reachable(&policy, authority.as_ref())?;
        policy.within(&apps, host)?;
        let rules = Rules {
            policy: Arc::new(policy),
            books,
            policy_text: self.policy,
            apps,
            apps_text: self.apps,
            memory: self.memory,
            authority: authority.map(Arc::new),
            authority_text: self.authority,
            users: users.map(Arc::new),
            users_text: self.users,
            key_policy_text: self.key_policy,
        };
        Ok((rules, key_policy))
    }
}

/// What of the files may be in force, given what is: the rest stays as it is, and is named.
// [clause 8.8-b] what loosens, and who decides on it, is changed by people together, not by who can write a file
fn settle(config: &Config, files: Texts, kept: Option<Texts>) -> Result<(Texts, Vec<Held>), Refusal> {
    let Some(kept) = kept else { return Ok((files, Vec::new())) };
    let mut held = Vec::new();
    let mut settled = Texts { memory: kept.memory.clone(), ..files.clone() };
    let mut hold = |matter, text: String, why: &str| held.push(Held { matter, text, why: why.to_owned() });
    let ruling = kept.authority.as_deref().map(read_authority).transpose()?;
    let Some(ruling) = ruling else { return Ok((settled, held)) };
    if files.authority != kept.authority && ruling.quorum(Matter::Authority).is_some() {
        if let Some(text) = files.authority {
            hold(Matter::Authority, text, "who decides is changed by those who decide");
        } else {
            tracing::warn!("authority_file is not configured; the document in force stays in force");
        }
        settled.authority.clone_from(&kept.authority);
    }
    if files.policy != kept.policy && ruling.quorum(Matter::Policy).is_some() {
        let read = |text: &str| beside(text, config, Some(&ruling));
        let class = diff(&read(&kept.policy)?, &read(&files.policy)?).class();
        if !is_stricter(class) {
            hold(Matter::Policy, files.policy, &format!("it is {class}, and needs a quorum"));
            settled.policy.clone_from(&kept.policy);
        }
    }
    if files.key_policy != kept.key_policy && ruling.quorum(Matter::KeyPolicy).is_some() {
        hold(Matter::KeyPolicy, files.key_policy, "the security policy of keys needs a quorum");
        settled.key_policy.clone_from(&kept.key_policy);
    }
    if files.apps != kept.apps && ruling.quorum(Matter::Apps).is_some() {
        hold(Matter::Apps, files.apps, "the registered apps need a quorum");
        settled.apps.clone_from(&kept.apps);
    }
    if files.users != kept.users && ruling.quorum(Matter::Users).is_some() {
        // Whose keys they are is not forgotten by leaving the file out of the configuration.
        if let Some(text) = files.users {
            hold(Matter::Users, text, "the users need a quorum");
        } else {
            tracing::warn!("users_file is not configured; the document in force stays in force");
        }
        settled.users.clone_from(&kept.users);
    }
    Ok((settled, held))
}

/// Whether nothing is permitted that was not: one operator does that, at once.
fn is_stricter(class: Class) -> bool {
    matches!(class, Class::Neutral | Class::Tightens)
}

/// Every quorum of the policy must be one that people can make.
fn reachable(policy: &Policy, authority: Option<&Authority>) -> Result<(), Refusal> {
    for (rule, needs) in policy.asks() {
        let there = authority.map_or(0, |a| a.strength(&needs.of));
        if usize::try_from(needs.quorum).map_or(true, |quorum| there < quorum) {
            return Err(invalid(format!(
                "rule {rule} asks for {} of {}, and the authority document names {there} with a key that counts",
                needs.quorum, needs.of
            )));
        }
    }
    Ok(())
}

fn directory(config: &Config) -> &Path {
    config.policy_file.parent().unwrap_or(Path::new("."))
}

/// Reads a policy text with the books beside the policy file.
fn beside(text: &str, config: &Config, authority: Option<&Authority>) -> Result<Policy, Refusal> {
    parse_policy(text, directory(config), authority).map_err(|e| invalid(e.to_string()))
}

/// What the daemon starts with; what differs from that stands in the second part.
pub(super) async fn at_start(
    config: &Config,
    store: &Store,
    host: &Host,
) -> Result<(Rules, KeyPolicy, Vec<String>, Vec<Heard>), Refusal> {
    let kept = Texts::kept(store).await?;
    let (mut texts, held) = settle(config, Texts::of_files(config)?, kept.clone())?;
    let mut heard = Vec::new();
    match registry::admitted(&texts, kept.as_ref().map(|kept| kept.apps.as_str()), &[]) {
        Ok(memory) => texts.memory = memory,
        // Nobody is there to be told no: what was in force goes on.
        Err(refusal) => {
            let backwards = matches!(refusal.code, Code::AppSerial | Code::AppSerialReused);
            let kept = kept.filter(|_| backwards).ok_or_else(|| refusal.clone())?;
            (texts.apps, texts.memory) = (kept.apps, kept.memory);
            tracing::error!("{} is not in force: {refusal}", config.apps_file.display());
            heard.push(Heard::of_file(&config.apps_file, refusal));
        }
    }
    heard.extend(registry::take(config, host, &mut texts)?);
    let notes = held.iter().map(|h| format!("the {} file is not in force: {}", h.matter.as_str(), h.why));
    let notes: Vec<String> = notes.collect();
    for note in &notes {
        tracing::warn!("{note}; claviger reload asks the people for it");
    }
    let (rules, key_policy) = texts.compile(config, host)?;
    Ok((rules, key_policy, notes, heard))
}

impl House {
    /// Who must agree, where somebody must.
    pub(super) fn quorum(&self, matter: Matter) -> bool {
        self.rules().authority.as_ref().is_some_and(|a| a.quorum(matter).is_some())
    }

    pub(super) fn texts(&self) -> Texts {
        let rules = self.rules();
        Texts {
            policy: rules.policy_text.clone(),
            apps: rules.apps_text.clone(),
            memory: rules.memory.clone(),
            key_policy: rules.key_policy_text.clone(),
            authority: rules.authority_text.clone(),
            users: rules.users_text.clone(),
        }
    }

    /// Reads a policy text with the books beside the policy file, and with the people in force.
    pub fn read_policy(&self, text: &str) -> Result<Policy, Refusal> {
        beside(text, &self.config, self.rules().authority.as_deref())
    }

    /// Reads all files again. On any error the old rules stay; what needs people is asked of them.
    pub async fn reload(&self, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let (mut texts, held) = settle(&self.config, Texts::of_files(&self.config)?, Some(self.texts()))?;
        texts.memory = registry::admitted(&texts, Some(&self.rules().apps_text), &[])?;
        let heard = registry::take(&self.config, self.eyes.host(), &mut texts)?;
        for held in &held {
            self.fits(held.matter, &held.text)?;
        }
        let before = self.key_policy().hash();
        let mut summary = self.put_in_force(texts, uid).await?;
        self.write_heard(&heard, uid).await?;
        let mut asked = Vec::new();
        for held in &held {
            let change = self.ask_document(held.matter, &held.text, uid).await?;
            asked.push(json!({"matter": held.matter, "why": held.why, "change": change}));
        }
        let notes = held.iter().map(|h| format!("the {} file is not in force: {}", h.matter.as_str(), h.why));
        let notes = notes.chain(heard.iter().filter_map(Heard::note));
        *self.differing.lock().unwrap_or_else(PoisonError::into_inner) = notes.collect();
        if let Some(map) = summary.as_object_mut() {
            map.insert("key_policy_changed".into(), json!(before != self.key_policy().hash()));
            map.insert("asked".into(), json!(asked));
            map.insert("manifests".into(), heard.iter().map(Heard::told).collect());
        }
        Ok(summary)
    }

    /// Checks a policy text, and puts it in force or asks the people for it.
    pub async fn apply_policy(&self, text: &str, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let policy = self.read_policy(text)?;
        let class = diff(&self.rules().policy, &policy).class();
        reachable(&policy, self.rules().authority.as_deref())?;
        self.fits(Matter::Policy, text)?;
        // [clause 8.8-b] tightening is for one operator, at once; loosening is for the quorum, after its delay
        if self.quorum(Matter::Policy) && !is_stricter(class) {
            return Err(self.ask_refused(Matter::Policy, text, uid).await?);
        }
        self.permit(uid, &[Act::Run])?;
        self.write_and_put(Matter::Policy, text, uid, &[]).await
    }

    /// Checks an authority document, and puts it in force or asks the people for it.
    pub async fn apply_authority(&self, text: &str, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let new = read_authority(text)?;
        reachable(&self.rules().policy, Some(&new))?;
        if self.quorum(Matter::Authority) {
            return Err(self.ask_refused(Matter::Authority, text, uid).await?);
        }
        self.permit(uid, &[Act::Run])?;
        self.write_and_put(Matter::Authority, text, uid, &[]).await
    }

    /// The authority document in force.
    #[must_use]
    pub fn authority_shown(&self) -> Value {
        let rules = self.rules();
        json!({
            "hash": rules.authority.as_ref().map(|a| hex::encode(a.hash())),
            "text": rules.authority_text,
            "people": rules.authority.as_ref().map(|a| {
                a.people()
                    .iter()
                    .map(|p| json!({"id": p.id, "roles": p.roles, "groups": p.groups, "uid": p.uid, "keys": a.keys_of(&p.id)}))
                    .collect::<Vec<_>>()
            }),
        })
    }

    /// People are not asked for what could not be in force on this machine.
    fn fits(&self, matter: Matter, text: &str) -> Result<(), Refusal> {
        let (rules, host) = (self.rules(), self.eyes.host());
        match matter {
            Matter::Policy => self.read_policy(text)?.within(&rules.apps, host),
            Matter::Apps => {
                let file = read_apps(text)?;
                let memory = rules.memory.with_file(&file, &[])?;
                let apps = memory.in_force(&file, false).map_err(|e| invalid(format!("apps: {e}")))?;
                apps.within(|uid| host.reach(uid))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn ask_refused(&self, matter: Matter, text: &str, uid: u32) -> Result<Refusal, Refusal> {
        let change = self.ask_document(matter, text, uid).await?;
        Ok(super::changes::needed(&change))
    }

    async fn ask_document(&self, matter: Matter, text: &str, uid: u32) -> Result<Value, Refusal> {
        let (from, detail) = self.compared(matter, text)?;
        self.ask(matter, Deed::Document { from, body: text.to_owned() }, detail, uid).await
    }

    /// SHA-256 of what is in force, and what a text would change, for those who decide.
    fn compared(&self, matter: Matter, text: &str) -> Result<(String, Vec<String>), Refusal> {
        let rules = self.rules();
        let detail = match matter {
            Matter::Policy => {
                let change = diff(&rules.policy, &self.read_policy(text)?);
                let lines = change.to_string();
                std::iter::once(format!("all together: {}", change.class()))
                    .chain(lines.lines().map(str::to_owned))
                    .collect()
            }
            Matter::Authority => authority_detail(rules.authority.as_deref(), &read_authority(text)?),
            _ => line_detail(&self.text_in_force(matter).unwrap_or_default(), text),
        };
        let from = hex::encode(sha256(self.text_in_force(matter).unwrap_or_default().as_bytes()));
        Ok((from, detail))
    }

    fn text_in_force(&self, matter: Matter) -> Option<String> {
        let texts = self.texts();
        match matter {
            Matter::Policy => Some(texts.policy),
            Matter::Apps => Some(texts.apps),
            Matter::KeyPolicy => Some(texts.key_policy),
            Matter::Authority => texts.authority,
            Matter::Users => texts.users,
            Matter::Resume | Matter::Destroy | Matter::Import => None,
        }
    }

    /// Whether a document is still the one in force.
    pub(super) fn is_in_force(&self, matter: Matter, hash: &str) -> bool {
        hex::encode(sha256(self.text_in_force(matter).unwrap_or_default().as_bytes())) == hash
    }

    /// Puts one document in force, and its file in step with it. `by` are the people who agreed, where they did.
    pub(super) async fn write_and_put(
        &self,
        matter: Matter,
        text: &str,
        uid: u32,
        by: &[String],
    ) -> Result<Value, Refusal> {
        let mut texts = self.texts();
        let file = match matter {
            Matter::Policy => {
                text.clone_into(&mut texts.policy);
                Some(&self.config.policy_file)
            }
            Matter::Apps => {
                text.clone_into(&mut texts.apps);
                texts.memory = registry::admitted(&texts, None, by)?;
                Some(&self.config.apps_file)
            }
            Matter::KeyPolicy => {
                text.clone_into(&mut texts.key_policy);
                self.config.keys_file.as_ref()
            }
            Matter::Authority => {
                texts.authority = Some(text.to_owned());
                self.config.authority_file.as_ref()
            }
            Matter::Users => {
                texts.users = Some(text.to_owned());
                self.config.users_file.as_ref()
            }
            Matter::Resume | Matter::Destroy | Matter::Import => {
                return Err(Refusal::new(Code::Internal, "a key is no document"));
            }
        };
        // Nothing is written before it is known to be whole.
        texts.clone().compile(&self.config, self.eyes.host())?;
        if let Some(path) = file {
            write_atomically(path, text.as_bytes()).map_err(|e| {
                Refusal::new(Code::StoreFailed, format!("{} cannot be written: {e}", path.display()))
            })?;
        }
        self.put_in_force(texts, uid).await
    }

    pub(super) async fn put_in_force(&self, texts: Texts, uid: u32) -> Result<Value, Refusal> {
        let old = self.rules();
        let (rules, key_policy) = texts.compile(&self.config, self.eyes.host())?;
        let change = diff(&old.policy, &rules.policy);
        let (class, changed) = (change.class().to_string(), rules.policy.hash() != old.policy.hash());
        let as_before = self.keep_documents(Some(&old), &rules, &class, uid).await?;
        if changed {
            // Written down before it is in force; counters are built anew from the rows of what was spent.
            self.store
                .swap_ledger(Box::new(PolicyLedger::new(Arc::clone(&rules.policy))))
                .await
                .map_err(|e| self.store_refusal(&e))?;
        }
        let summary = json!({
            "policy": hex::encode(rules.policy.hash()),
            "changed": changed,
            "class": class,
            "diff": change.to_string(),
            "apps": rules.apps.all().len(),
        });
        *self.key_policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key_policy);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.rules_in_force().await;
        if !as_before {
            // [clause 8.2.3-f] whoever opened a session did so under other rules
            self.end_sessions(Ended::Rules);
            // An order that did not count before may count now.
            self.orders.woken.notify_one();
        }
        tracing::info!(uid, policy = hex::encode(self.rules().policy.hash()), "rules in force");
        Ok(summary)
    }
}
