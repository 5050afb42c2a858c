//! The trait on a YubiHSM: makes, finds, uses and removes keys. All sessions of a process share one client.
#![forbid(unsafe_code)]

use std::sync::Arc;

use yubihsm::object::{Filter, Type};
use yubihsm::{Capability, Client, client, hmac, object, opaque};

use super::device::{Device, Inner};
use super::log::{
    DELETE_OBJECT, GENERATE_ASYMMETRIC_KEY, GENERATE_HMAC_KEY, PUT_ASYMMETRIC_KEY, PUT_OPAQUE, SIGN_ECDSA,
    SIGN_EDDSA, SIGN_HMAC,
};
use super::objects::{self, Known};
use super::{TokenError, proving};
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::core::units::sha256;
use crate::secret::SecretBytes;
use crate::token::audit::Audit;
use crate::token::check::CheckRow;
use crate::token::{
    CHECK_INPUT, Description, KeySpec, MOST_OBJECTS, Object, Past, RawSignature, Token, check_value,
};

/// Most bytes of one message: the frame of every firmware holds them with all that goes around them.
const MOST_DATA: usize = 1900;
/// Most random bytes of one command.
const MOST_RANDOM: usize = 1024;

/// A session for one thread of the daemon.
pub(super) struct YubihsmToken {
    pub(super) device: Arc<Device>,
    pub(super) description: Description,
}

fn fits(data: &[u8]) -> Result<(), TokenError> {
    if data.len() > MOST_DATA {
        return Err(TokenError::Unsupported(format!("a YubiHSM takes at most {MOST_DATA} bytes at once")));
    }
    Ok(())
}

/// `r || s` of a DER signature.
fn raw(algorithm: Algorithm, der: &[u8]) -> Result<RawSignature, TokenError> {
    let wrong = |_| TokenError::Corrupt("the YubiHSM's signature is none".into());
    Ok(match algorithm {
        Algorithm::Secp256k1 => k256::ecdsa::Signature::from_der(der).map_err(wrong)?.to_bytes().into(),
        _ => p256::ecdsa::Signature::from_der(der).map_err(wrong)?.to_bytes().into(),
    })
}

impl YubihsmToken {
    /// Finds a key by its label, and believes it only when all that the device says about it is as it should be.
    fn locate(&self, inner: &mut Inner, reference: KeyRef) -> Result<Option<Known>, TokenError> {
        if let Some(known) = inner.known.get(&reference) {
            return Ok(Some(*known));
        }
        if !objects::is_ours(reference) {
            return Ok(None);
        }
        let mut found = Vec::new();
        // By type: the crate drops the rest of a list at the first type that it does not know.
        for kind in [Type::AsymmetricKey, Type::HmacKey] {
            for label in [objects::label(reference), objects::label_in(reference)] {
                found.extend(self.device.run(inner, true, None, |client| {
                    client.list_objects(&[Filter::Type(kind), Filter::Label(label.clone())])
                })?);
            }
        }
        let entry = match found.as_slice() {
            [] => return Ok(None),
            [entry] => entry,
            more => {
                return Err(TokenError::Corrupt(format!(
                    "{} objects are labelled as key {reference}",
                    more.len()
                )));
            }
        };
        let info = self
            .device
            .run(inner, true, None, |client| client.get_object_info(entry.object_id, entry.object_type))?;
        let known = objects::recognise(&info, reference)?;
        if (known.id, known.kind, known.sequence) != (entry.object_id, entry.object_type, entry.sequence) {
            return Err(TokenError::Corrupt(format!(
                "the key {reference} was replaced while it was looked at"
            )));
        }
        inner.known.insert(reference, known);
        Ok(Some(known))
    }

    fn there(&self, inner: &mut Inner, reference: KeyRef) -> Result<Known, TokenError> {
        self.locate(inner, reference)?
            .ok_or_else(|| TokenError::Gone(format!("the key {reference} is not in the YubiHSM")))
    }

