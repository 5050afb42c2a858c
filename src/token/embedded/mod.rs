//! The embedded token: keys sealed in files, opened with a passphrase. Loud about not being hardware.
//!
//! Argon2id makes a key of the passphrase; XChaCha20-Poly1305 seals each private key together with its id, algorithm,
//! purpose and public half, so that none of them can be changed. Files are replaced as a whole and fsynced.
#![forbid(unsafe_code)]

mod backup;
mod data;
mod private;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::{Algorithm as Argon, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::backup::{Ask, Made};
use super::check::{self, CheckRow, Claim};
use super::profile::Profile;
use super::{Description, KeySpec, Nonce, Object, Past, RawSignature, Token, TokenError};
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::secret::{Pin, SecretBytes};
use private::Private;

const HEADER: &str = "token.json";
/// Argon2id, RFC 9106 section 4, second recommended option.
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 3;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    serial: String,
    memory_kib: u32,
    passes: u32,
    salt: String,
    /// Seals nothing: opens only under the right passphrase.
    check: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    reference: String,
    label: String,
    algorithm: Algorithm,
    purpose: Purpose,
    public: String,
    /// The wrapping key that may take it out for a backup; without one nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves_under: Option<KeyRef>,
    nonce: String,
    sealed: String,
}

/// A key as it is held while the token is open.
struct Held {
    private: Private,
    public: PublicKey,
    leaves_under: Option<KeyRef>,
}

struct Opened {
    dir: PathBuf,
    serial: String,
    cipher: XChaCha20Poly1305,
    keys: Mutex<HashMap<KeyRef, Arc<Held>>>,
    mutation: Mutex<()>,
}

/// A session with the embedded token; sessions share what is open.
#[derive(Clone)]
pub struct EmbeddedToken {
    opened: Arc<Opened>,
    profile: Arc<Profile>,
}

fn gone(what: &Path, e: &std::io::Error) -> TokenError {
    TokenError::Gone(format!("{}: {e}", what.display()))
}

fn corrupt(what: impl std::fmt::Display) -> TokenError {
    TokenError::Corrupt(what.to_string())
}

fn random<const N: usize>() -> Result<[u8; N], TokenError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
    Ok(bytes)
}

fn cipher(pin: &Pin, header: &Header) -> Result<XChaCha20Poly1305, TokenError> {
    let salt = hex::decode(&header.salt).map_err(corrupt)?;
    let params = Params::new(header.memory_kib, header.passes, 1, Some(32)).map_err(corrupt)?;
    let argon = Argon2::new(Argon::Argon2id, Version::V0x13, params);
    let key =
        SecretBytes::<32>::fill(|out| argon.hash_password_into(pin.expose(), &salt, out)).map_err(corrupt)?;
    XChaCha20Poly1305::new_from_slice(key.expose()).map_err(corrupt)
}

fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), TokenError> {
    let (fresh, path) = (dir.join(format!("{name}.new")), dir.join(name));
    let write = || {
        let mut file =
            fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| gone(&path, &e))
}

impl Header {
    /// What a wrong or changed header cannot reproduce.
    fn bound(&self) -> Vec<u8> {
        format!(
            "claviger embedded token v{} {} {} {} {}",
            self.format, self.serial, self.memory_kib, self.passes, self.salt
        )
        .into_bytes()
    }
}

