//! SSHSIG: what `ssh-keygen -Y sign` makes (OpenSSH PROTOCOL.sshsig), read strictly and verified. [clause 8.5.4]
//!
//! Ed25519 and ECDSA P-256, plain and from a FIDO authenticator (`sk-`, PROTOCOL.u2f). Nobody else checks an
//! authenticator's touch: its flags and its counter are given out for that.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Verifier as _;
use sha2::{Digest, Sha256, Sha512};

const MAGIC: &[u8] = b"SSHSIG";
/// Longest armoured signature, bytes.
const MAX_TEXT: usize = 8192;

/// Why a signature is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshSigError {
    /// The armour or the fields are not as the format wants them.
    #[error("it is no signature as ssh-keygen -Y sign makes them: {0}")]
    Malformed(&'static str),
    /// Made for something else.
    #[error("it was made for namespace {0:?}")]
    Namespace(String),
    /// Another hash than SHA-512.
    #[error("it uses {0:?}; only sha512 is taken")]
    Hash(String),
    /// An algorithm that is not taken.
    #[error("keys of type {0:?} are not taken; use ssh-ed25519, ecdsa-sha2-nistp256 or their sk- kinds")]
    Algorithm(String),
    /// It does not verify.
    #[error("it does not verify: the text was changed, or another key made it")]
    Wrong,
}

/// A public key of an approver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshKey {
    kind: Kind,
    /// The wire form, as it stands in `authorized_keys`.
    blob: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Ed25519([u8; 32]),
    P256(Vec<u8>),
    SkEd25519 { key: [u8; 32], application: Vec<u8> },
    SkP256 { point: Vec<u8>, application: Vec<u8> },
}

/// What an authenticator says of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Somebody touched it.
    pub touched: bool,
    /// It asked for its PIN, or a finger.
    pub verified: bool,
    /// Rises with each signature, on most.
    pub counter: u32,
}

/// A signature that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// By which key.
    pub key: SshKey,
    /// What the authenticator says; `None` for a key in a file.
    pub presence: Option<Presence>,
}

/// Reads the length-prefixed fields of SSH.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SshSigError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(SshSigError::Malformed("a field is cut"))?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> Result<u32, SshSigError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| SshSigError::Malformed("a field is cut"))?))
    }

    fn string(&mut self) -> Result<&'a [u8], SshSigError> {
        let length = usize::try_from(self.number()?).map_err(|_| SshSigError::Malformed("a length"))?;
        self.take(length)
    }

    fn end(&self) -> Result<(), SshSigError> {
        if self.0.is_empty() { Ok(()) } else { Err(SshSigError::Malformed("bytes follow its end")) }
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(64).collect()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

impl SshKey {
    /// A line of `authorized_keys` or of a `.pub` file: kind, base64, perhaps a comment.
    pub fn parse(line: &str) -> Result<Self, SshSigError> {
        let mut parts = line.split_ascii_whitespace();
        let (Some(kind), Some(body)) = (parts.next(), parts.next()) else {
            return Err(SshSigError::Malformed("a public key is written as its kind and base64"));
        };
        let blob = STANDARD.decode(body).map_err(|_| SshSigError::Malformed("a key is no base64"))?;
        let key = Self::from_blob(&blob)?;
        if key.name() == kind {
            Ok(key)
        } else {
            Err(SshSigError::Malformed("a key is of another kind than it says"))
        }
    }

    fn from_blob(blob: &[u8]) -> Result<Self, SshSigError> {
        let mut fields = Fields(blob);
        let name = fields.string()?;
        let point = |bytes: &[u8]| {
            p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes)
                .map(|_| bytes.to_vec())
                .map_err(|_| SshSigError::Malformed("a key is no point of its curve"))
        };
        let raw = |bytes: &[u8]| {
            <[u8; 32]>::try_from(bytes).map_err(|_| SshSigError::Malformed("a key has a wrong length"))
        };
        let kind = match name {
            b"ssh-ed25519" => Kind::Ed25519(raw(fields.string()?)?),
            b"ecdsa-sha2-nistp256" => {
                if fields.string()? != b"nistp256" {
                    return Err(SshSigError::Malformed("a key names another curve"));
                }
                Kind::P256(point(fields.string()?)?)
            }
            b"sk-ssh-ed25519@openssh.com" => {
                Kind::SkEd25519 { key: raw(fields.string()?)?, application: fields.string()?.to_vec() }
            }
            b"sk-ecdsa-sha2-nistp256@openssh.com" => {
                if fields.string()? != b"nistp256" {
                    return Err(SshSigError::Malformed("a key names another curve"));
                }
                Kind::SkP256 { point: point(fields.string()?)?, application: fields.string()?.to_vec() }
            }
            other => return Err(SshSigError::Algorithm(words(other))),
        };
        fields.end()?;
        Ok(Self { kind, blob: blob.to_vec() })
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Ed25519(_) => "ssh-ed25519",
            Kind::P256(_) => "ecdsa-sha2-nistp256",
            Kind::SkEd25519 { .. } => "sk-ssh-ed25519@openssh.com",
            Kind::SkP256 { .. } => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// Whether it lives in a FIDO authenticator.
    #[must_use]
    pub fn is_fido(&self) -> bool {
        matches!(self.kind, Kind::SkEd25519 { .. } | Kind::SkP256 { .. })
    }

    /// As it stands in `authorized_keys`, without a comment.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.name(), STANDARD.encode(&self.blob))
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let text = STANDARD.encode(Sha256::digest(&self.blob));
        format!("SHA256:{}", text.trim_end_matches('='))
    }
}

