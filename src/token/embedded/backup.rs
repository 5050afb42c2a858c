//! Keys of the embedded token leave for a backup under one wrapping key, and come back. [clause 8.2.2]
#![forbid(unsafe_code)]

use super::super::backup::{Ask, Made};
use super::super::{KeySpec, TokenError};
use super::private::Private;
use super::{EmbeddedToken, corrupt};
use crate::core::backup::pkcs8;
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::secret::SecretBytes;

impl EmbeddedToken {
    pub(super) fn back_up(&self, ask: &Ask) -> Result<Made, TokenError> {
        match ask {
            Ask::Take { reference, key } => self.take(*reference, key).map(|p| Made::of(&p)),
            Ask::Make { spec, by } => {
                self.wrapping(*by)?;
                self.make(spec, Some(*by)).map(|p| Made::of(&p))
            }
            Ask::Wrap { reference, by } => self.wrap(*reference, *by).map(Made::Wrapped),
            Ask::Unwrap { spec, by, under, public, wrapped } => {
                let key = self.unwrap(spec, *by, under, wrapped, public)?;
                Ok(Made::of(&key))
            }
        }
    }

    fn wrapping(&self, by: KeyRef) -> Result<SecretBytes<32>, TokenError> {
        let key = self.there(by)?;
        if key.public.algorithm() == Algorithm::Aes256Kw {
            Ok(key.private.expose())
        } else {
            Err(TokenError::Refused("this key is not for wrapping".into()))
        }
    }

    fn take(&self, reference: KeyRef, key: &[u8]) -> Result<PublicKey, TokenError> {
        let key: &[u8; 32] = key.try_into().map_err(|_| corrupt("a wrapping key has 32 bytes"))?;
        let bytes = SecretBytes::copy_of(key);
        let algorithm = Algorithm::Aes256Kw;
        let private = Private::from_bytes(algorithm, key).ok_or_else(|| corrupt("the key is no key"))?;
        if let Some(there) = self.load(reference)? {
            let same = private.public() == Some(there.public);
            return same
                .then_some(there.public)
                .ok_or_else(|| TokenError::Refused("another wrapping key has this id already".into()));
        }
        let spec =
            KeySpec { reference, label: "claviger-wrap".into(), algorithm, purpose: Purpose::Transport };
        self.keep(&spec, &private, &bytes, None)
    }

    // [clause 8.2.2-d] a key leaves under the one wrapping key that it was made for, or not at all
    fn wrap(&self, reference: KeyRef, by: KeyRef) -> Result<Vec<u8>, TokenError> {
        let (key, under) = (self.there(reference)?, self.wrapping(by)?);
        if key.leaves_under != Some(by) {
            return Err(TokenError::Refused("this key was not made to leave the token".into()));
        }
        pkcs8::wrap(key.public.algorithm(), &under, &key.private.expose())
            .ok_or_else(|| TokenError::Unsupported("only pairs leave for a backup".into()))
    }

    fn unwrap(
        &self,
        spec: &KeySpec,
        by: KeyRef,
        under: &[u8],
        wrapped: &[u8],
        public: &[u8],
    ) -> Result<PublicKey, TokenError> {
        let under: &[u8; 32] = under.try_into().map_err(|_| corrupt("a wrapping key has 32 bytes"))?;
        let refused = || TokenError::Invalid("it was not wrapped under this key, or was changed".into());
        let bytes =
            pkcs8::unwrap(spec.algorithm, &SecretBytes::copy_of(under), wrapped).ok_or_else(refused)?;
        let private = Private::from_bytes(spec.algorithm, bytes.expose()).ok_or_else(refused)?;
        if private.public().is_none_or(|p| p.as_bytes() != public) {
            return Err(TokenError::Invalid("it is another key than was said".into()));
        }
        self.keep(spec, &private, &bytes, Some(by))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Token;
    use super::super::super::profile::Profile;
    use super::*;
    use crate::secret::Pin;

    fn token(dir: &std::path::Path) -> EmbeddedToken {
        let pin = Pin::new("pass".to_owned()).unwrap();
        EmbeddedToken::create(dir, &pin).unwrap();
        EmbeddedToken::open(dir, &pin, Profile::load("embedded").unwrap()).unwrap()
    }

    fn spec(n: u8, algorithm: Algorithm) -> KeySpec {
        KeySpec { reference: KeyRef::from([n; 16]), label: "k".into(), algorithm, purpose: Purpose::Payment }
    }

    // [clause 8.2.2-d] test
    #[test]
    fn a_key_leaves_under_its_wrapping_key_alone_and_comes_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (token(&dir.path().join("1")), token(&dir.path().join("2")));
        let (by, other) = (KeyRef::from([200; 16]), KeyRef::from([201; 16]));
        let take = |reference, byte| Ask::Take { reference, key: vec![byte; 32].into() };
        for token in [&mut one, &mut two] {
            token.backup(&take(by, 7)).unwrap();
            token.backup(&take(by, 7)).unwrap();
            assert!(matches!(token.backup(&take(by, 8)), Err(TokenError::Refused(_))));
            token.backup(&take(other, 8)).unwrap();
        }
        for (n, algorithm) in (0..).zip(Algorithm::PAIRS) {
            let spec = spec(n, algorithm);
            let public = one.backup(&Ask::Make { spec: spec.clone(), by }).unwrap().public().unwrap();
            let wrap = |by| Ask::Wrap { reference: spec.reference, by };
            let wrapped = one.backup(&wrap(by)).unwrap().wrapped().unwrap();
            assert!(matches!(one.backup(&wrap(other)), Err(TokenError::Refused(_))));
            assert!(matches!(one.backup(&wrap(spec.reference)), Err(TokenError::Refused(_))));
            let unwrap = |wrapped: Vec<u8>, under: u8| Ask::Unwrap {
                spec: spec.clone(),
                by,
                under: vec![under; 32].into(),
                public: public.as_bytes().to_vec(),
                wrapped,
            };
            assert!(matches!(two.backup(&unwrap(wrapped.clone(), 8)), Err(TokenError::Invalid(_))));
            let mut changed = wrapped.clone();
            changed[3] ^= 1;
            assert!(matches!(two.backup(&unwrap(changed, 7)), Err(TokenError::Invalid(_))));
            assert!(two.backup(&unwrap(vec![0; 4096], 7)).is_err());
            assert_eq!(two.backup(&unwrap(wrapped.clone(), 7)).unwrap().public().unwrap(), public);
            assert_eq!(two.find(spec.reference).unwrap(), Some(public));
            // It can be backed up from there as well, and does not come in twice under one id.
            assert_eq!(two.backup(&wrap(by)).unwrap().wrapped().unwrap(), wrapped);
            assert!(two.backup(&unwrap(wrapped, 7)).is_err());
        }
        // A key that was made without a backup stays, whatever its file is made to say.
        let stays = spec(100, Algorithm::Ed25519);
        one.generate(&stays).unwrap();
        let wrap = Ask::Wrap { reference: stays.reference, by };
        assert!(matches!(one.backup(&wrap), Err(TokenError::Refused(_))));
        let path = dir.path().join("1").join(format!("{}.key", stays.reference));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', &format!("{{\"leaves_under\":\"{by}\","), 1)).unwrap();
        let pin = Pin::new("pass".to_owned()).unwrap();
        let mut one =
            EmbeddedToken::open(&dir.path().join("1"), &pin, Profile::load("embedded").unwrap()).unwrap();
        assert!(matches!(one.backup(&wrap), Err(TokenError::Corrupt(_))));
    }
}