    fn tag(&self, inner: &mut Inner, id: object::Id, data: &[u8]) -> Result<[u8; 32], TokenError> {
        fits(data)?;
        let tag = self
            .device
            .run(inner, true, Some((SIGN_HMAC, id)), |client| client.sign_hmac(id, data.to_vec()))?;
        tag.as_slice()
            .try_into()
            .map_err(|_| TokenError::Corrupt("the YubiHSM's tag has a wrong length".into()))
    }

    fn public(&self, inner: &mut Inner, known: Known) -> Result<PublicKey, TokenError> {
        if !known.algorithm.is_pair() {
            return Ok(check_value(known.algorithm, &self.tag(inner, known.id, CHECK_INPUT)?));
        }
        let told = self.device.run(inner, true, None, |client| client.get_public_key(known.id))?;
        let point = match known.algorithm {
            Algorithm::Ed25519 => told.bytes,
            _ => [&[0x04], told.bytes.as_slice()].concat(),
        };
        if Some(told.algorithm) != objects::curve(known.algorithm) {
            return Err(TokenError::Corrupt("the YubiHSM's public key is on another curve".into()));
        }
        PublicKey::from_bytes(known.algorithm, &point)
            .ok_or_else(|| TokenError::Corrupt("the YubiHSM's public key is no point".into()))
    }

    /// Makes an object under the first id that is free. What may be done with it is given here, so that the proofs
    /// can ask for less or more.
    pub(super) fn make(
        &self,
        inner: &mut Inner,
        spec: &KeySpec,
        capability: yubihsm::Capability,
    ) -> Result<object::Id, TokenError> {
        let (label, domain) = (objects::label(spec.reference), objects::domain(spec.purpose));
        let command = if spec.algorithm.is_pair() { GENERATE_ASYMMETRIC_KEY } else { GENERATE_HMAC_KEY };
        self.under_a_free_id(inner, spec.reference, command, |client, id| {
            match objects::curve(spec.algorithm) {
                Some(curve) => client.generate_asymmetric_key(id, label.clone(), domain, capability, curve),
                None => {
                    client.generate_hmac_key(id, label.clone(), domain, capability, hmac::Algorithm::Sha256)
                }
            }
        })
    }

    fn under_a_free_id(
        &self,
        inner: &mut Inner,
        reference: KeyRef,
        command: u8,
        make: impl Fn(&Client, object::Id) -> Result<object::Id, client::Error>,
    ) -> Result<object::Id, TokenError> {
        let taken = super::refusal(0x11);
        for id in objects::ids(reference) {
            match self.device.run(inner, false, Some((command, id)), |client| make(client, id)) {
                Err(e) if e == taken => {}
                made => return made,
            }
        }
        Err(TokenError::Refused("no object id is free for the key".into()))
    }

    /// What is kept under a label, with the ids where it is.
    fn opaque(&self, inner: &mut Inner, label: &str) -> Result<Vec<(object::Id, Vec<u8>)>, TokenError> {
        let label = objects::data_label(label)?;
        let entries = self.device.run(inner, true, None, |client| {
            client.list_objects(&[Filter::Type(Type::Opaque), Filter::Label(label.clone())])
        })?;
        let mut all = Vec::new();
        for entry in entries {
            let bytes = self.device.run(inner, true, None, |client| client.get_opaque(entry.object_id))?;
            all.push((entry.object_id, bytes));
        }
        Ok(all)
    }

    fn put(&self, inner: &mut Inner, label: &str, bytes: &[u8]) -> Result<(), TokenError> {
        fits(bytes)?;
        let label = objects::data_label(label)?;
        let domain = objects::domain(Purpose::Integrity);
        let first = KeyRef::from(*sha256(&label.0).first_chunk().unwrap_or(&[0; 16]));
        for id in objects::ids(first) {
            let made = self.device.run(inner, false, Some((PUT_OPAQUE, id)), |client| {
                let (label, kind) = (label.clone(), opaque::Algorithm::Data);
                client.put_opaque(id, label, domain, Capability::empty(), kind, bytes)
            });
            match made {
                Err(e) if e == super::refusal(0x11) => {}
                made => return made.map(drop),
            }
        }
        Err(TokenError::Refused("no object id is free for the data".into()))
    }

