//! The device's own log: read, checked link by link, and compared with what we asked for.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::TokenError;
use crate::core::units::sha256;
use crate::token::audit::{Asked, DeviceEntry, Handover, Mark, Strange};

pub(super) const GET_LOG_ENTRIES: u8 = 0x4d;
pub(super) const SET_LOG_INDEX: u8 = 0x67;
pub(super) const GENERATE_ASYMMETRIC_KEY: u8 = 0x46;
pub(super) const GENERATE_HMAC_KEY: u8 = 0x5a;
pub(super) const GENERATE_WRAP_KEY: u8 = 0x5b;
pub(super) const SIGN_ECDSA: u8 = 0x56;
pub(super) const SIGN_EDDSA: u8 = 0x6a;
pub(super) const SIGN_HMAC: u8 = 0x53;
pub(super) const DELETE_OBJECT: u8 = 0x58;
pub(super) const PUT_OPAQUE: u8 = 0x42;
pub(super) const EXPORT_WRAPPED: u8 = 0x4a;
const SET_OPTION: u8 = 0x4f;
const RESET_DEVICE: u8 = 0x08;
const INITIALISED: u8 = 0xff;

/// They neither use, make, remove nor change anything that is kept: whoever does these is nobody's concern.
const HARMLESS: [u8; 18] = [
    0x00, // the device was switched on
    0x01, // echo
    0x03, // create session
    0x04, // authenticate session
    0x05, // session message
    0x06, // device info
    0x0a, // get device public key
    0x40, // close session
    0x43, // get opaque
    0x41, // get storage info
    0x48, // list objects
    0x4e, // get object info
    0x50, // get option
    0x51, // get pseudo random
    0x54, // get public key
    0x6b, // blink
    GET_LOG_ENTRIES,
    SET_LOG_INDEX,
];

/// What each use of a key may be called by the device.
const USES: [u8; 3] = [SIGN_ECDSA, SIGN_EDDSA, SIGN_HMAC];
const MAKES: [u8; 3] = [GENERATE_ASYMMETRIC_KEY, GENERATE_HMAC_KEY, GENERATE_WRAP_KEY];
/// How long a command whose answer never came may still be carried out.
const DOUBT: Duration = Duration::from_secs(60);
/// The bytes of an entry, and those of its digest.
const ENTRY: usize = 16;
const DIGEST: usize = 16;

/// A command by what it does.
fn deed(command: u8) -> String {
    let what = match command {
        SIGN_ECDSA | SIGN_EDDSA | 0x47 | 0x55 => "signed with",
        SIGN_HMAC => "made a MAC with",
        0x5c => "checked a MAC with",
        0x57 => "agreed on a secret with",
        GENERATE_ASYMMETRIC_KEY | GENERATE_HMAC_KEY | GENERATE_WRAP_KEY | 0x66 | 0x6e => "made",
        PUT_OPAQUE | 0x44 | 0x45 | 0x4c | 0x52 | 0x5e | 0x65 | 0x6d => "put in",
        DELETE_OBJECT => "removed",
        EXPORT_WRAPPED => "exported under the wrap key",
        0x4b => "imported with the wrap key",
        0x68 | 0x69 => "wrapped or unwrapped data with",
        0x6c => "changed the authentication key",
        0x49 | 0x59 | 0x60 | 0x6f..=0x72 => "decrypted or encrypted with",
        0x64 => "attested",
        SET_OPTION => "changed an option of the device, object",
        RESET_DEVICE | INITIALISED => "reset the device, object",
        other => return format!("ran command {other:#04x} on object"),
    };
    what.to_owned()
}

fn told(entry: &DeviceEntry) -> String {
    format!(
        "entry {} of the YubiHSM's log is an operation that we did not ask for: a session of authentication key {:#06x} {} {:#06x}",
        entry.number,
        entry.session_key,
        deed(entry.command),
        entry.target_key
    )
}

