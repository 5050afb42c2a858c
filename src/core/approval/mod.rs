//! Approvals: who may approve, what they sign, and what their signatures are worth. [clause 8.5.4]
//!
//! Pure: signatures, texts and the time come in, a judgement comes out.
#![forbid(unsafe_code)]

pub mod authority;
pub mod balance;
pub mod change;
pub mod role;
pub mod sshsig;
pub mod text;

pub use authority::{Authority, AuthorityError, Person};
pub use change::{Change, Deed, KeptVoice, Matter, Quorum};
pub use role::{Act, Role};
pub use text::{APPROVE, Needs, REJECT, Shown};

use self::sshsig::{SshSigError, verify};
use crate::refusal::{Code, Refusal};

/// What one person said about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Who.
    pub person: String,
    /// With which key: its fingerprint.
    pub key: String,
    /// The counter of the authenticator, when it is one.
    pub counter: Option<u32>,
}

/// Judges one signature over a text that was shown. `last_counter` gives the counter that was seen from a key before.
// [clause 8.5.4-a] a person of the group, touching the authenticator, over these very bytes, and not who asked
pub fn judge(
    authority: &Authority,
    shown: &Shown,
    initiator_uid: u32,
    namespace: &str,
    armoured: &str,
    last_counter: impl Fn(&str) -> Option<u32>,
) -> Result<Voice, Refusal> {
    let refuse = |code, why: String| Err(Refusal::new(code, why));
    let signature = match verify(armoured, namespace, shown.text.as_bytes()) {
        Ok(signature) => signature,
        Err(e @ SshSigError::Namespace(_)) => return refuse(Code::ApprovalNamespace, e.to_string()),
        Err(e @ (SshSigError::Malformed(_) | SshSigError::Hash(_) | SshSigError::Algorithm(_))) => {
            return refuse(Code::ApprovalMalformed, e.to_string());
        }
        Err(e @ SshSigError::Wrong) => return refuse(Code::ApprovalWrong, e.to_string()),
    };
    let fingerprint = signature.key.fingerprint();
    let Some(person) = authority.person_of(&signature.key) else {
        return refuse(Code::ApprovalStranger, format!("no person has the key {fingerprint}"));
    };
    if authority.is_revoked(&fingerprint) {
        return refuse(Code::ApprovalRevoked, format!("the key {fingerprint} of {} is revoked", person.id));
    }
    if !person.may(Act::Speak) {
        let why = format!("{} has no role that approves", person.id);
        return refuse(Code::RoleForbids, why);
    }
    if !person.groups.contains(&shown.needs.of) {
        return refuse(
            Code::ApprovalStranger,
            format!("{} does not belong to {}", person.id, shown.needs.of),
        );
    }
    if person.uid == Some(initiator_uid) {
        return refuse(Code::ApprovalOwn, format!("{} asked for this, and cannot approve it", person.id));
    }
    let counter = match (signature.key.is_fido(), signature.presence) {
        (true, Some(presence)) => {
            if !presence.touched {
                return refuse(Code::ApprovalPresence, "the authenticator was not touched".into());
            }
            // One voice among several counts as much as a PIN makes it.
            if shown.needs.quorum > 1 && !presence.verified {
                return refuse(Code::ApprovalPresence, "the authenticator did not ask for its PIN".into());
            }
            // Some never count; from those that do, a number that does not rise comes from a copy.
            if last_counter(&fingerprint)
                .is_some_and(|last| presence.counter != 0 && presence.counter <= last)
            {
                let why = format!("the counter of {fingerprint} does not rise: it may have been copied");
                return refuse(Code::ApprovalCounter, why);
            }
            Some(presence.counter)
        }
        (false, None) if authority.files_allowed => None,
        _ => {
            let why =
                format!("{fingerprint} is a key in a file, and the authority takes authenticators only");
            return refuse(Code::ApprovalPresence, why);
        }
    };
    Ok(Voice { person: person.id.clone(), key: fingerprint, counter })
}

#[cfg(test)]
mod tests {
    use super::sshsig::tests::{TEXT, fido};
    use super::*;

    // [clause 8.5.4-a] test
    #[test]
    fn an_authenticator_must_be_touched_asked_for_its_pin_and_count_upwards() {
        let (line, _) = fido(0, 0);
        let document = |more: &str| {
            let text = format!(
                "schema = 1\ndeployment = \"d\"\n{more}\n[[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{line}\"]"
            );
            Authority::parse(&text).unwrap()
        };
        let authority = document("");
        let shown = |quorum| Shown {
            text: String::from_utf8(TEXT.to_vec()).unwrap(),
            needs: Needs { quorum, of: "ops".into() },
        };
        let judged = |quorum, flags, counter, last| {
            let (_, signature) = fido(flags, counter);
            judge(&authority, &shown(quorum), 7, APPROVE, &signature, |_| last)
                .map(|v| v.person)
                .map_err(|r| r.code)
        };
        let alice = || Ok("alice".to_owned());
        assert_eq!(judged(1, 0, 9, None), Err(Code::ApprovalPresence), "no touch");
        assert_eq!(judged(1, 4, 9, None), Err(Code::ApprovalPresence), "a PIN without a touch");
        assert_eq!(judged(1, 1, 9, None), alice());
        assert_eq!(judged(2, 1, 9, None), Err(Code::ApprovalPresence), "no PIN where two must approve");
        assert_eq!(judged(2, 5, 9, None), alice());
        assert_eq!(judged(2, 5, 9, Some(8)), alice());
        assert_eq!(judged(2, 5, 9, Some(9)), Err(Code::ApprovalCounter), "a counter that stands still");
        assert_eq!(judged(2, 5, 9, Some(10)), Err(Code::ApprovalCounter), "a counter that falls");
        assert_eq!(judged(2, 5, 0, Some(10)), alice(), "an authenticator that never counts");
        // Keys in files count only where the document says so.
        let (alice_pub, alice_sig) = (
            include_str!("../../../tests/vectors/sshsig/alice.pub"),
            include_str!("../../../tests/vectors/sshsig/alice.sig"),
        );
        for (files, code) in [("false", Err(Code::ApprovalPresence)), ("true", alice())] {
            let text = format!(
                "schema = 1\ndeployment = \"d\"\nfiles_allowed = {files}\n[[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{}\"]",
                alice_pub.trim()
            );
            let authority = Authority::parse(&text).unwrap();
            let told = judge(&authority, &shown(2), 7, APPROVE, alice_sig, |_| None);
            assert_eq!(told.map(|v| v.person).map_err(|r| r.code), code, "files_allowed = {files}");
        }
    }

    #[test]
    fn a_document_that_counts_one_voice_twice_is_refused() {
        let (line, _) = fido(0, 0);
        let person =
            |id: &str| format!("[[person]]\nid = \"{id}\"\ngroups = [\"ops\"]\nkeys = [\"{line}\"]\n");
        let head = "schema = 1\ndeployment = \"d\"\n";
        assert!(Authority::parse(&format!("{head}{}", person("a"))).is_ok());
        for (text, why) in [
            (format!("{head}{}{}", person("a"), person("b")), "elsewhere"),
            (format!("{head}{}", person("a").replace("keys = [", "keys = [] #")), "no key"),
            (format!("{head}{}", person("a b")), "names"),
            (format!("schema = 2\ndeployment = \"d\"\n{}", person("a")), "schema 2"),
            (format!("{head}revoked = [\"x\"]\n{}", person("a")), "fingerprint"),
            (format!("{head}{}", person("a").replace("sk-ssh", "ssh")), "another kind"),
        ] {
            let error = Authority::parse(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
