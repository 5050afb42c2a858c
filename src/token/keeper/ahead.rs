//! Signing a payment while its record is being committed: the token works, the result stays sealed.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Call, Keeper, Shared};
use crate::core::key::{KeyRecord, Purpose};
use crate::core::payment::ToSign;
use crate::core::proof::{Decided, Reserved, Start};
use crate::token::{RawSignature, TokenError};
use std::sync::Arc;

/// A signature that the token makes, or has made: nobody sees it before its reservation is on disk.
///
/// There is no way to its bytes but [`Sealed::open`]. Dropped, it is gone.
#[must_use]
pub struct Sealed {
    told: oneshot::Receiver<Result<RawSignature, TokenError>>,
    digest: [u8; 32],
    /// Not begun yet, for tokens that are asked only for what is on disk.
    waiting: Option<Call>,
    shared: Arc<Shared>,
    patience: Duration,
}

impl Keeper {
    /// Makes ready to sign a payment with a payment key: the first half begins it, the second gives the signature.
    // [clause 8.7.2-a] the purpose is checked once more where the token is reached
    pub fn payment(&self, key: &KeyRecord, to_sign: ToSign) -> Result<(Start, Sealed), TokenError> {
        if key.purpose != Purpose::Payment {
            return Err(TokenError::Refused(format!("key {} is no payment key", key.name)));
        }
        let (reference, algorithm, digest) = (key.reference, key.public.algorithm(), to_sign.digest());
        let (call, told) = super::prepare(move |token| token.sign(reference, algorithm, &to_sign));
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
    /// The signature, for exactly the payment that was reserved.
    pub async fn open(self, reserved: &Reserved) -> Result<RawSignature, TokenError> {
        if *reserved.digest() != self.digest {
            return Err(TokenError::Refused("this is not the payment that was reserved".into()));
        }
        if let Some(call) = self.waiting {
            self.shared.push(call);
        }
        super::wait(self.told, self.patience).await
    }
}