impl EmbeddedToken {
    /// Makes an empty token; refuses a directory that holds one.
    pub fn create(dir: &Path, pin: &Pin) -> Result<(), TokenError> {
        if dir.join(HEADER).exists() {
            return Err(TokenError::Refused(format!("{} holds a token already", dir.display())));
        }
        if !dir.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| gone(dir, &e))?;
        }
        let mut header = Header {
            format: 1,
            serial: hex::encode(random::<8>()?),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            salt: hex::encode(random::<16>()?),
            check: String::new(),
        };
        let nonce = random::<24>()?;
        let sealed = cipher(pin, &header)?
            .encrypt(&XNonce::from(nonce), Payload { msg: b"open", aad: &header.bound() })
            .map_err(corrupt)?;
        header.check = format!("{}{}", hex::encode(nonce), hex::encode(sealed));
        write_file(dir, HEADER, &serde_json::to_vec_pretty(&header).map_err(corrupt)?)
    }

    /// Opens the token; a wrong passphrase is `Locked`.
    pub fn open(dir: &Path, pin: &Pin, profile: Profile) -> Result<Self, TokenError> {
        let path = dir.join(HEADER);
        let text = fs::read(&path).map_err(|e| gone(&path, &e))?;
        let header: Header =
            serde_json::from_slice(&text).map_err(|e| corrupt(format!("{}: {e}", path.display())))?;
        if header.format != 1 || header.memory_kib > 4 << 20 || header.passes > 100 {
            return Err(corrupt(format!("{}: the parameters are not known here", path.display())));
        }
        let check = hex::decode(&header.check).map_err(corrupt)?;
        let (nonce, sealed) = check.split_first_chunk::<24>().ok_or_else(|| corrupt("the header is cut"))?;
        let cipher = cipher(pin, &header)?;
        // [clause 8.2.5-c] a wrong passphrase opens nothing, and is told apart from a missing token
        cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &header.bound() })
            .map_err(|_| TokenError::Locked("the passphrase of the embedded token is wrong".into()))?;
        let opened = Opened {
            dir: dir.to_owned(),
            serial: header.serial,
            cipher,
            keys: Mutex::default(),
            mutation: Mutex::default(),
        };
        Ok(Self { opened: Arc::new(opened), profile: Arc::new(profile) })
    }

    fn name(reference: KeyRef) -> String {
        format!("{reference}.key")
    }

    fn bound(sealed: &Sealed) -> Vec<u8> {
        let mut bound = format!(
            "claviger key v1 {} {} {} {}",
            sealed.reference, sealed.algorithm, sealed.purpose, sealed.public
        );
        if let Some(by) = sealed.leaves_under {
            bound.push_str(&format!(" leaves under {by}"));
        }
        bound.into_bytes()
    }

    fn load(&self, reference: KeyRef) -> Result<Option<Arc<Held>>, TokenError> {
        let keys = &self.opened.keys;
        if let Some(key) = keys.lock().unwrap_or_else(PoisonError::into_inner).get(&reference) {
            return Ok(Some(Arc::clone(key)));
        }
        let path = self.opened.dir.join(Self::name(reference));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.opened.dir.join(HEADER).exists() => {
                return Ok(None);
            }
            Err(e) => return Err(gone(&path, &e)),
        };
        let broken = |why: &str| corrupt(format!("{}: {why}", path.display()));
        let sealed: Sealed = serde_json::from_slice(&text).map_err(|e| broken(&e.to_string()))?;
        if sealed.reference != reference.to_string() {
            return Err(broken("it holds another key"));
        }
        let nonce: [u8; 24] = hex::decode(&sealed.nonce)
            .ok()
            .and_then(|n| n.try_into().ok())
            .ok_or_else(|| broken("its nonce is wrong"))?;
        let body = hex::decode(&sealed.sealed).map_err(|_| broken("it is no hex"))?;
        let plain = self
            .opened
            .cipher
            .decrypt(&XNonce::from(nonce), Payload { msg: &body, aad: &Self::bound(&sealed) })
            .map(Zeroizing::new)
            .map_err(|_| broken("it was changed, or sealed under another passphrase"))?;
        let bytes: &[u8; 32] =
            plain.as_slice().try_into().map_err(|_| broken("the key has a wrong length"))?;
        let private =
            Private::from_bytes(sealed.algorithm, bytes).ok_or_else(|| broken("the key is no scalar"))?;
        let public = private.public().ok_or_else(|| broken("the key has no public half"))?;
        let key = Arc::new(Held { private, public, leaves_under: sealed.leaves_under });
        keys.lock().unwrap_or_else(PoisonError::into_inner).insert(reference, Arc::clone(&key));
        Ok(Some(key))
    }
}

impl EmbeddedToken {
    fn make(&self, spec: &KeySpec, leaves_under: Option<KeyRef>) -> Result<PublicKey, TokenError> {
        // Nearly every 32 bytes are a scalar of the curve; those that are not are thrown away.
        loop {
            let bytes = SecretBytes::<32>::fill(|b| getrandom::fill(b))
                .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
            if let Some(private) = Private::from_bytes(spec.algorithm, bytes.expose()) {
                return self.keep(spec, &private, &bytes, leaves_under);
            }
        }
    }

