//! What backups ask of a token: keys that may leave under one wrapping key, and roots of the vault. [clause 8.2.2]
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

use super::super::backup::Ask;
use super::super::{KeySpec, Nonce, Object, TokenError};
use super::Keeper;
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::secret::SecretBytes;

/// What roots of the vault are called.
const ROOT: &str = "claviger-vault";

impl Keeper {
    /// Takes the key in that backups are wrapped under, and looks that it is the one.
    pub async fn take_wrapping_key(
        &self,
        reference: KeyRef,
        key: &SecretBytes<32>,
    ) -> Result<PublicKey, TokenError> {
        let ask = Ask::Take { reference, key: Zeroizing::new(key.expose().to_vec()) };
        let made = self.call(move |token| token.backup(&ask)?.public()).await?;
        match self.find(reference).await? {
            Some(found) if found == made => Ok(made),
            _ => Err(TokenError::Corrupt("the wrapping key is found as another one".into())),
        }
    }

    /// Makes a key that may leave under that key alone.
    pub async fn make_for_backup(&self, spec: KeySpec, by: KeyRef) -> Result<PublicKey, TokenError> {
        if !spec.purpose.takes(spec.algorithm) {
            return Err(TokenError::Refused(format!("a {} key cannot be {}", spec.purpose, spec.algorithm)));
        }
        if spec.purpose == Purpose::Payment {
            self.fit_for_payments()?;
        }
        self.call(move |token| token.backup(&Ask::Make { spec, by })?.public()).await
    }

    /// Wraps such a key.
    pub async fn wrap_for_backup(&self, reference: KeyRef, by: KeyRef) -> Result<Vec<u8>, TokenError> {
        self.call(move |token| token.backup(&Ask::Wrap { reference, by })?.wrapped()).await
    }

    /// Takes a wrapped key in; `under` is the wrapping key itself, and does not stay.
    pub async fn unwrap_from_backup(
        &self,
        spec: KeySpec,
        by: KeyRef,
        under: &SecretBytes<32>,
        public: PublicKey,
        wrapped: Vec<u8>,
    ) -> Result<PublicKey, TokenError> {
        if spec.purpose == Purpose::Payment {
            self.fit_for_payments()?;
        }
        let under = Zeroizing::new(under.expose().to_vec());
        let ask = Ask::Unwrap { spec, by, under, public: public.as_bytes().to_vec(), wrapped };
        self.call(move |token| token.backup(&ask)?.public()).await
    }

    /// Roots of the vault, and what else bears their label: thousands of keys beside them are not asked for each time.
    pub async fn roots(&self) -> Result<Vec<Object>, TokenError> {
        self.call(|token| token.inventory(Some(ROOT))).await
    }

    /// Makes a root of the vault.
    pub async fn make_root(&self, reference: KeyRef) -> Result<(), TokenError> {
        let (label, algorithm) = (ROOT.to_owned(), Algorithm::Aes256Gcm);
        let spec = KeySpec { reference, label, algorithm, purpose: Purpose::Encryption };
        self.call(move |token| token.generate(&spec).map(drop)).await
    }

    /// Encrypts the key of a vault's table under its root.
    pub async fn seal_under_root(
        &self,
        root: KeyRef,
        nonce: Nonce,
        bound: Vec<u8>,
        key: &SecretBytes<32>,
    ) -> Result<Vec<u8>, TokenError> {
        let plain = Zeroizing::new(key.expose().to_vec());
        self.call(move |token| token.encrypt(root, nonce, &bound, &plain)).await
    }

    /// Opens it again.
    pub async fn open_under_root(
        &self,
        root: KeyRef,
        nonce: Nonce,
        bound: Vec<u8>,
        sealed: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call(move |token| token.decrypt(root, nonce, &bound, &sealed)).await
    }

    /// Random bytes of the token.
    pub async fn draw(&self, count: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.call(move |token| {
            let mut bytes = Zeroizing::new(vec![0; count]);
            token.random(&mut bytes)?;
            Ok(bytes)
        })
        .await
    }
}
