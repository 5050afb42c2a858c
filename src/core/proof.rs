//! Proof types: a value of each exists only when its step was taken.
//!
//! Private fields, no `Clone`, no `Default`, no serde. Each carries the digest of the request, so that one
//! request's proof cannot serve another. `tests/tidy.rs` allows `assertion` to be called in one file each.
//! Leaving a step out does not compile:
//!
//! ```compile_fail
//! let forged = claviger::core::proof::Reserved { digest: [0; 32], request: 1 };
//! ```
#![forbid(unsafe_code)]

use super::units::Name;
use super::user::Claim;

/// Identifies one request in the log; assigned by the daemon, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

impl RequestId {
    /// Inverse of its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (text.len() == 32 && lower).then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// SHA-256 of the bytes that will be signed: ties proofs to one request.
pub type Digest = [u8; 32];

/// How much is known about the caller. Each tier includes the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Tier {
    /// The user id only.
    T0,
    /// Executable, code in memory, tracers, filters and namespaces observed; process pinned for the connection.
    T1,
    /// Out of reach of other programs of the same user: not dumpable, and the connection is proven to be its own.
    T2,
    /// Under a user of its own, in a unit of the service manager.
    T3,
}

/// The caller of this very request was checked just now. Made in `caller/` alone.
#[must_use]
pub struct Vouched {
    app: Name,
    tier: Tier,
    digest: Digest,
}

impl Vouched {
    pub(crate) fn assertion(app: Name, tier: Tier, digest: Digest) -> Self {
        Self { app, tier, digest }
    }
    /// The registered app.
    #[must_use]
    pub fn app(&self) -> &Name {
        &self.app
    }
    /// What was checked.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }
    /// The request it was checked for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Whose key this is was here for this very request just now, or it is nobody's in particular. Made in `service/user/`
/// alone.
#[must_use]
pub struct Present {
    digest: Digest,
    claim: Option<Claim>,
}

impl Present {
    pub(crate) fn assertion(digest: Digest, claim: Option<Claim>) -> Self {
        Self { digest, claim }
    }
    /// The user, where the document names one for the key, and what they confirmed.
    #[must_use]
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }
    /// The request it was checked for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// The policy permits this request. Made in `core/policy/` alone.
#[must_use]
pub struct Authorized {
    digest: Digest,
    rule: Name,
}

impl Authorized {
    pub(crate) fn assertion(digest: Digest, rule: Name) -> Self {
        Self { digest, rule }
    }
    /// The rule that permitted it.
    #[must_use]
    pub fn rule(&self) -> &Name {
        &self.rule
    }
    /// The request it was given for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// This request is permitted, counted and on its way to the disk: the token may begin, and what it gives stays sealed
/// until [`Reserved`]. Made in `store/` alone.
#[must_use]
pub struct Decided {
    digest: Digest,
    request: RequestId,
}

impl Decided {
    pub(crate) fn assertion(digest: Digest, request: RequestId) -> Self {
        Self { digest, request }
    }
    /// The request it was decided for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
    /// Its id in the log.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }
}

/// What the store calls as soon as a request is decided, while its record is being committed.
pub type Start = Box<dyn FnOnce(Decided) + Send>;

/// The reservation and INTENT of this request are on disk (committed, fsynced). Made in `store/` alone.
#[must_use]
pub struct Reserved {
    digest: Digest,
    request: RequestId,
}

impl Reserved {
    pub(crate) fn assertion(digest: Digest, request: RequestId) -> Self {
        Self { digest, request }
    }
    /// The request it was made for.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
    /// Its id in the log.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }
}

/// The RESULT of this request is on disk. Made in `store/` alone.
#[must_use]
pub struct Recorded {
    request: RequestId,
    log_index: u64,
}

impl Recorded {
    pub(crate) fn assertion(request: RequestId, log_index: u64) -> Self {
        Self { request, log_index }
    }
    /// The request.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.request
    }
    /// The index of the RESULT entry in the log.
    #[must_use]
    pub fn log_index(&self) -> u64 {
        self.log_index
    }
}
