//! Payments that wait for people: shown, judged, counted; signed when their app comes back for them. [clause 8.5.4]
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::{Value, json};

use super::pending::Cancel;
use super::sign::{Asked, Payer, Signed, sign};
use super::{House, Peer};
use crate::core::approval::sshsig::verify;
use crate::core::approval::{APPROVE, REJECT, Shown, judge};
use crate::core::payment::evm::UnsignedTx;
use crate::core::proof::RequestId;
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::store::{Waiting, WaitingState};

/// How often a request that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Writes a payment down that waits; the refusal that tells its app.
pub(super) async fn waits(house: &House, waiting: Waiting) -> Result<Refusal, Refusal> {
    let waiting = house.store.wait_for_people(waiting).await.map_err(|e| house.store_refusal(&e))??;
    tracing::info!(request = %waiting.request, app = %waiting.app, "a payment waits for people");
    let why = format!(
        "{} of {} must approve this payment until {}; {} have",
        waiting.needs.quorum,
        waiting.needs.of,
        waiting.expires,
        waiting.yes.len()
    );
    Ok(Refusal::new(Code::ApprovalNeeded, why).with(describe(&waiting)))
}

fn describe(waiting: &Waiting) -> Value {
    json!({
        "request": waiting.request.to_string(),
        "kind": "payment",
        "status": waiting.state,
        "app": waiting.app,
        "key": waiting.key,
        "quorum": waiting.needs.quorum,
        "of": waiting.needs.of,
        "approved_by": waiting.yes,
        "expires": waiting.expires.to_string(),
    })
}

fn unknown(request: RequestId) -> Refusal {
    Refusal::new(Code::RequestUnknown, format!("no payment {request} waits for people"))
}

impl House {
    /// Payments and changes that wait for people now.
    pub async fn approvals(&self) -> Result<Value, Refusal> {
        let all = self.store.all_waiting().await.map_err(|e| self.store_refusal(&e))?;
        let now = super::keys::now();
        let mut list: Vec<Value> = all.iter().filter(|w| now < w.expires).map(describe).collect();
        list.extend(self.changes_waiting().await?);
        Ok(Value::Array(list))
    }

    async fn waiting(&self, request: RequestId) -> Result<Waiting, Refusal> {
        let found = self.store.waiting(request).await.map_err(|e| self.store_refusal(&e))?;
        found.ok_or_else(|| unknown(request))
    }

    /// One of them, with the text that is signed.
    pub async fn approval(&self, request: RequestId) -> Result<Value, Refusal> {
        if let Some(change) = self.change(request).await? {
            return Ok(change);
        }
        let waiting = self.waiting(request).await?;
        let mut shown = describe(&waiting);
        if let Some(map) = shown.as_object_mut() {
            map.insert("text".into(), json!(waiting.text));
            map.insert("namespaces".into(), json!({"approve": APPROVE, "reject": REJECT}));
        }
        Ok(shown)
    }

    /// Judges a signature over the text, and counts it. Refused ones are in the log too.
    pub async fn voice(&self, peer: &Peer, request: RequestId, armoured: &str) -> Result<Value, Refusal> {
        match self.heard(request, armoured).await {
            Ok(told) => Ok(told),
            Err(refusal) => {
                Err(self.log_refusal(peer, Some(request), Some("approval".into()), refusal).await)
            }
        }
    }

    async fn heard(&self, request: RequestId, armoured: &str) -> Result<Value, Refusal> {
        self.trusted()?;
        if let Some(change) = self.store.change(request).await.map_err(|e| self.store_refusal(&e))? {
            return self.heard_change(change, armoured).await;
        }
        let waiting = self.waiting(request).await?;
        let rules = self.rules();
        let stale = |why: &str| Err(Refusal::new(Code::ApprovalStale, why.to_owned()));
        let Some(authority) = rules.authority.as_ref().filter(|a| a.hash() == waiting.authority) else {
            return stale("the authority document changed since this text was shown");
        };
        if rules.policy.hash() != waiting.policy {
            return stale("the policy changed since this text was shown");
        }
        let shown = Shown { text: waiting.text, needs: waiting.needs };
        // The namespace says whether it is a yes or a no; a no is never read as a yes.
        let yes = verify(armoured, REJECT, shown.text.as_bytes()).is_err();
        let namespace = if yes { APPROVE } else { REJECT };
        let counter = match verify(armoured, namespace, shown.text.as_bytes()) {
            Ok(signature) => self
                .store
                .counter_of(signature.key.fingerprint())
                .await
                .map_err(|e| self.store_refusal(&e))?,
            Err(_) => None,
        };
        let voice = judge(authority, &shown, waiting.uid, namespace, armoured, |_| counter)?;
        let person = voice.person.clone();
        let after = self
            .store
            .count_voice(request, yes, voice, armoured.trim().to_owned())
            .await
            .map_err(|e| self.store_refusal(&e))??;
        tracing::info!(%request, person, yes, state = after.state.as_str(), "a voice was counted");
        Ok(describe(&after))
    }