    fn keep(
        &self,
        spec: &KeySpec,
        private: &Private,
        bytes: &SecretBytes<32>,
        leaves_under: Option<KeyRef>,
    ) -> Result<PublicKey, TokenError> {
        let _one_at_a_time = self.opened.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        if self.opened.dir.join(Self::name(spec.reference)).exists() {
            return Err(TokenError::Refused("a key with this id exists already".into()));
        }
        let public = private.public().ok_or_else(|| corrupt("the new key has no public half"))?;
        let nonce = random::<24>()?;
        let mut sealed = Sealed {
            reference: spec.reference.to_string(),
            label: spec.label.clone(),
            algorithm: spec.algorithm,
            purpose: spec.purpose,
            public: hex::encode(public.as_bytes()),
            leaves_under,
            nonce: hex::encode(nonce),
            sealed: String::new(),
        };
        let aad = Self::bound(&sealed);
        // [clause 8.2.5-a] the private half touches the disk sealed, and only sealed
        let body = self
            .opened
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: bytes.expose(), aad: &aad })
            .map_err(corrupt)?;
        sealed.sealed = hex::encode(body);
        write_file(
            &self.opened.dir,
            &Self::name(spec.reference),
            &serde_json::to_vec_pretty(&sealed).map_err(corrupt)?,
        )?;
        Ok(public)
    }

    fn there(&self, reference: KeyRef) -> Result<Arc<Held>, TokenError> {
        self.load(reference)?.ok_or_else(|| TokenError::Refused("the key is not in the token".into()))
    }
}

