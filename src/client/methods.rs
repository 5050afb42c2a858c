//! The table of what clients ask: each edge makes its methods of it.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Milliseconds, as the protocol has them.
pub(super) fn ms(patience: Duration) -> u64 {
    u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)
}

/// Hands every method to a macro: documentation, name, parameters, result, and the request.
macro_rules! every_method {
    ($make:ident) => {
        $make! {
            /// Whether payments can be signed now.
            status() -> Status = ask::status();
            /// The rules in force.
            governance() -> Governance = ask::governance();
            /// Waits for entries about who decides what, after the one of this index; a minute at most.
            wait_governance(since: u64, patience: Duration) -> News = ask::wait_governance(since, ms(patience));
            /// The chain of this app.
            chain_id() -> u64 = ask::chain_id();
            /// The keys that this app may use.
            list_keys() -> Vec<Key> = ask::list_keys();
            /// Decides and signs a payment, and waits for that. What comes back is this payment, signed by its account.
            sign_payment(payment: &Payment) -> SignedPayment = ask::sign_payment(payment);
            /// Begins a payment, and gives the id to wait for it with, or to cancel it.
            begin_payment(payment: &Payment) -> RequestId = ask::begin_payment(payment);
            /// Waits for a payment that was begun, or that people or its user must confirm; a minute at most.
            wait_payment(payment: &Payment, request: RequestId, patience: Duration) -> Standing
                = ask::wait_payment(payment, request, ms(patience));
            /// Cancels a payment, unless its amount is already reserved; says whether it did.
            cancel_payment(request: RequestId) -> bool = ask::cancel_payment(request);
            /// What would be decided of a payment; nothing is reserved or signed.
            simulate_payment(payment: &Payment) -> Simulation = ask::simulate_payment(payment);
            /// Signs an EIP-191 message; gives `r || s || v`.
            sign_message(account: Address, message: &[u8]) -> [u8; 65] = ask::sign_message(account, message)?;
            /// Signs a login challenge with an authentication key.
            sign_login(key: &Name, audience: &str, challenge: &[u8]) -> LoginSignature
                = ask::sign_login(key, audience, challenge)?;
            /// Random bytes of token and kernel, 1 to 4096.
            random(key: &Name, count: usize) -> Vec<u8> = ask::random(key, count);
            /// Encrypts with AES-256-GCM; gives nonce, ciphertext and tag. `aad` is bound and not kept.
            encrypt(key: &Name, plaintext: &[u8], aad: &[u8]) -> Vec<u8> = ask::encrypt(key, plaintext, aad);
            /// Decrypts what `encrypt` made.
            decrypt(key: &Name, ciphertext: &[u8], aad: &[u8]) -> Vec<u8> = ask::decrypt(key, ciphertext, aad);
            /// Makes an HMAC-SHA256.
            mac(key: &Name, data: &[u8]) -> Vec<u8> = ask::mac(key, data);
            /// Whether a MAC is the one of this data.
            verify_mac(key: &Name, data: &[u8], mac: &[u8]) -> bool = ask::verify_mac(key, data, mac);
            /// Asks for the user: show them the code, they run `claviger user unlock CODE`.
            request_user() -> UserCode = ask::request_user();
            /// Which users are here for this connection; waits so long for somebody, a minute at most.
            wait_user(patience: Duration) -> Vec<Name> = ask::wait_user(ms(patience));
        }
    };
}
pub(super) use every_method;
