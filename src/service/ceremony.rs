//! The ceremony: a secret comes about, is given to people in shares, and is proved to be theirs before anything depends on
//! it. [clause 8.2.2]
//!
//! Held with the daemon stopped, on the machine of the token. One custodian at a time sees one share, writes it down and
//! types it again from the sheet. What they typed, and nothing else, is put together and must give the secret.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::backup::{QUORUM, QUORUM_FILE, random};
use super::keys::now;
use super::vault::{self, replace};
use super::{House, token_refusal};
use crate::core::backup::age::Identity;
use crate::core::backup::pkcs8;
use crate::core::backup::quorum::{Quorum, WRAP_INFO, commitment, mixed, wrap_reference};
use crate::core::backup::slip39::{Scheme, Share, ShareError, combine, split};
use crate::core::key::{Algorithm, KeyRef, Purpose};
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::secret::{Pin, SecretBytes};
use crate::store::EntryKind;
use crate::token::keeper::Backend;
use crate::token::pkcs11::{Place as Pkcs11Place, officer};
use crate::token::{KeySpec, TokenError};

/// Where trial keys stand: always there, so that what was left behind is found.
const TRIALS: [&[u8; 16]; 2] = [b"claviger-trial-1", b"claviger-trial-2"];

/// The refusal for a share, or a set of them. Says where, and never what was typed.
#[must_use]
pub fn share_refusal(error: &ShareError) -> Refusal {
    let code = match error {
        ShareError::Few { .. } | ShareError::FewGroups { .. } => Code::SharesLacking,
        ShareError::Scheme(_) => Code::InvalidParams,
        _ => Code::ShareWrong,
    };
    Refusal::new(code, error.to_string())
}

/// Holds one share against what its ceremony wrote down: nothing of it is told but where it stands and its commitment.
// [clause 8.2.2-b] the sheet in the bag is looked at without anybody coming together
pub fn check_share(quorum: &str, words: &str) -> Result<Value, Refusal> {
    let quorum: Quorum = serde_json::from_str(quorum)
        .map_err(|_| Refusal::new(Code::InvalidParams, "the file is no quorum.json of a ceremony"))?;
    let share = Share::parse(words).map_err(|e| share_refusal(&e))?;
    let commitment = quorum.is_share(&share).map_err(|e| Refusal::new(Code::ShareOther, e.to_string()))?;
    Ok(json!({
        "epoch": quorum.epoch,
        "quorum": quorum.recipient().map(|r| hex::encode(r.id())),
        "group": u16::from(share.group) + 1,
        "share": u16::from(share.member) + 1,
        "commitment": commitment,
    }))
}

/// The identity that shares give.
pub fn identity_of(shares: &[Share]) -> Result<Identity, Refusal> {
    let secret = combine(shares, b"").map_err(|e| share_refusal(&e))?;
    let secret: &[u8; 32] = secret.as_slice().try_into().map_err(|_| {
        Refusal::new(
            Code::ShareWrong,
            "these shares are of a secret of another length: not of a quorum for backups",
        )
    })?;
    Ok(Identity::new(SecretBytes::copy_of(secret)))
}