fn unarmoured(text: &str) -> Result<Vec<u8>, SshSigError> {
    if text.len() > MAX_TEXT {
        return Err(SshSigError::Malformed("it is too long"));
    }
    let body = text
        .trim()
        .strip_prefix("-----BEGIN SSH SIGNATURE-----")
        .and_then(|t| t.strip_suffix("-----END SSH SIGNATURE-----"))
        .ok_or(SshSigError::Malformed("its armour is missing"))?;
    let digits: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(digits).map_err(|_| SshSigError::Malformed("it is no base64"))
}

/// The armoured signatures of a file, where they stand one after the other.
pub fn each_armoured(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END SSH SIGNATURE-----";
    text.split_inclusive(END).map(str::trim).filter(|block| !block.is_empty())
}

/// Verifies an armoured signature over a message.
pub fn verify(armoured: &str, namespace: &str, message: &[u8]) -> Result<Signature, SshSigError> {
    let bytes = unarmoured(armoured)?;
    let mut fields = Fields(&bytes);
    if fields.take(MAGIC.len())? != MAGIC || fields.number()? != 1 {
        return Err(SshSigError::Malformed("it is of another version"));
    }
    let key = SshKey::from_blob(fields.string()?)?;
    let named = fields.string()?;
    if named != namespace.as_bytes() {
        return Err(SshSigError::Namespace(words(named)));
    }
    if !fields.string()?.is_empty() {
        return Err(SshSigError::Malformed("its reserved field is not empty"));
    }
    let hash = fields.string()?;
    if hash != b"sha512" {
        return Err(SshSigError::Hash(words(hash)));
    }
    let signature = fields.string()?;
    fields.end()?;
    let signed = [
        MAGIC,
        &string(namespace.as_bytes()),
        &string(b""),
        &string(hash),
        &string(&Sha512::digest(message)),
    ]
    .concat();
    let presence = check(&key, signature, &signed)?;
    Ok(Signature { key, presence })
}

fn check(key: &SshKey, signature: &[u8], signed: &[u8]) -> Result<Option<Presence>, SshSigError> {
    let mut fields = Fields(signature);
    if fields.string()? != key.name().as_bytes() {
        return Err(SshSigError::Malformed("key and signature are of different kinds"));
    }
    let body = fields.string()?;
    let application = match &key.kind {
        Kind::Ed25519(_) | Kind::P256(_) => None,
        Kind::SkEd25519 { application, .. } | Kind::SkP256 { application, .. } => Some(application),
    };
    let (message, presence) = match application {
        None => (signed.to_vec(), None),
        Some(application) => {
            let flags = *fields.take(1)?.first().ok_or(SshSigError::Malformed("a field is cut"))?;
            let counter = fields.number()?;
            // PROTOCOL.u2f: what the authenticator signs.
            let bound = [
                Sha256::digest(application).as_slice(),
                &[flags],
                &counter.to_be_bytes(),
                Sha256::digest(signed).as_slice(),
            ]
            .concat();
            let presence = Presence { touched: flags & 0x01 != 0, verified: flags & 0x04 != 0, counter };
            (bound, Some(presence))
        }
    };
    fields.end()?;
    let right = match &key.kind {
        Kind::Ed25519(raw) | Kind::SkEd25519 { key: raw, .. } => {
            let signature: [u8; 64] = body.try_into().map_err(|_| SshSigError::Wrong)?;
            ed25519_dalek::VerifyingKey::from_bytes(raw).is_ok_and(|k| {
                !k.is_weak()
                    && k.verify_strict(&message, &signature.into()).is_ok()
                    && k.verify(&message, &signature.into()).is_ok()
            })
        }
        Kind::P256(point) | Kind::SkP256 { point, .. } => {
            let signature = ecdsa(body)?;
            p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .is_ok_and(|k| k.verify(&message, &signature).is_ok())
        }
    };
    if right { Ok(presence) } else { Err(SshSigError::Wrong) }
}

/// Two `mpint`s (RFC 4251): big-endian, without needless zeros, never negative.
fn ecdsa(body: &[u8]) -> Result<p256::ecdsa::Signature, SshSigError> {
    let mut fields = Fields(body);
    let mut scalar = || -> Result<[u8; 32], SshSigError> {
        let digits = match fields.string()? {
            [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => rest,
            [0, ..] => return Err(SshSigError::Malformed("a number has needless zeros")),
            digits if digits.first().is_some_and(|b| b & 0x80 != 0) => {
                return Err(SshSigError::Malformed("a number is negative"));
            }
            digits => digits,
        };
        let mut out = [0; 32];
        let at = out.len().checked_sub(digits.len()).ok_or(SshSigError::Wrong)?;
        out.get_mut(at..).ok_or(SshSigError::Wrong)?.copy_from_slice(digits);
        Ok(out)
    };
    let (r, s) = (scalar()?, scalar()?);
    fields.end()?;
    let signature = p256::ecdsa::Signature::from_scalars(r, s).map_err(|_| SshSigError::Wrong)?;
    Ok(signature.normalize_s())
}

#[cfg(test)]
#[path = "sshsig_tests.rs"]
pub(in crate::core) mod tests;
