//! What can be asked on `wallet.sock`: one function a method, from typed parameters to a typed answer.
#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::Error;
use super::payment::{Payment, SignedPayment, Standing};
use super::replies::{
    Cancelled, Governance, Hex, Key, LoginSignature, News, Pending, RawLogin, Simulation, Status, UserCode,
};
use crate::core::key::PublicKey;
use crate::core::login::Login;
use crate::core::payment::message::PersonalMessage;
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name};
use crate::core::verify::{Verifier, is_of_account};

/// Longest wait that the daemon grants, milliseconds.
pub const LONGEST_WAIT_MS: u64 = 60_000;

/// Reads the result of one request.
pub(in crate::client) type Read<T> = Box<dyn FnOnce(Value) -> Result<T, Error> + Send>;

/// One request, and how its answer is read.
#[must_use = "a request does nothing before a client asks it"]
pub struct Ask<T> {
    pub(in crate::client) method: &'static str,
    pub(in crate::client) params: Value,
    /// How long the daemon itself may wait before it answers, milliseconds.
    pub(in crate::client) waits_ms: u64,
    pub(in crate::client) read: Read<T>,
}

impl<T> Ask<T> {
    fn new(
        method: &'static str,
        params: Value,
        read: impl FnOnce(Value) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        Self { method, params, waits_ms: 0, read: Box::new(read) }
    }

    fn waiting(self, ms: u64) -> Self {
        Self { waits_ms: ms, ..self }
    }
}

impl<T: DeserializeOwned + 'static> Ask<T> {
    fn plain(method: &'static str, params: Value) -> Self {
        Self::new(method, params, move |result| typed(method, result))
    }
}

fn typed<T: DeserializeOwned>(method: &'static str, result: Value) -> Result<T, Error> {
    serde_json::from_value(result).map_err(|e| Error::Mismatch { method, why: e.to_string() })
}

