//! The methods of `user.sock`. Any user of the machine may open it: who they are the kernel says, and what they may do is
//! with their PIN.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::connection::Handler;
use super::{clip, discover, named, note_unreadable, serve_listed};
use crate::core::proof::{Digest, RequestId};
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use crate::service::user::{Confirmation, Typed};
use crate::service::{Chunk, House, Peer};
use crate::wire::rpc::Request;

/// Most connections of one user of the machine.
const MOST_OF_ONE: usize = 8;

/// Who is in: somebody who opens the socket again and again locks out nobody else.
#[derive(Default)]
pub struct Doors(Mutex<HashMap<u32, usize>>);

/// One connection of a user.
pub struct Door {
    doors: Arc<Doors>,
    uid: u32,
}

impl Doors {
    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more connection in, if it is not too many of this user.
    #[must_use]
    pub fn enter(self: &Arc<Self>, uid: u32) -> Option<Door> {
        let mut counts = self.counts();
        let count = counts.entry(uid).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Door { doors: Arc::clone(self), uid })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut counts = self.doors.counts();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// The user side of one connection.
pub struct User {
    /// The house.
    pub house: Arc<House>,
    /// Who is on the other end.
    pub peer: Arc<Peer>,
    /// Their place, held while the connection lasts.
    pub door: Door,
}

impl Handler for User {
    fn admit(&self, chunk: &Chunk) -> Result<(), Refusal> {
        self.peer.wrote(chunk)
    }

    async fn call(&self, request: Request) -> Result<Value, Refusal> {
        serve_listed(&self.house, &self.peer, discover::USER, request, |name, params| {
            self.dispatch(name, params)
        })
        .await
    }

    fn unreadable(&self, refusal: &Refusal) {
        note_unreadable(&self.house, &self.peer, refusal);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolParams {
    code: String,
    pin: String,
    duress: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeParams {
    pin: String,
    new: String,
    duress: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeParams {
    code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnlockParams {
    code: String,
    pin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestParams {
    request: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcknowledgeParams {
    duties: String,
    pin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfirmParams {
    request: String,
    digest: String,
    pin: String,
    signature: Option<String>,
    #[serde(rename = "assertion")]
    asserted: Option<String>,
}

/// A PIN that came over a socket.
pub(super) fn pin(text: String) -> Result<Pin, Refusal> {
    Pin::new(text).ok_or_else(|| Refusal::new(Code::InvalidParams, "the PIN is empty or too long"))
}

fn typed(text: String, duress: Option<String>) -> Result<Typed, Refusal> {
    let duress = duress.map(Zeroizing::new);
    Ok(Typed { pin: pin(text)?, duress: duress.map(|d| pin(d.to_string())).transpose()? })
}

fn request_id(text: &str) -> Result<RequestId, Refusal> {
    RequestId::parse(text)
        .ok_or_else(|| Refusal::new(Code::RequestUnknown, format!("{:?} is no request id", clip(text))))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| Refusal::new(Code::InvalidParams, "digest is the 64 hex digits that were shown"))?;
    Ok(bytes)
}

impl User {
    async fn dispatch(&self, method: &'static str, params: Value) -> Result<Value, Refusal> {
        let (house, peer) = (&self.house, &self.peer);
        match method {
            "rpc.discover" => Ok(discover::document(discover::USER, "claviger user API")),
            "user_status" => house.own_status(peer).await,
            "user_enrol" => {
                let params: EnrolParams = named(params)?;
                house.enrol(peer, &params.code, typed(params.pin, params.duress)?).await
            }
            "user_changePin" => {
                let params: ChangeParams = named(params)?;
                house.change_pin(peer, pin(params.pin)?, typed(params.new, params.duress)?).await
            }
            "user_request" => {
                let params: CodeParams = named(params)?;
                house.knock(peer, &params.code)
            }
            "user_unlock" => {
                let params: UnlockParams = named(params)?;
                house.unlock_user(peer, &params.code, pin(params.pin)?).await
            }
            "user_lock" => house.lock_user(peer).await,
            "user_duties" => house.own_duties(peer),
            "user_acknowledge" => {
                let params: AcknowledgeParams = named(params)?;
                house.acknowledge_own(peer, &params.duties, pin(params.pin)?).await
            }
            "user_pending" => house.asked_of(peer),
            "user_show" => {
                let params: RequestParams = named(params)?;
                house.asked_one(peer, request_id(&params.request)?)
            }
            "user_confirm" => {
                let params: ConfirmParams = named(params)?;
                let said = Confirmation {
                    request: request_id(&params.request)?,
                    digest: digest(&params.digest)?,
                    pin: pin(params.pin)?,
                    signature: params.signature,
                    asserted: params.asserted,
                };
                house.confirm_payment(peer, said).await
            }
            "user_refuse" => {
                let params: RequestParams = named(params)?;
                house.refuse_payment(peer, request_id(&params.request)?).await
            }
            _ => Err(Refusal::new(Code::Internal, format!("{method} is listed and not served"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // [clause 8.2.3-b] test
    #[test]
    fn one_user_cannot_take_all_the_places() {
        let doors = Arc::new(Doors::default());
        let held: Vec<_> = (0..MOST_OF_ONE).map(|_| doors.enter(7)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(doors.enter(7).is_none());
        assert!(doors.enter(8).is_some(), "somebody else");
        drop(held);
        assert!(doors.enter(7).is_some() && doors.counts().is_empty());
    }

    #[test]
    fn parameters_are_read_strictly() {
        assert!(named::<UnlockParams>(json!({"code": "a", "pin": "b", "uid": 0})).is_err());
        assert!(
            named::<ConfirmParams>(json!({"request": "a", "pin": "b"})).is_err(),
            "a confirmation names a digest"
        );
        assert!(digest(&"0".repeat(63)).is_err() && digest(&"0".repeat(64)).is_ok());
        assert!(pin(String::new()).is_err());
    }
}