    fn put_key(
        &self,
        inner: &mut Inner,
        spec: &KeySpec,
        private: &SecretBytes<32>,
    ) -> Result<PublicKey, TokenError> {
        let curve = objects::curve(spec.algorithm).ok_or_else(|| objects::unsupported(spec.algorithm))?;
        let capability = objects::capability(spec.algorithm)?;
        let (label, domain) = (objects::label_in(spec.reference), objects::domain(spec.purpose));
        let put = self.under_a_free_id(inner, spec.reference, PUT_ASYMMETRIC_KEY, |client, id| {
            let value = private.expose().as_slice();
            client.put_asymmetric_key(id, label.clone(), domain, capability, curve, value)
        });
        match put {
            // Whether it is there is seen below.
            Ok(_) | Err(TokenError::Gone(_) | TokenError::Corrupt(_)) => {}
            Err(e) => return Err(e),
        }
        let known = self.there(inner, spec.reference)?;
        self.public(inner, known)
    }

    pub(super) fn delete(&self, inner: &mut Inner, id: object::Id, kind: Type) -> Result<(), TokenError> {
        self.device.run(inner, false, Some((DELETE_OBJECT, id)), |client| client.delete_object(id, kind))
    }
}

impl Token for YubihsmToken {
    fn describe(&mut self) -> Result<Description, TokenError> {
        Ok(self.description.clone())
    }