/// An entry as it is chained: its bytes, and the digest over them and the digest before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) entry: DeviceEntry,
    bytes: [u8; ENTRY],
    pub(super) digest: [u8; DIGEST],
}

impl Link {
    fn follows(&self, before: &[u8; DIGEST]) -> bool {
        let mut both = [0; ENTRY + DIGEST];
        let (own, chained) = both.split_at_mut(ENTRY);
        own.copy_from_slice(&self.bytes);
        chained.copy_from_slice(before);
        sha256(&both).first_chunk::<DIGEST>() == Some(&self.digest)
    }

    fn mark(&self) -> Mark {
        Mark { number: self.entry.number, digest: self.digest }
    }
}

/// Reads the answer to GET LOG ENTRIES: boots and logins that found no room, then the entries.
pub(super) fn parse(data: &[u8]) -> Result<(u16, u16, Vec<Link>), TokenError> {
    let wrong = || TokenError::Corrupt("the YubiHSM's log is not as long as it says".into());
    let (&[b0, b1, a0, a1, count], rest) = data.split_first_chunk::<5>().ok_or_else(wrong)?;
    let (lines, over) = rest.as_chunks::<{ ENTRY + DIGEST }>();
    if lines.len() != usize::from(count) || !over.is_empty() {
        return Err(wrong());
    }
    let links = lines.iter().map(|line| {
        let [n0, n1, command, l0, l1, s0, s1, t0, t1, k0, k1, result, c0, c1, c2, c3, digest @ ..] = *line;
        let entry = DeviceEntry {
            number: u16::from_be_bytes([n0, n1]),
            command,
            length: u16::from_be_bytes([l0, l1]),
            session_key: u16::from_be_bytes([s0, s1]),
            target_key: u16::from_be_bytes([t0, t1]),
            second_key: u16::from_be_bytes([k0, k1]),
            result,
            tick: u32::from_be_bytes([c0, c1, c2, c3]),
        };
        let mut bytes = [0; ENTRY];
        bytes.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
        Link { entry, bytes, digest }
    });
    Ok((u16::from_be_bytes([b0, b1]), u16::from_be_bytes([a0, a1]), links.collect()))
}

/// What we asked for, against which the log is held.
#[derive(Default)]
pub(super) struct Book {
    mark: Option<Mark>,
    /// How often each command may stand there for each key.
    issued: HashMap<(u8, u16), u32>,
    /// Commands whose answer never came.
    doubts: Vec<(u8, u16, Instant)>,
    /// Operations of the session before this one: any of these commands, for any key. They may be carried out late.
    inherited: Vec<(&'static [u8], Instant)>,
    /// The session before this one was in the middle of a check.
    forgiving: bool,
    /// The session before this one may have read on without saying so.
    gap_allowed: bool,
    /// That entries are missing was told, and none came since.
    gap_told: bool,
    /// Refused commands of others.
    pub(super) refused: u64,
}

impl Book {
    /// Takes over from a session that ended without a last look.
    pub(super) fn inherit(&mut self, handover: Handover) {
        let until = Instant::now() + DOUBT;
        self.mark = handover.mark;
        self.gap_allowed = handover.unsure;
        for asked in handover.asked {
            match asked {
                Asked::Use => self.inherited.push((&USES, until)),
                // A secret key that was made is used at once, for its check value.
                Asked::Make => self.inherited.extend([(MAKES.as_slice(), until), (USES.as_slice(), until)]),
                Asked::Remove => self.inherited.push((&[DELETE_OBJECT], until)),
                // One is written, and at most two of before are removed.
                Asked::Keep => self.inherited.extend([
                    ([PUT_OPAQUE].as_slice(), until),
                    ([DELETE_OBJECT].as_slice(), until),
                    ([DELETE_OBJECT].as_slice(), until),
                ]),
                Asked::Check => self.forgiving = true,
            }
        }
    }

    /// How far the log was read.
    pub(super) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// A command goes out; it may stand in the log once.
    pub(super) fn issue(&mut self, command: u8, target: u16) {
        *self.issued.entry((command, target)).or_default() += 1;
    }