impl Token for EmbeddedToken {
    fn describe(&mut self) -> Result<Description, TokenError> {
        Ok(Description {
            profile: self.profile.name.clone(),
            manufacturer: "Claviger".into(),
            model: "EMBEDDED SOFTWARE TOKEN - not hardware".into(),
            serial: self.opened.serial.clone(),
            label: "embedded".into(),
            firmware: env!("CARGO_PKG_VERSION").into(),
        })
    }

    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError> {
        self.make(spec, None)
    }

    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        Ok(self.load(reference)?.map(|key| key.public))
    }

    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError> {
        let key = self.there(reference)?;
        key.private.sign(algorithm, to_sign)
    }

    fn encrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        self.there(reference)?.private.encrypt(nonce, aad, plain)
    }

    fn decrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.there(reference)?.private.decrypt(nonce, aad, sealed)
    }

    fn mac(&mut self, reference: KeyRef, data: &[u8]) -> Result<[u8; 32], TokenError> {
        self.there(reference)?.private.mac(data)
    }

    fn data(&mut self, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
        data::read(&self.opened.dir, &self.opened.cipher, label)
    }

    fn keep_data(&mut self, label: &str, bytes: &[u8], _beside: &[u8]) -> Result<(), TokenError> {
        // Replaced as a whole and synced: there is never none.
        let sealed = data::seal(&self.opened.cipher, label, bytes)?;
        write_file(&self.opened.dir, &data::name(label), &sealed)
    }

    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        let _one_at_a_time = self.opened.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference);
        let path = self.opened.dir.join(Self::name(reference));
        fs::remove_file(&path)
            .and_then(|()| fs::File::open(&self.opened.dir)?.sync_all())
            .map_err(|e| gone(&path, &e))
    }

    fn import(&mut self, spec: &KeySpec, private: &SecretBytes<32>) -> Result<(PublicKey, Past), TokenError> {
        let key = Private::from_bytes(spec.algorithm, private.expose())
            .ok_or_else(|| TokenError::Refused("this is no key of its curve".into()))?;
        let public = self.keep(spec, &key, private, None)?;
        // Sealed files are never given out, and what they hold is bound to one purpose.
        let past = Past { sensitive: true, kept: true, fixed: true, ..Past::default() };
        Ok((public, past))
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError> {
        getrandom::fill(out).map_err(|e| TokenError::Gone(e.to_string()))
    }

    fn inventory(&mut self, _only: Option<&str>) -> Result<Vec<Object>, TokenError> {
        let dir = &self.opened.dir;
        let mut objects = Vec::new();
        for file in fs::read_dir(dir).map_err(|e| gone(dir, &e))? {
            let name = file.map_err(|e| gone(dir, &e))?.file_name().to_string_lossy().into_owned();
            let Some(reference) = name.strip_suffix(".key").and_then(KeyRef::parse) else { continue };
            let Some(key) = self.load(reference)? else { continue };
            let kind = if key.public.algorithm().is_pair() { "private" } else { "secret" };
            objects.push(Object { kind: kind.into(), id: reference.to_string(), label: String::new() });
        }
        Ok(objects)
    }

    fn backup(&mut self, ask: &Ask) -> Result<Made, TokenError> {
        self.back_up(ask)
    }

    fn health(&mut self) -> Result<(), TokenError> {
        let path = self.opened.dir.join(HEADER);
        fs::metadata(&path).map(|_| ()).map_err(|e| gone(&path, &e))
    }

    fn check(&mut self) -> Result<Vec<CheckRow>, TokenError> {
        let claims = self.profile.claims;
        let algorithms = self.profile.algorithms.clone();
        let mut rows = check::working(self, &algorithms)?;
        let reference = KeyRef::from(random::<16>()?);
        let spec = KeySpec {
            reference,
            label: "claviger-check".into(),
            algorithm: Algorithm::P256,
            purpose: Purpose::Payment,
        };
        self.generate(&spec)?;
        let path = self.opened.dir.join(Self::name(reference));
        let text = fs::read_to_string(&path).map_err(|e| gone(&path, &e))?;
        let changed = text.replace("\"payment\"", "\"integrity\"");
        write_file(&self.opened.dir, &Self::name(reference), changed.as_bytes())?;
        self.opened.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&reference);
        let refused = matches!(self.load(reference), Err(TokenError::Corrupt(_)));
        self.destroy(reference)?;
        rows.push(CheckRow::of(Claim::SealHolds, claims.attributes_fixed, refused));
        rows.push(CheckRow::of(Claim::Hardware, false, false).with(&self.profile.note));
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::verify::Verifier;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned()).unwrap()
    }

    // [clause 8.2.5-a] test
    #[test]
    fn keys_are_sealed_sign_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("t");
        EmbeddedToken::create(&dir, &pin("correct")).unwrap();
        assert!(EmbeddedToken::create(&dir, &pin("correct")).is_err());
        let profile = Profile::load("embedded").unwrap();
        let mut token = EmbeddedToken::open(&dir, &pin("correct"), profile.clone()).unwrap();
        let mut made = Vec::new();
        for (n, algorithm) in (0..).zip(Algorithm::PAIRS) {
            let reference = KeyRef::from([n; 16]);
            let spec = KeySpec { reference, label: "k".into(), algorithm, purpose: Purpose::Payment };
            made.push((reference, algorithm, token.generate(&spec).unwrap()));
            assert!(token.generate(&spec).is_err());
        }
        let mut token = EmbeddedToken::open(&dir, &pin("correct"), profile.clone()).unwrap();
        for (reference, algorithm, public) in made {
            assert_eq!(token.find(reference).unwrap(), Some(public));
            let to_sign = if algorithm == Algorithm::Ed25519 {
                ToSign::Message(vec![1, 2])
            } else {
                ToSign::Prehash([3; 32])
            };
            let raw = token.sign(reference, algorithm, &to_sign).unwrap();
            assert!(Verifier::new(&public).unwrap().check(&to_sign, &raw).is_ok());
            token.destroy(reference).unwrap();
            assert_eq!(token.find(reference).unwrap(), None);
        }
        assert!(token.check().unwrap().iter().all(|r| r.ok));
        assert!(matches!(
            EmbeddedToken::open(&dir, &pin("wrong"), profile.clone()),
            Err(TokenError::Locked(_))
        ));
        fs::remove_file(dir.join(HEADER)).unwrap();
        assert!(matches!(EmbeddedToken::open(&dir, &pin("correct"), profile), Err(TokenError::Gone(_))));
    }
}