fn hex0x(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// One member of the result, as bytes.
fn bytes_of(method: &'static str, member: &'static str, mut result: Value) -> Result<Vec<u8>, Error> {
    let value = result.get_mut(member).map(Value::take).unwrap_or_default();
    typed::<Hex>(method, value).map(|hex| hex.0)
}

/// Any method, without types: for those of a newer daemon.
pub fn raw(method: &'static str, params: Value) -> Ask<Value> {
    Ask::new(method, params, Ok)
}

/// Whether payments can be signed now.
pub fn status() -> Ask<Status> {
    Ask::plain("claviger_status", json!({}))
}

/// The rules in force.
pub fn governance() -> Ask<Governance> {
    Ask::plain("claviger_governance", json!({}))
}

/// Waits for entries about who decides what, after the one of this index: a change is announced before it is in force.
pub fn wait_governance(since: u64, patience_ms: u64) -> Ask<News> {
    let patience_ms = patience_ms.min(LONGEST_WAIT_MS);
    let params = json!({"since": since, "timeout_ms": patience_ms});
    Ask::plain("claviger_waitGovernance", params).waiting(patience_ms)
}

/// The chain of this app.
pub fn chain_id() -> Ask<u64> {
    let method = "eth_chainId";
    Ask::new(method, json!([]), move |result| {
        let digits = result.as_str().and_then(|text| text.strip_prefix("0x"));
        digits
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .ok_or_else(|| Error::Mismatch { method, why: format!("{result} is no 0x quantity") })
    })
}

/// The keys that this app may use.
pub fn list_keys() -> Ask<Vec<Key>> {
    Ask::plain("claviger_listKeys", json!({}))
}

/// Decides and signs a payment, and waits for that.
pub fn sign_payment(payment: &Payment) -> Ask<SignedPayment> {
    let method = "claviger_signPayment";
    let (params, payment) = (json!({"transaction": payment.to_json()}), payment.clone());
    Ask::new(method, params, move |result| payment.signed(method, &result))
}

/// Begins a payment, and gives the id to wait for it with.
pub fn begin_payment(payment: &Payment) -> Ask<RequestId> {
    let method = "claviger_signPayment";
    let params = json!({"transaction": payment.to_json(), "wait": false});
    Ask::new(method, params, move |result| pending(method, result))
}

/// Waits for a payment that was begun, or that people or its user must confirm.
pub fn wait_payment(payment: &Payment, request: RequestId, patience_ms: u64) -> Ask<Standing> {
    let method = "claviger_waitRequest";
    let patience_ms = patience_ms.min(LONGEST_WAIT_MS);
    let params = json!({"request": request.to_string(), "timeout_ms": patience_ms});
    let payment = payment.clone();
    let read = move |result: Value| {
        if result.get("raw").is_some() {
            return payment.signed(method, &result).map(|signed| Standing::Signed(Box::new(signed)));
        }
        pending(method, result).map(Standing::Pending)
    };
    Ask::new(method, params, read).waiting(patience_ms)
}

fn pending(method: &'static str, result: Value) -> Result<RequestId, Error> {
    let pending: Pending = typed(method, result)?;
    if pending.status == "pending" {
        return Ok(pending.request.0);
    }
    let why = format!("the payment is {:?}, which is neither signed nor pending", pending.status);
    Err(Error::Mismatch { method, why })
}

/// Cancels a payment, unless its amount is already reserved; says whether it did.
pub fn cancel_payment(request: RequestId) -> Ask<bool> {
    let method = "claviger_cancelRequest";
    Ask::new(method, json!({"request": request.to_string()}), move |result| {
        typed::<Cancelled>(method, result).map(|told| told.cancelled)
    })
}

/// What would be decided of a payment; nothing is reserved or signed.
pub fn simulate_payment(payment: &Payment) -> Ask<Simulation> {
    Ask::plain("claviger_simulatePayment", json!({"transaction": payment.to_json()}))
}

/// Signs an EIP-191 message; gives `r || s || v`.
pub fn sign_message(account: Address, message: &[u8]) -> Result<Ask<[u8; 65]>, Error> {
    let method = "personal_sign";
    let hash = PersonalMessage::new(message.to_vec()).map_err(|e| Error::Invalid(e.to_string()))?.hash();
    let params = json!([hex0x(message), account.lower_hex()]);
    Ok(Ask::new(method, params, move |result| {
        let wrong = |why: &str| Error::Mismatch { method, why: why.into() };
        let bytes: Hex = typed(method, result)?;
        let signature: [u8; 65] =
            bytes.0.try_into().map_err(|_| wrong("a signature of a message has 65 bytes"))?;
        let halves = signature.first_chunk::<32>().zip(signature.get(32..64).and_then(<[u8]>::first_chunk));
        let odd = match signature.last() {
            Some(27) => Some(false),
            Some(28) => Some(true),
            _ => None,
        };
        match halves.zip(odd) {
            Some((halves, odd)) if is_of_account(account, &hash, halves, odd) => Ok(signature),
            _ => Err(wrong("it is not the account's signature of this message")),
        }
    }))
}

/// Signs a login challenge with an authentication key.
pub fn sign_login(key: &Name, audience: &str, challenge: &[u8]) -> Result<Ask<LoginSignature>, Error> {
    let method = "claviger_signLogin";
    let login = Login::new(audience, challenge).map_err(|e| Error::Invalid(e.to_string()))?;
    let params = json!({"key": key, "audience": audience, "challenge": hex0x(challenge)});
    Ok(Ask::new(method, params, move |result| {
        let wrong = |why: &str| Error::Mismatch { method, why: why.into() };
        let told: RawLogin = typed(method, result)?;
        let signature: [u8; 64] =
            told.signature.0.try_into().map_err(|_| wrong("a signature has 64 bytes"))?;
        if told.message.0 != login.message() {
            return Err(wrong("another message was signed than this login's"));
        }
        let verifier = PublicKey::from_bytes(told.algorithm, &told.public_key.0)
            .and_then(|public| Verifier::new(&public))
            .ok_or_else(|| wrong("its public key is none"))?;
        let checked =
            verifier.check(&login.to_sign(told.algorithm), &signature).map_err(|e| wrong(&e.to_string()))?;
        Ok(LoginSignature {
            signature: *checked.bytes(),
            message: told.message.0,
            algorithm: told.algorithm,
            public_key: told.public_key.0,
        })
    }))
}

/// Random bytes of token and kernel, 1 to 4096.
pub fn random(key: &Name, count: usize) -> Ask<Vec<u8>> {
    let method = "claviger_random";
    Ask::new(method, json!({"key": key, "bytes": count}), move |result| {
        let bytes = bytes_of(method, "random", result)?;
        if bytes.len() == count {
            Ok(bytes)
        } else {
            Err(Error::Mismatch { method, why: format!("{} bytes came, not {count}", bytes.len()) })
        }
    })
}

/// Encrypts with AES-256-GCM; gives nonce, ciphertext and tag. `aad` is bound and not kept.
pub fn encrypt(key: &Name, plaintext: &[u8], aad: &[u8]) -> Ask<Vec<u8>> {
    let method = "claviger_encrypt";
    let params = json!({"key": key, "plaintext": hex0x(plaintext), "aad": hex0x(aad)});
    Ask::new(method, params, move |result| bytes_of(method, "ciphertext", result))
}

/// Decrypts what [`encrypt`] made.
pub fn decrypt(key: &Name, ciphertext: &[u8], aad: &[u8]) -> Ask<Vec<u8>> {
    let method = "claviger_decrypt";
    let params = json!({"key": key, "ciphertext": hex0x(ciphertext), "aad": hex0x(aad)});
    Ask::new(method, params, move |result| bytes_of(method, "plaintext", result))
}

/// Makes an HMAC-SHA256.
pub fn mac(key: &Name, data: &[u8]) -> Ask<Vec<u8>> {
    let method = "claviger_mac";
    Ask::new(method, json!({"key": key, "data": hex0x(data)}), move |result| bytes_of(method, "mac", result))
}

/// Whether a MAC is the one of this data.
pub fn verify_mac(key: &Name, data: &[u8], mac: &[u8]) -> Ask<bool> {
    let method = "claviger_verifyMac";
    let params = json!({"key": key, "data": hex0x(data), "mac": hex0x(mac)});
    Ask::new(method, params, move |mut result| {
        typed(method, result.get_mut("valid").map(Value::take).unwrap_or_default())
    })
}

/// Asks for the user: show them the code, they run `claviger user unlock CODE`.
pub fn request_user() -> Ask<UserCode> {
    Ask::plain("claviger_requestUser", json!({}))
}

/// Which users are here for this connection; waits so long for somebody.
pub fn wait_user(patience_ms: u64) -> Ask<Vec<Name>> {
    let method = "claviger_userSession";
    let patience_ms = patience_ms.min(LONGEST_WAIT_MS);
    let read =
        move |mut result: Value| typed(method, result.get_mut("users").map(Value::take).unwrap_or_default());
    Ask::new(method, json!({"timeout_ms": patience_ms}), read).waiting(patience_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_not_to_the_question_are_told_apart() {
        let key = Name::parse("dice").unwrap();
        let read = |bytes: &str| (random(&key, 2).read)(json!({"random": bytes}));
        assert_eq!(read("0x0102").unwrap(), [1, 2]);
        for bad in ["0x01", "0102", "0x010203", "0x0x"] {
            assert!(matches!(read(bad), Err(Error::Mismatch { .. })), "{bad}");
        }
        let login = sign_login(&key, "https://example.org", &[7; 32]).unwrap();
        let empty = json!({"signature": hex0x(&[0; 64]), "message": "0x", "algorithm": "ed25519", "public_key": hex0x(&[0; 32])});
        assert!((login.read)(empty).unwrap_err().to_string().contains("another message"));
        assert!(sign_login(&key, "two words", &[7; 32]).is_err());
        let message = sign_message(Address([1; 20]), b"hi").unwrap();
        assert!((message.read)(json!(hex0x(&[1; 65]))).is_err());
        assert!(sign_message(Address([1; 20]), &vec![0; 1 << 20]).is_err());
    }

    #[test]
    fn a_payment_that_waits_is_pending_or_signed_and_nothing_else() {
        let payment = Payment::from_json(&json!({"from": Address([1; 20]), "gas": "0x1", "nonce": "0x0",
            "chainId": "0x1", "gasPrice": "0x1", "to": Address([2; 20])}));
        let payment = payment.unwrap();
        let id = RequestId(5).to_string();
        let read = |reply: Value| (wait_payment(&payment, RequestId(5), 1).read)(reply);
        assert_eq!(
            read(json!({"request": id, "status": "pending"})).unwrap(),
            Standing::Pending(RequestId(5))
        );
        assert!(read(json!({"request": id, "status": "gone"})).is_err());
        assert!(read(json!({"request": "x", "status": "pending"})).is_err());
        assert!(read(json!({"request": id, "status": "signed", "raw": "0x01"})).is_err());
        assert_eq!(wait_payment(&payment, RequestId(5), u64::MAX).waits_ms, LONGEST_WAIT_MS);
    }
}
