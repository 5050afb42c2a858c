//! Using a key while its record is being committed: the token works, the result stays sealed.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::{Call, Keeper, Shared};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, Operation, Purpose};
use crate::core::payment::ToSign;
use crate::core::proof::{Decided, Reserved, Start};
use crate::core::units::sha256;
use crate::token::{Nonce, RawSignature, Token, TokenError};

/// Random bytes that are drawn from the token for one seed.
pub const DRAWN: usize = 64;

/// What a token shall do with a key.
#[derive(Clone)]
pub enum Work {
    /// Signs a payment that was decoded.
    Payment(ToSign),
    /// Signs an EIP-191 message.
    Message(ToSign),
    /// Signs a login challenge.
    Login(ToSign),
    /// Encrypts.
    Encrypt {
        /// Drawn for this once.
        nonce: Nonce,
        /// Associated data.
        aad: Vec<u8>,
        /// What is encrypted.
        plain: Zeroizing<Vec<u8>>,
    },
    /// Decrypts.
    Decrypt {
        /// As it stood before the ciphertext.
        nonce: Nonce,
        /// Associated data.
        aad: Vec<u8>,
        /// Ciphertext and tag.
        sealed: Vec<u8>,
    },
    /// Makes a MAC.
    Mac(Zeroizing<Vec<u8>>),
    /// Makes a MAC that is compared and not told.
    VerifyMac(Zeroizing<Vec<u8>>),
    /// Draws from the token's generator, and conditions it together with bytes of the kernel's.
    Random(Zeroizing<[u8; 32]>),
}

/// What it made of it.
pub enum Made {
    /// Not verified yet.
    Signature(RawSignature),
    /// Ciphertext or plaintext.
    Bytes(Zeroizing<Vec<u8>>),
    /// The tag.
    Tag([u8; 32]),
    /// A seed, and what was drawn for it, for its health to be tested.
    Seed(Zeroizing<[u8; 32]>, Zeroizing<[u8; DRAWN]>),
}

impl Work {
    /// Which operation it is.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::Payment(_) => Operation::SignPayment,
            Self::Message(_) => Operation::SignMessage,
            Self::Login(_) => Operation::SignLogin,
            Self::Encrypt { .. } => Operation::Encrypt,
            Self::Decrypt { .. } => Operation::Decrypt,
            Self::Mac(_) => Operation::Mac,
            Self::VerifyMac(_) => Operation::VerifyMac,
            Self::Random(_) => Operation::Random,
        }
    }

    /// Ties the proofs of one request together. Of what is signed it is SHA-256 of what the token is handed. Data that
    /// a key protects may be guessed, so its digest is salted, and the salt is kept by nobody.
    pub fn digest(&self) -> Result<[u8; 32], TokenError> {
        let secret = |data: &[u8]| {
            let mut salted = Zeroizing::new(vec![0; 32]);
            getrandom::fill(&mut salted)
                .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
            salted.extend_from_slice(data);
            Ok(sha256(&salted))
        };
        match self {
            Self::Payment(to_sign) | Self::Message(to_sign) | Self::Login(to_sign) => Ok(to_sign.digest()),
            Self::Encrypt { plain, .. } => secret(plain),
            Self::Decrypt { sealed, .. } => secret(sealed),
            Self::Mac(data) | Self::VerifyMac(data) => secret(data),
            Self::Random(kernel) => secret(kernel.as_slice()),
        }
    }

    fn run(
        &self,
        token: &mut dyn Token,
        reference: KeyRef,
        algorithm: Algorithm,
    ) -> Result<Made, TokenError> {
        Ok(match self {
            Self::Payment(to_sign) | Self::Message(to_sign) | Self::Login(to_sign) => {
                Made::Signature(token.sign(reference, algorithm, to_sign)?)
            }
            Self::Encrypt { nonce, aad, plain } => {
                Made::Bytes(token.encrypt(reference, *nonce, aad, plain)?.into())
            }
            Self::Decrypt { nonce, aad, sealed } => {
                Made::Bytes(token.decrypt(reference, *nonce, aad, sealed)?)
            }
            Self::Mac(data) | Self::VerifyMac(data) => Made::Tag(token.mac(reference, data)?),
            Self::Random(kernel) => {
                let mut drawn = Zeroizing::new([0; DRAWN]);
                token.random(drawn.as_mut_slice())?;
                let both = Zeroizing::new([drawn.as_slice(), kernel.as_slice()].concat());
                Made::Seed(Zeroizing::new(token.mac(reference, &both)?), drawn)
            }
        })
    }
}

/// What the token makes, or has made: nobody sees it before its reservation is on disk.
///
/// There is no way to its bytes but [`Sealed::open`]. Dropped, it is gone.
#[must_use]
pub struct Sealed {
    told: oneshot::Receiver<Result<Made, TokenError>>,
    digest: [u8; 32],
    /// Not begun yet, for tokens that are asked only for what is on disk.
    waiting: Option<Call>,
    shared: Arc<Shared>,
    patience: Duration,
}

impl Keeper {
    /// Makes ready to use a key: the first half begins it, the second gives what was made.
    // [clause 8.7.2-a] the purpose is checked once more where the token is reached
    pub fn begin(
        &self,
        key: &KeyRecord,
        work: Work,
        digest: [u8; 32],
    ) -> Result<(Start, Sealed), TokenError> {
        let (operation, algorithm) = (work.operation(), key.public.algorithm());
        if !key.purpose.may(operation) || !algorithm.does(operation) {
            return Err(TokenError::Refused(format!("key {} is not for {operation}", key.name)));
        }
        self.not_strange()?;
        if key.purpose == Purpose::Payment {
            self.fit_for_payments()?;
        }
        let reference = key.reference;
        let (call, told) = super::prepare(move |token| work.run(token, reference, algorithm));
        let shared = Arc::clone(&self.shared);
        let patience = shared.config.call_timeout;
        let mut sealed = Sealed { told, digest, waiting: None, shared: Arc::clone(&shared), patience };
        let start: Start = if shared.config.sign_ahead {
            Box::new(move |decided: Decided| {
                if *decided.digest() == digest {
                    shared.push(call);
                }
            })
        } else {
            sealed.waiting = Some(call);
            Box::new(drop)
        };
        Ok((start, sealed))
    }
}

impl Sealed {
    /// What was made, for exactly the request that was reserved.
    pub async fn open(self, reserved: &Reserved) -> Result<Made, TokenError> {
        if *reserved.digest() != self.digest {
            return Err(TokenError::Refused("this is not the request that was reserved".into()));
        }
        if let Some(call) = self.waiting {
            self.shared.push(call);
        }
        super::wait(self.told, self.patience).await
    }
}