    /// An app waits for the people; when they have approved, its payment is signed now.
    pub async fn wait_for_approval(
        &self,
        peer: &Peer,
        app: &Name,
        request: RequestId,
        patience: Duration,
    ) -> Result<Option<Signed>, Refusal> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let waiting = self.waiting(request).await.ok().filter(|w| &w.app == app);
            let waiting = waiting.ok_or_else(|| unknown(request))?;
            // Whoever waits is told at once that nothing comes.
            self.may_use(app, &waiting.key.line())?;
            let over = super::keys::now() >= waiting.expires;
            match waiting.state {
                WaitingState::Approved | WaitingState::Used if !over => {
                    // The very payload that was shown; it walks the path like any other request.
                    let tx = UnsignedTx::decode(&waiting.transaction)
                        .map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
                    let asked = Asked::Transaction(Box::new(tx), Payer::account(waiting.account));
                    return sign(self, peer, self.next_request(), asked, &Cancel::default()).await.map(Some);
                }
                WaitingState::Rejected => {
                    let why = format!("payment {request} was refused by somebody who may approve it");
                    return Err(Refusal::new(Code::ApprovalRejected, why));
                }
                WaitingState::Cancelled => {
                    return Err(Refusal::new(Code::Cancelled, format!("payment {request} was taken back")));
                }
                WaitingState::Waiting if !over => {}
                _ => {
                    let why = format!("the time of payment {request} is over: ask anew");
                    return Err(Refusal::new(Code::ApprovalStale, why));
                }
            }
            if tokio::time::Instant::now() + LOOK > until {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Who decides what, now and before: for everybody whom the rules bind.
    // [clause 8.8-a] users and apps see the rules in force, who put them there, and how they came about
    pub async fn governance(&self) -> Result<Value, Refusal> {
        let rules = self.rules();
        let pending = self.changes_waiting().await?;
        let people = rules.authority.as_ref().map(|a| {
            let groups: std::collections::BTreeSet<&String> =
                a.people().iter().flat_map(|p| p.groups.iter()).collect();
            let groups: serde_json::Map<String, Value> =
                groups.into_iter().map(|g| (g.clone(), json!(a.strength(g)))).collect();
            json!({"deployment": a.deployment, "hash": hex::encode(a.hash()), "groups": groups})
        });
        let asks: Vec<Value> = rules
            .policy
            .asks()
            .map(|(rule, needs)| json!({"rule": rule, "quorum": needs.quorum, "of": needs.of}))
            .collect();
        Ok(json!({
            "policy": hex::encode(rules.policy.hash()),
            "key_policy": hex::encode(self.key_policy().hash()),
            "authority": people,
            "approvals": asks,
            "quorums": rules.authority.as_ref().map(|a| {
                a.quorums()
                    .map(|(matter, q)| {
                        json!({"matter": matter, "quorum": q.needs.quorum, "of": q.needs.of, "delay_seconds": q.delay_ms / 1000})
                    })
                    .collect::<Vec<_>>()
            }),
            "not_in_force": self.differing(),
            "duties": self.duties_told(),
            "pending": pending,
            "history": self.store.governance(),
        }))
    }

    /// Its app takes a payment back that waits.
    pub async fn cancel_approval(&self, app: &Name, request: RequestId) -> Result<bool, Refusal> {
        self.store.stop_waiting(request, app.clone()).await.map_err(|e| self.store_refusal(&e))
    }
}
