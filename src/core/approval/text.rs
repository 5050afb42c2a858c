//! The text that approvers read and sign: ASCII, one fact a line, always the same lines in the same order.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::Authority;
use crate::core::payment::{Effect, Payment};
use crate::core::policy::Policy;
use crate::core::proof::RequestId;
use crate::core::units::{Name, Timestamp};

/// SSHSIG namespace of a yes.
pub const APPROVE: &str = "clavigerd-approval@v1";
/// SSHSIG namespace of a no.
pub const REJECT: &str = "clavigerd-rejection@v1";

/// How many of whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Needs {
    /// Distinct people.
    pub quorum: u32,
    /// Of this group.
    pub of: String,
}

/// A text that was shown, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The very bytes.
    pub text: String,
    /// Whose voices count.
    pub needs: Needs,
}

/// What a payment's text is made of.
pub struct PaymentText<'a> {
    /// The request.
    pub request: RequestId,
    /// SHA-256 of what will be signed.
    pub digest: [u8; 32],
    /// Who asks.
    pub app: &'a Name,
    /// With which key.
    pub key: &'a Name,
    /// What.
    pub payment: &'a Payment,
    /// Until when a voice counts.
    pub expires: Timestamp,
    /// Drawn for this text.
    pub nonce: [u8; 16],
}

/// Text that cannot break a line or pass for another character.
pub(in crate::core) fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// What a payment does, one fact a line.
pub(in crate::core) fn payment_lines(payment: &Payment, policy: &Policy) -> Vec<String> {
    let amount = |asset, amount| policy.format_amount(payment.chain, asset, amount);
    let who = |address| policy.format_address(address);
    let (act, what, to) = match payment.effect {
        Effect::Transfer { asset, to, amount: a } => ("pay", amount(asset, a), who(to)),
        Effect::Approve { asset, spender, amount: a } => ("let take", amount(asset, a), who(spender)),
        Effect::TransferFrom { asset, owner, to, amount: a } => {
            ("move", format!("{} of {}", amount(asset, a), who(owner)), who(to))
        }
        Effect::ContractCall { contract, value, .. } => ("call", format!("{value} wei"), who(contract)),
        Effect::ContractCreation { value } => ("create", format!("{value} wei"), "a new contract".into()),
    };
    vec![
        format!("from: {}", payment.from),
        format!("chain: {}", payment.chain),
        format!("{act}: {what}"),
        format!("to: {to}"),
        format!("fee: at most {} wei", payment.max_fee),
        format!("account nonce: {}", payment.nonce),
    ]
}

impl PaymentText<'_> {
    /// Renders it.
    #[must_use]
    pub fn render(&self, policy: &Policy, authority: &Authority, needs: &Needs) -> Shown {
        let mut text = vec![
            "clavigerd approval v1".to_owned(),
            format!("deployment: {}", authority.deployment),
            format!("request: {}", self.request),
            format!("digest: sha256:{}", hex::encode(self.digest)),
            format!("app: {}", self.app),
            format!("key: {}", self.key),
        ];
        text.extend(payment_lines(self.payment, policy));
        text.extend([
            format!("policy: sha256:{}", hex::encode(policy.hash())),
            format!("authority: sha256:{}", hex::encode(authority.hash())),
            format!("needs: {} of {}", needs.quorum, needs.of),
            format!("expires: {}", self.expires),
            format!("nonce: {}", hex::encode(self.nonce)),
        ]);
        let text: String = text.iter().map(|line| ascii(line) + "\n").collect();
        Shown { text, needs: needs.clone() }
    }
}