    // [clause 8.2.5-a] generated inside, for one thing, in the domain of its purpose, and never exportable
    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError> {
        let capability = objects::capability(spec.algorithm)?;
        if !objects::is_ours(spec.reference) {
            return Err(TokenError::Unsupported("a key's id in a YubiHSM has 16 bytes".into()));
        }
        let mut inner = self.device.lock();
        if self.locate(&mut inner, spec.reference)?.is_some() {
            return Err(TokenError::Refused("a key with this id exists already".into()));
        }
        match self.make(&mut inner, spec, capability) {
            // The answer was lost, or was none: whether there is a key is seen below.
            Ok(_) | Err(TokenError::Gone(_) | TokenError::Corrupt(_)) => {}
            Err(e) => return Err(e),
        }
        let known = self.there(&mut inner, spec.reference)?;
        if known.algorithm != spec.algorithm {
            return Err(TokenError::Corrupt("the new key is of another algorithm".into()));
        }
        self.public(&mut inner, known)
    }

    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        let mut inner = self.device.lock();
        match self.locate(&mut inner, reference)? {
            None => Ok(None),
            Some(known) => self.public(&mut inner, known).map(Some),
        }
    }

    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError> {
        let mut inner = self.device.lock();
        let known = self.there(&mut inner, reference)?;
        if known.algorithm != algorithm {
            return Err(TokenError::Unsupported(format!("the key {reference} is {}", known.algorithm)));
        }
        let id = known.id;
        match (algorithm, to_sign) {
            (Algorithm::Secp256k1 | Algorithm::P256, ToSign::Prehash(hash)) => {
                let der = self.device.run(&mut inner, true, Some((SIGN_ECDSA, id)), |client| {
                    client.sign_ecdsa_prehash_raw(id, hash.to_vec())
                })?;
                raw(algorithm, &der)
            }
            (Algorithm::Ed25519, ToSign::Message(message)) => {
                fits(message)?;
                let signature = self.device.run(&mut inner, true, Some((SIGN_EDDSA, id)), |client| {
                    client.sign_ed25519(id, message.as_slice())
                })?;
                Ok(signature.to_bytes())
            }
            _ => Err(TokenError::Unsupported("this key does not sign this kind of input".into())),
        }
    }

    fn mac(&mut self, reference: KeyRef, data: &[u8]) -> Result<[u8; 32], TokenError> {
        let mut inner = self.device.lock();
        let known = self.there(&mut inner, reference)?;
        if known.algorithm != Algorithm::HmacSha256 {
            return Err(TokenError::Refused(format!("the key {reference} is not for making MACs")));
        }
        self.tag(&mut inner, known.id, data)
    }

    fn data(&mut self, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
        let mut inner = self.device.lock();
        Ok(self.opaque(&mut inner, label)?.into_iter().map(|(_, bytes)| bytes).collect())
    }

    fn keep_data(&mut self, label: &str, bytes: &[u8], beside: &[u8]) -> Result<(), TokenError> {
        let mut inner = self.device.lock();
        self.put(&mut inner, label, bytes)?;
        for (id, value) in self.opaque(&mut inner, label)? {
            if value != bytes && value != beside {
                self.delete(&mut inner, id, Type::Opaque)?;
            }
        }
        Ok(())
    }

    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        let mut inner = self.device.lock();
        let Some(known) = self.locate(&mut inner, reference)? else { return Ok(()) };
        inner.known.remove(&reference);
        let deleted = self.delete(&mut inner, known.id, known.kind);
        inner.known.remove(&reference);
        // It may have been done although the answer was lost.
        match self.locate(&mut inner, reference)? {
            None => Ok(()),
            Some(_) => Err(deleted.err().unwrap_or_else(|| {
                TokenError::Corrupt(format!("the key {reference} is still there after it was removed"))
            })),
        }
    }

    // [clause 8.7.1-o] one use, one domain, not exportable: [`objects::recognise`] has asked the device for all of it
    fn import(&mut self, spec: &KeySpec, private: &SecretBytes<32>) -> Result<(PublicKey, Past), TokenError> {
        if !objects::is_ours(spec.reference) {
            return Err(TokenError::Unsupported("a key's id in a YubiHSM has 16 bytes".into()));
        }
        let mut inner = self.device.lock();
        if self.locate(&mut inner, spec.reference)?.is_some() {
            return Err(TokenError::Refused("a key with this id exists already".into()));
        }
        let put = self.put_key(&mut inner, spec, private);
        drop(inner);
        match put {
            Ok(public) => {
                let past = Past { sensitive: true, kept: true, fixed: true, ..Past::default() };
                Ok((public, past))
            }
            Err(e) => {
                if let Err(left) = self.destroy(spec.reference) {
                    tracing::warn!("leftovers of a failed import may be in the YubiHSM: {left}");
                }
                Err(e)
            }
        }
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError> {
        let mut inner = self.device.lock();
        for part in out.chunks_mut(MOST_RANDOM) {
            let bytes =
                self.device.run(&mut inner, true, None, |client| client.get_pseudo_random(part.len()))?;
            if bytes.len() != part.len() {
                return Err(TokenError::Corrupt("the YubiHSM gave another number of random bytes".into()));
            }
            part.copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn inventory(&mut self, _only: Option<&str>) -> Result<Vec<Object>, TokenError> {
        let mut inner = self.device.lock();
        let mut objects = Vec::new();
        // By type, as above.
        for (kind, name) in objects::KINDS {
            let entries = self
                .device
                .run(&mut inner, true, None, |client| client.list_objects(&[Filter::Type(kind)]))?;
            for entry in entries.iter().take(MOST_OBJECTS) {
                let info = self.device.run(&mut inner, true, None, |client| {
                    client.get_object_info(entry.object_id, entry.object_type)
                })?;
                let label = info.label.to_string();
                let id = objects::reference(&label).map(|r| r.to_string()).unwrap_or_default();
                objects.push(Object { kind: name.into(), id, label });
            }
        }
        Ok(objects)
    }

    fn health(&mut self) -> Result<(), TokenError> {
        self.device.alive()
    }

    fn audit(&mut self) -> Result<Audit, TokenError> {
        if self.device.profile.own_log { self.device.audit() } else { Ok(Audit::default()) }
    }

    fn check(&mut self) -> Result<Vec<CheckRow>, TokenError> {
        proving::prove(self)
    }
}