    /// The device said that it did not do it.
    pub(super) fn retract(&mut self, command: u8, target: u16) {
        if let Some(count) = self.issued.get_mut(&(command, target)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Its answer never came: it may be carried out later.
    pub(super) fn doubt(&mut self, command: u8, target: u16) {
        self.doubts.push((command, target, Instant::now() + DOUBT));
    }

    fn ours(&mut self, entry: &DeviceEntry, key: u16) -> bool {
        if entry.session_key != key {
            return false;
        }
        let (command, target) = (entry.command, entry.target_key);
        if let Some(count) = self.issued.get_mut(&(command, target)).filter(|count| **count > 0) {
            *count -= 1;
            return true;
        }
        if let Some(at) = self.doubts.iter().position(|(c, t, _)| (*c, *t) == (command, target)) {
            self.doubts.remove(at);
            return true;
        }
        if let Some(at) = self.inherited.iter().position(|(commands, _)| commands.contains(&command)) {
            self.inherited.remove(at);
            return true;
        }
        self.forgiving
    }

    /// Holds a whole reading of the log against what was asked. No command of ours may be under way.
    // [clause 8.2.5-e] what the token did that nobody here asked for is found
    pub(super) fn judge(&mut self, links: &[Link], key: u16) -> Vec<Strange> {
        let mut strange = Vec::new();
        let mut odd = |what: String, entry| strange.push(Strange { what, entry });
        let seen = self.mark.and_then(|mark| links.iter().position(|link| link.mark() == mark));
        let new = links.get(seen.map_or(0, |at| at + 1)..).unwrap_or_default();
        let history = self.mark.is_none();
        let mut before = self.mark.map(|mark| mark.digest);
        // Our last entry was left there.
        let first = new.first().map(|link| link.entry.number);
        if let (Some(mark), None) = (self.mark, seen)
            && first != Some(mark.number.wrapping_add(1))
        {
            before = None;
            let what = format!(
                "entries of the YubiHSM's log from {} on are missing: somebody else took them out, or they were overwritten",
                mark.number
            );
            if self.gap_allowed {
                tracing::warn!("{what}; a worker that ended may have read them");
            } else if !self.gap_told {
                odd(what, None);
            }
            self.gap_told = links.is_empty();
        }
        for link in new {
            if before.is_some_and(|digest| !link.follows(&digest)) {
                odd(
                    format!(
                        "entry {} of the YubiHSM's log is not chained to the one before",
                        link.entry.number
                    ),
                    Some(link.entry),
                );
            }
            before = Some(link.digest);
            let entry = link.entry;
            if HARMLESS.contains(&entry.command) {
                continue;
            }
            if entry.result < super::wire::ANSWER {
                // Nothing was done. Our own checks ask for what must be refused.
                if entry.session_key != key {
                    self.refused += 1;
                    tracing::warn!(?entry, "the YubiHSM refused somebody else's command");
                }
                continue;
            }
            if !history && !self.ours(&entry, key) {
                odd(told(&entry), Some(entry));
            }
        }
        if let Some(last) = links.last() {
            self.mark = Some(last.mark());
        }
        if history && !new.is_empty() {
            tracing::info!("the YubiHSM's log held {} entries from before this start", new.len());
        }
        // Every command of ours has ended: what does not stand there by now is not logged by this device.
        self.issued.clear();
        self.forgiving = false;
        self.gap_allowed = false;
        let now = Instant::now();
        self.doubts.retain(|(_, _, until)| *until > now);
        self.inherited.retain(|(_, until)| *until > now);
        strange
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u16 = 2;

    fn written(number: u16, command: u8, session: u16, target: u16, before: [u8; 16]) -> Vec<u8> {
        let mut line = Vec::new();
        line.extend(number.to_be_bytes());
        line.push(command);
        line.extend(34u16.to_be_bytes());
        line.extend(session.to_be_bytes());
        line.extend(target.to_be_bytes());
        line.extend(0xffffu16.to_be_bytes());
        line.push(command | 0x80);
        line.extend(9u32.to_be_bytes());
        let digest = sha256(&[line.as_slice(), &before].concat());
        line.extend(&digest[..16]);
        line
    }

    fn log(entries: &[(u16, u8, u16, u16)], mut before: [u8; 16]) -> Vec<Link> {
        let mut data = vec![0, 0, 0, 0, u8::try_from(entries.len()).unwrap()];
        for (number, command, session, target) in entries {
            let line = written(*number, *command, *session, *target, before);
            before.copy_from_slice(&line[16..]);
            data.extend(line);
        }
        parse(&data).unwrap().2
    }

    fn book() -> (Book, [u8; 16]) {
        let mut book = Book::default();
        let first = log(&[(0xffff, SIGN_ECDSA, KEY, 7)], [1; 16]);
        assert!(book.judge(&first, KEY).is_empty(), "what was there before is history");
        (book, first[0].digest)
    }

    // [clause 8.2.5-e] test
    #[test]
    fn what_we_asked_for_is_ours_and_the_rest_is_strange() {
        let (mut book, mark) = book();
        book.issue(SIGN_ECDSA, 7);
        let links = log(
            &[
                (0, SIGN_ECDSA, KEY, 7),
                (1, 0x54, 9, 7),
                (2, SIGN_ECDSA, KEY, 7),
                (3, DELETE_OBJECT, 1, 7),
                (4, 0x73, 1, 7),
            ],
            mark,
        );
        let strange = book.judge(&links, KEY);
        let numbers: Vec<u16> = strange.iter().map(|s| s.entry.unwrap().number).collect();
        assert_eq!(numbers, [2, 3, 4]);
        assert!(strange[0].what.contains("did not ask for"), "{}", strange[0].what);
        // The same reading again: nothing new.
        assert!(book.judge(&links, KEY).is_empty());
        book.doubt(SIGN_ECDSA, 7);
        book.judge(&links, KEY);
        let late = log(&[(5, SIGN_ECDSA, KEY, 7)], links[4].digest);
        assert!(book.judge(&late, KEY).is_empty(), "an answer that never came may come true later");
    }

    #[test]
    fn an_entry_that_was_changed_or_taken_out_is_found() {
        let (mut book, mark) = book();
        let mut links = log(&[(0, 1, KEY, 7), (1, 1, KEY, 7), (2, 1, KEY, 7)], mark);
        links[1].bytes[15] ^= 1;
        assert_eq!(book.judge(&links, KEY).len(), 1);
        let last = links[2].digest;
        let missing = log(&[(4, 1, KEY, 7)], last);
        let found = book.judge(&missing, KEY);
        assert!(found.len() == 1 && found[0].what.contains("missing"), "{found:?}");
        // Our last entry stays in the device: without it somebody else has been there. That is told once.
        assert_eq!((book.judge(&[], KEY).len(), book.judge(&[], KEY).len()), (1, 0));
        assert_eq!(
            book.judge(&log(&[(9, SIGN_ECDSA, KEY, 7)], last), KEY).len(),
            1,
            "and what comes then is judged"
        );
    }

    #[test]
    fn a_session_that_ended_hands_over_what_it_asked() {
        let (first, mark) = book();
        let handover = Handover { mark: first.mark(), asked: vec![Asked::Use, Asked::Remove], unsure: true };
        let mut book = Book::default();
        book.inherit(handover);
        let links = log(&[(0, SIGN_HMAC, KEY, 7), (1, DELETE_OBJECT, KEY, 8), (2, SIGN_HMAC, KEY, 7)], mark);
        let strange = book.judge(&links, KEY);
        assert_eq!(strange.len(), 1);
        assert_eq!(strange[0].entry.unwrap().number, 2);
    }

    #[test]
    fn a_log_of_another_length_is_refused() {
        for wrong in [&[0, 0, 0, 0][..], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 9]] {
            assert!(parse(wrong).is_err());
        }
    }
}