impl House {
    /// Waits until the token is there and was tried; for commands that open the house by themselves.
    pub async fn settled(&self) -> Result<(), Refusal> {
        // A busy machine takes its time with a module's worker.
        for _ in 0..1200 {
            let tried = !matches!(self.keeper.fitness(), crate::token::keeper::Fitness::Untried);
            // Nothing is done in a state directory that the token has not confirmed.
            match self.confirm().await {
                Err(refusal)
                    if matches!(refusal.code, Code::TokenGone | Code::TokenTimeout | Code::TokenBusy) => {}
                Ok(()) if !tried => {}
                _ => break,
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        self.open_for_signing()?;
        self.keeper.fit_for_payments().map_err(|e| token_refusal(&e))
    }
}

/// A ceremony under way. Everything secret is wiped when it ends, however it ends.
pub struct Ceremony {
    scheme: Scheme,
    secret: SecretBytes<32>,
    identity: Identity,
    shares: Vec<Vec<Share>>,
    typed: Vec<Vec<Option<Share>>>,
    epoch: u32,
}

impl Ceremony {
    /// Draws the secret and splits it. Nothing is written down yet.
    pub async fn begin(house: &House, scheme: Scheme) -> Result<Self, Refusal> {
        scheme.check().map_err(|e| share_refusal(&e))?;
        if scheme.groups_needed == 1 && scheme.groups.iter().any(|(threshold, _)| *threshold < 2) {
            let why = "one person alone could open every backup: let two shares be needed at least";
            return Err(Refusal::new(Code::InvalidParams, why));
        }
        if let Some(quorum) = house.backups()?.quorum() {
            let why = format!("the quorum of ceremony {} is in force", quorum.epoch);
            return Err(Refusal::new(Code::QuorumExists, why));
        }
        house.settled().await?;
        let drawn = house.keeper.draw(32).await.map_err(|e| token_refusal(&e))?;
        let kernel = Zeroizing::new(random::<32>()?);
        let secret = mixed(&drawn, &kernel, b"claviger/quorum/v1")
            .ok_or_else(|| Refusal::new(Code::Internal, "the token gave too few random bytes"))?;
        let mut coins = Zeroizing::new(vec![0; scheme.random_bytes(32)]);
        getrandom::fill(&mut coins).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let shares = split(&scheme, secret.expose(), b"", true, &coins).map_err(|e| share_refusal(&e))?;
        let typed = shares.iter().map(|group| group.iter().map(|_| None).collect()).collect();
        let identity = Identity::new(SecretBytes::copy_of(secret.expose()));
        Ok(Self { scheme, secret, identity, shares, typed, epoch: 1 })
    }

    /// Group and share of each custodian, from 0, in the order in which they are called.
    #[must_use]
    pub fn custodians(&self) -> Vec<(usize, usize)> {
        let members =
            |(g, group): (usize, &Vec<Share>)| (0..group.len()).map(move |m| (g, m)).collect::<Vec<_>>();
        self.shares.iter().enumerate().flat_map(members).collect()
    }

    /// The words of one share.
    #[must_use]
    pub fn words(&self, group: usize, member: usize) -> Option<Zeroizing<String>> {
        self.shares.get(group)?.get(member).map(Share::words)
    }

    /// What is written down of it for everybody to see.
    #[must_use]
    pub fn commitment(&self, group: usize, member: usize) -> Option<String> {
        self.shares.get(group)?.get(member).map(|share| commitment(self.epoch, share))
    }

    /// Takes what a custodian typed from the sheet.
    // [clause 8.2.2-b] a sheet counts when it was read back, word by word
    pub fn read_back(&mut self, group: usize, member: usize, typed: &str) -> Result<(), Refusal> {
        let words = self
            .words(group, member)
            .ok_or_else(|| Refusal::new(Code::Internal, "there is no such share"))?;
        let mut wanted = words.split(' ');
        for (at, word) in (1..).zip(typed.split_ascii_whitespace()) {
            if wanted.next() != Some(word.to_ascii_lowercase().as_str()) {
                return Err(Refusal::new(Code::ShareWrong, format!("word {at} is not the one on the sheet")));
            }
        }
        let left = wanted.count();
        if left > 0 {
            return Err(Refusal::new(Code::ShareWrong, format!("{left} words are missing at the end")));
        }
        let share = Share::parse(typed).map_err(|e| share_refusal(&e))?;
        let slot = self.typed.get_mut(group).and_then(|g| g.get_mut(member));
        *slot.ok_or_else(|| Refusal::new(Code::Internal, "there is no such share"))? = Some(share);
        Ok(())
    }

    /// Puts sets of typed shares together that touch each share at least once.
    // [clause 8.2.2-b] what people hold gives the secret, or nothing is ever locked with it
    fn recombine(&self) -> Result<usize, Refusal> {
        let mut sets = 0;
        for (group, _) in self.scheme.groups.iter().enumerate() {
            let most = self.typed.get(group).map_or(0, Vec::len);
            for member in 0..most {
                let mut set = Vec::new();
                let groups = self.typed.iter().zip(&self.scheme.groups).cycle().skip(group);
                for (shares, (threshold, _)) in groups.take(usize::from(self.scheme.groups_needed)) {
                    for share in shares.iter().cycle().skip(member).take(usize::from(*threshold)) {
                        let share = share.as_ref().ok_or_else(|| {
                            Refusal::new(Code::SharesLacking, "not every share was typed again")
                        })?;
                        set.push(Share::parse(&share.words()).map_err(|e| share_refusal(&e))?);
                    }
                }
                let given = combine(&set, b"").map_err(|e| share_refusal(&e))?;
                if !bool::from(given.as_slice().ct_eq(self.secret.expose())) {
                    return Err(Refusal::new(Code::ShareWrong, "a set of shares gives another secret"));
                }
                sets += 1;
            }
        }
        Ok(sets)
    }

    /// Proves the shares, puts the wrapping key into the token, and the quorum in force.
    pub async fn finish(self, house: &House, officer: Option<&Pin>, uid: u32) -> Result<Value, Refusal> {
        let sets = self.recombine()?;
        let backups = house.backups()?;
        let recipient = self.identity.recipient();
        let quorum = Quorum {
            epoch: self.epoch,
            recipient: recipient.text().map_err(|e| Refusal::new(Code::Internal, e.to_string()))?,
            groups_needed: self.scheme.groups_needed,
            groups: self.scheme.groups.clone(),
            commitments: self
                .shares
                .iter()
                .map(|g| g.iter().map(|s| commitment(self.epoch, s)).collect())
                .collect(),
            made_ms: now().0,
        };
        let able = house.take_quorum(&self.identity, &quorum, officer, uid).await?;
        Ok(json!({
            "epoch": quorum.epoch,
            "quorum": hex::encode(recipient.id()),
            "recipient": quorum.recipient,
            "groups_needed": quorum.groups_needed,
            "groups": quorum.groups,
            "commitments": quorum.commitments,
            "sets_proved": sets,
            "algorithms": able,
            "vaults": backups.places.iter().map(|p| &p.name).collect::<Vec<_>>(),
        }))
    }
}

impl House {
    /// Puts a quorum in force: its wrapping key into the token, the vault into all places, its public half everywhere.
    /// Gives the algorithms of keys that can be backed up.
    pub(super) async fn take_quorum(
        &self,
        identity: &Identity,
        quorum: &Quorum,
        officer: Option<&Pin>,
        uid: u32,
    ) -> Result<Vec<Algorithm>, Refusal> {
        let backups = self.backups()?;
        let recipient = identity.recipient();
        let wrapping = identity.derive(WRAP_INFO).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let _turn = backups.turn.lock().await;
        // Writable before anything is begun.
        let text = serde_json::to_string(quorum).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        for dir in &backups.config.directories {
            let path = dir.join(QUORUM_FILE);
            replace(&path, format!("{text}\n").as_bytes())
                .map_err(|e| Refusal::new(Code::StoreFailed, format!("{}: {e}", path.display())))?;
        }
        vault::apply(&backups.places, |_| ()).await?;
        let by = wrap_reference(&recipient);
        self.take_as_officer(by, &wrapping, officer).await?;
        self.keeper.take_wrapping_key(by, &wrapping).await.map_err(|e| token_refusal(&e))?;
        let able = self.prove_wrapping(by, &wrapping).await?;
        let entry = EntryKind::Ceremony {
            epoch: quorum.epoch,
            quorum: hex::encode(recipient.id()),
            hash: hex::encode(sha256(text.as_bytes())),
            groups_needed: quorum.groups_needed,
            groups: quorum.groups.clone(),
            commitments: quorum.commitments.clone(),
            token_serial: self.keeper.describe().map(|d| d.serial).unwrap_or_default(),
            uid,
        };
        self.store.put_quorum(entry, QUORUM, text).await.map_err(|e| self.store_refusal(&e))?;
        backups.set_quorum(quorum.clone());
        Ok(able)
    }

    /// Where only a security officer makes keys trusted, the key is put there by one, beside the daemon's own login.
    async fn take_as_officer(
        &self,
        by: KeyRef,
        wrapping: &SecretBytes<32>,
        officer: Option<&Pin>,
    ) -> Result<(), Refusal> {
        let refused = |e| token_refusal(&e);
        let (Backend::Pkcs11 { place, profile, .. }, _) = super::start::backend(&self.config.token)? else {
            return Ok(());
        };
        if self.keeper.find(by).await.map_err(refused)?.is_some() {
            return Ok(());
        }
        let officer = officer.ok_or_else(|| {
            let why = "only the security officer of this token can make the wrapping key a trusted one: name --so-pin-file";
            Refusal::new(Code::TokenRefused, why)
        })?;
        let serial = self.keeper.describe().map(|d| d.serial);
        let place = Pkcs11Place { serial: serial.or(place.serial), ..place };
        officer::take(place, profile, officer, by, wrapping.expose()).map_err(refused)
    }

    /// Trial keys leave under the wrapping key, come back, and sign: what every later bundle relies on. Gives the algorithms
    /// that the token lets out.
    // [clause 8.2.2-e] the way back is walked once with the quorum there, before the first key depends on it
    async fn prove_wrapping(
        &self,
        by: KeyRef,
        wrapping: &SecretBytes<32>,
    ) -> Result<Vec<Algorithm>, Refusal> {
        self.clear_trials().await.map_err(|e| token_refusal(&e))?;
        let (mut able, mut why_not) = (Vec::new(), None);
        for algorithm in self.keeper.profile().algorithms.clone() {
            match self.prove_one(algorithm, by, wrapping).await {
                Ok(()) => able.push(algorithm),
                // A kind of key that the token does not wrap gets no bundle, and so is never active.
                Err(e @ (TokenError::Refused(_) | TokenError::Unsupported(_))) => why_not = Some(e),
                Err(e) => return Err(token_refusal(&e)),
            }
        }
        match why_not {
            Some(e) if able.is_empty() => Err(token_refusal(&e)),
            _ => Ok(able),
        }
    }

    /// Takes out of the token what a trial that was cut off left there.
    // [clause 8.2.2-g] a key that nobody knows of does not stay in the token
    pub(super) async fn clear_trials(&self) -> Result<(), TokenError> {
        for reference in TRIALS.map(|id| KeyRef::from(*id)) {
            if !matches!(self.keeper.find(reference).await, Ok(None)) {
                self.keeper.destroy(reference).await?;
            }
        }
        Ok(())
    }

    async fn prove_one(
        &self,
        algorithm: Algorithm,
        by: KeyRef,
        wrapping: &SecretBytes<32>,
    ) -> Result<(), TokenError> {
        let spec = |id: &[u8; 16]| {
            let reference = KeyRef::from(*id);
            let purpose = Purpose::ALL.into_iter().find(|p| p.takes(algorithm)).unwrap_or(Purpose::Payment);
            KeySpec { reference, label: "claviger-trial".into(), algorithm, purpose }
        };
        let [there, back] = TRIALS.map(spec);
        let (one, two) = (there.reference, back.reference);
        let tried = async {
            let public = self.keeper.make_for_backup(there, by).await?;
            let wrapped = self.keeper.wrap_for_backup(one, by).await?;
            // Read here as well: a form of the vendor's own would come back into this very token, and nowhere else.
            if pkcs8::unwrap(algorithm, wrapping, &wrapped).is_none() {
                let why = "what the token wraps is not PKCS#8 under RFC 5649: no other program could open it";
                return Err(TokenError::Corrupt(why.into()));
            }
            let came = self.keeper.unwrap_from_backup(back, by, wrapping, public, wrapped).await?;
            self.keeper.prove_possession(two, public).await?;
            if came == public { Ok(()) } else { Err(TokenError::Corrupt("another key came back".into())) }
        }
        .await;
        for reference in [one, two] {
            if self.keeper.find(reference).await?.is_some() {
                self.keeper.destroy(reference).await?;
            }
        }
        tried
    }
}
