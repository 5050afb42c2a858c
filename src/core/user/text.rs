//! The text that a user reads before confirming a payment, and that an authenticator signs: ASCII, one fact a line, always
//! the same lines in the same order.
#![forbid(unsafe_code)]

use super::Step;
use crate::core::approval::sshsig::{SshKey, SshSigError, verify};
use crate::core::approval::text::{ascii, payment_lines};
use crate::core::payment::Payment;
use crate::core::policy::Policy;
use crate::core::proof::{Digest, RequestId, Tier};
use crate::core::units::{Name, Timestamp};

/// SSHSIG namespace of a user's confirmation.
pub const CONFIRM: &str = "clavigerd-user@v1";

/// What the text is made of.
pub struct UserText<'a> {
    /// Names this daemon's log: a signature for another one is worth nothing here.
    pub origin: &'a str,
    /// Whose key it is.
    pub user: &'a Name,
    /// The request.
    pub request: RequestId,
    /// SHA-256 of what will be signed.
    pub digest: Digest,
    /// Who asks.
    pub app: &'a Name,
    /// How much is known of it.
    pub tier: Tier,
    /// Its process and executable.
    pub caller: &'a str,
    /// With which key.
    pub key: &'a Name,
    /// What.
    pub payment: &'a Payment,
    /// What is asked of the user.
    pub step: Step,
    /// Until when.
    pub expires: Timestamp,
    /// Drawn for this text.
    pub nonce: [u8; 16],
}

impl UserText<'_> {
    /// Renders it.
    #[must_use]
    pub fn render(&self, policy: &Policy) -> String {
        let mut lines = vec![
            "clavigerd user confirmation v1".to_owned(),
            format!("log: {}", self.origin),
            format!("user: {}", self.user),
            format!("request: {}", self.request),
            format!("digest: sha256:{}", hex::encode(self.digest)),
            format!("app: {} (tier {:?})", self.app, self.tier),
            format!("program: {}", self.caller),
            format!("key: {}", self.key),
        ];
        lines.extend(payment_lines(self.payment, policy));
        lines.push(format!("step: {}", self.step.as_str()));
        lines.push(format!("expires: {}", self.expires));
        lines.push(format!("nonce: {}", hex::encode(self.nonce)));
        lines.iter().map(|line| ascii(line) + "\n").collect()
    }
}

/// Checks a signature of a user's authenticator over a text; gives the key's fingerprint and its counter.
// [clause 8.2.3-h] touched, and asked who touched it, over these very bytes, in this namespace
pub fn signed(armoured: &str, text: &str, keys: &[SshKey]) -> Result<(String, u32), String> {
    let signature = verify(armoured, CONFIRM, text.as_bytes()).map_err(|e: SshSigError| e.to_string())?;
    let fingerprint = signature.key.fingerprint();
    if !keys.contains(&signature.key) {
        return Err(format!("the key {fingerprint} is not enrolled for this user"));
    }
    match signature.presence {
        Some(p) if !p.touched => Err("the authenticator was not touched".into()),
        Some(p) if !p.verified => Err(
            "the authenticator did not ask for its PIN or a finger: make the key with ssh-keygen -O verify-required".into(),
        ),
        Some(p) => Ok((fingerprint, p.counter)),
        None => Err(format!("{fingerprint} is a key in a file")),
    }
}
