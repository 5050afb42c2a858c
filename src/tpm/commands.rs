//! The dozen commands that sealing needs, and the policy that they are about.
//!
//! TPM 2.0 Library, Part 2 (structures) and Part 3 (commands). Whatever was loaded or started here is flushed when the
//! [`Tpm`] is dropped, so that a TPM without a resource manager does not fill up.
#![forbid(unsafe_code)]

use std::time::Duration;

use zeroize::Zeroizing;

use super::TpmError;
use super::device::Device;
use super::session::{CONTINUE, DECRYPT, ENCRYPT, Salt, Session, digest, nonce};
use super::wire::{Reader, Writer};

pub(super) const OWNER: u32 = 0x4000_0001;
const NULL: u32 = 0x4000_0007;
const PASSWORD: u32 = 0x4000_0009;
pub(super) const SHA256: u16 = 0x000b;
pub(super) const NO_ALGORITHM: u16 = 0x0010;

pub(super) const CREATE_PRIMARY: u32 = 0x131;
const NV_DEFINE: u32 = 0x12a;
const NV_INCREMENT: u32 = 0x134;
const POLICY_NV: u32 = 0x149;
const NV_READ: u32 = 0x14e;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
const FLUSH: u32 = 0x165;
const NV_READ_PUBLIC: u32 = 0x169;
const START_SESSION: u32 = 0x176;
const PCR_READ: u32 = 0x17e;
const POLICY_PCR: u32 = 0x17f;

/// Answers that are told apart. Format-one codes are without the number of the parameter that they are about.
pub mod rc {
    /// A handle that names nothing.
    pub const HANDLE: u32 = 0x8b;
    /// A password or MAC is wrong, and guessing is counted.
    pub const AUTH_FAIL: u32 = 0x8e;
    /// The policy is not fulfilled.
    pub const POLICY_FAIL: u32 = 0x9d;
    /// A password or MAC is wrong, and guessing is not counted.
    pub const BAD_AUTH: u32 = 0xa2;
    /// A comparison in a policy does not hold.
    pub const POLICY: u32 = 0x126;
    /// PCRs changed while the policy was evaluated.
    pub const PCR_CHANGED: u32 = 0x128;
    /// Too many wrong guesses.
    pub const LOCKOUT: u32 = 0x921;
}

/// Warnings that mean: the same again in a while (YIELDED, TESTING, NV_RATE, RETRY).
const AGAIN: [u32; 4] = [0x908, 0x90a, 0x920, 0x922];
const ROUNDS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// The PCRs of the policy: 7 is the state of Secure Boot and its keys, 11 the kernel image that was started.
pub const PCRS: [u8; 2] = [7, 11];

/// `TPML_PCR_SELECTION` of SHA-256, PCRs 7 and 11.
const SELECTION: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0x08, 0];

/// Only ever counted up, by whoever holds the owner's password (by default nobody set one); read by everybody; wrong
/// guesses at its empty password lock nothing.
const COUNTER: u32 = 0x0206_0012;
const WRITTEN: u32 = 0x2000_0000;

/// Made and kept in this TPM under this parent, opened by its policy alone, even by its administrator, and out of reach
/// of the dictionary lockout: a stranger's wrong guesses must not stop the daemon.
const SEALED: u32 = 0x0492;

/// The storage root key, as it is now.
pub struct Root {
    /// Its number in the TPM.
    pub handle: u32,
    /// What it is, as a hash: another TPM, or this one after it was cleared, has another one.
    pub name: Vec<u8>,
    x: Vec<u8>,
    y: Vec<u8>,
}

/// The counter, as it is now.
pub struct Counter {
    /// Its place.
    pub index: u32,
    name: Vec<u8>,
    written: bool,
}

/// What makes a value open: as it is written into the sealed object.
pub fn policy(counter: &Counter, value: u64, pcrs: &[[u8; 32]; 2]) -> [u8; 32] {
    let [first, second] = pcrs;
    let comparison = digest(&[&value.to_be_bytes(), &[0; 4]]);
    let counted = digest(&[&[0; 32], &POLICY_NV.to_be_bytes(), &comparison, &counter.name]);
    digest(&[&counted, &POLICY_PCR.to_be_bytes(), &SELECTION, &digest(&[first, second])])
}

/// `TPMT_PUBLIC` of an object that is sealed under a policy, up to where the TPM puts its own digest.
fn sealed_template(policy: &[u8]) -> Writer {
    Writer::new().u16(0x0008).u16(SHA256).u32(SEALED).sized(policy).u16(NO_ALGORITHM)
}

/// Whether this is an object as [`Tpm::seal`] makes them, which opens by its policy alone.
pub fn is_sealed(public: &[u8]) -> bool {
    let mut reader = Reader::new(public);
    let policy = reader.raw(8).and_then(|_| reader.sized()).unwrap_or_default();
    let template = sealed_template(policy);
    policy.len() == 32 && public.strip_prefix(template.bytes()).is_some_and(|unique| unique.len() == 34)
}

pub(super) enum Auth<'a> {
    None,
    /// The empty password.
    Empty,
    Session(&'a mut Session, u8),
}

pub(super) struct Answer {
    pub(super) handle: u32,
    parameters: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(super) fn read(&self) -> Reader<'_> {
        Reader::new(&self.parameters)
    }
}

/// A TPM that is being talked to.
pub struct Tpm {
    device: Device,
    held: Vec<u32>,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        while let Some(handle) = self.held.pop() {
            // What is gone already needs no flush, and nobody is left to be told.
            let _ = self.run("FlushContext", FLUSH, &[], Auth::None, Writer::new().u32(handle), false);
        }
    }
}

/// An answer that does not have the parts that the command answers with.
pub(super) fn odd() -> TpmError {
    TpmError::Tampered("its answer is not one to the command")
}

impl Tpm {
    /// Over an open device.
    #[must_use]
    pub fn new(device: Device) -> Self {
        Self { device, held: Vec::new() }
    }

    pub(super) fn run(
        &mut self,
        command: &'static str,
        code: u32,
        handles: &[(u32, &[u8])],
        auth: Auth<'_>,
        mut parameters: Writer,
        gives_handle: bool,
    ) -> Result<Answer, TpmError> {
        let mut session = None;
        let area = match auth {
            Auth::None => None,
            Auth::Empty => Some(Writer::new().u32(PASSWORD).sized(&[]).u8(CONTINUE).sized(&[])),
            Auth::Session(with, attributes) => {
                let names: Vec<&[u8]> = handles.iter().map(|(_, name)| *name).collect();
                let area = with.authorise(attributes, code, &names, parameters.bytes_mut())?;
                session = Some((with, attributes));
                Some(area)
            }
        };
        let mut body = Writer::new();
        for (handle, _) in handles {
            body = body.u32(*handle);
        }
        if let Some(area) = &area {
            let length = u32::try_from(area.bytes().len()).map_err(|_| odd())?;
            body = body.u32(length).raw(area.bytes());
        }
        body = body.raw(parameters.bytes());
        let tag = if area.is_some() { 0x8002 } else { 0x8001 };
        let size = u32::try_from(body.bytes().len() + 10).map_err(|_| odd())?;
        let message = Writer::new().u16(tag).u32(size).u32(code).raw(body.bytes());
        let answer = self.send(command, message.bytes()).inspect_err(|e| {
            // A TPM that is gone holds nothing for us, and is not waited for again at the end.
            if matches!(e, TpmError::Absent { .. }) {
                self.held.clear();
            }
        })?;
        let mut reader = Reader::new(&answer);
        reader.raw(10).ok_or_else(odd)?;
        let handle = if gives_handle { reader.u32().ok_or_else(odd)? } else { 0 };
        if gives_handle {
            self.held.push(handle);
        }
        let parameters = if area.is_some() {
            let length = usize::try_from(reader.u32().ok_or_else(odd)?).map_err(|_| odd())?;
            reader.raw(length).ok_or_else(odd)?.to_vec()
        } else {
            return Ok(Answer { handle, parameters: Zeroizing::new(reader.rest().to_vec()) });
        };
        let mut parameters = Zeroizing::new(parameters);
        if let Some((session, attributes)) = session {
            session.accept(attributes, code, &mut parameters, &mut reader)?;
        }
        Ok(Answer { handle, parameters })
    }

    /// Sends until the TPM has time for it.
    fn send(&mut self, command: &'static str, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        for _ in 0..ROUNDS {
            let answer = Zeroizing::new(self.device.exchange(message)?);
            let mut reader = Reader::new(&answer);
            reader.raw(6).ok_or_else(odd)?;
            match plain(reader.u32().ok_or_else(odd)?) {
                0 => return Ok(answer),
                code if AGAIN.contains(&code) => std::thread::sleep(PAUSE),
                rc::LOCKOUT => return Err(TpmError::LockedOut),
                code => return Err(TpmError::Refused { command, code }),
            }
        }
        Err(TpmError::Refused { command, code: 0x922 })
    }

    /// Makes the storage root key anew from the owner's seed; it is the same each time, until the TPM is cleared.
    pub fn root(&mut self) -> Result<Root, TpmError> {
        const WHAT: &str = "CreatePrimary";
        // The TCG's template: a storage key, AES-128 in CFB mode, P-256, outside the dictionary lockout.
        let template = Writer::new().u16(0x0023).u16(SHA256).u32(0x0003_0472).sized(&[]);
        let template =
            template.u16(0x0006).u16(128).u16(0x0043).u16(NO_ALGORITHM).u16(0x0003).u16(NO_ALGORITHM);
        let asked = Writer::new().raw(template.bytes()).sized(&[0; 32]).sized(&[0; 32]);
        let parameters = Writer::new().sized(&[0; 4]).sized(asked.bytes()).sized(&[]).u32(0);
        let answer = self
            .run(WHAT, CREATE_PRIMARY, &[(OWNER, &[])], Auth::Empty, parameters, true)
            .map_err(owner_password)?;
        let public = answer.read().sized().ok_or_else(odd)?;
        let mut point = Reader::new(
            public
                .strip_prefix(template.bytes())
                .ok_or(TpmError::Tampered("the storage root key is another"))?,
        );
        let x = point.sized().ok_or_else(odd)?.to_vec();
        let y = point.sized().ok_or_else(odd)?.to_vec();
        Ok(Root { handle: answer.handle, name: name(public), x, y })
    }

    fn session(&mut self, root: &Root, kind: u8) -> Result<Session, TpmError> {
        const WHAT: &str = "StartAuthSession";
        let salt = Salt::agree(&root.x, &root.y)?;
        let ours = nonce()?;
        let parameters = Writer::new().sized(&ours).sized(&salt.sealed).u8(kind);
        let parameters = parameters.u16(0x0006).u16(128).u16(0x0043).u16(SHA256);
        let handles: [(u32, &[u8]); 2] = [(root.handle, &root.name), (NULL, &[])];
        let answer = self.run(WHAT, START_SESSION, &handles, Auth::None, parameters, true)?;
        let theirs = answer.read().sized().ok_or_else(odd)?;
        Session::new(answer.handle, salt, ours, theirs)
    }

    /// What the PCRs of the policy hold now.
    pub fn pcrs(&mut self) -> Result<[[u8; 32]; 2], TpmError> {
        let answer = self.run("PCR_Read", PCR_READ, &[], Auth::None, Writer::new().raw(&SELECTION), false)?;
        let mut reader = answer.read();
        let mut read = || {
            reader.u32()?;
            // A bank that is off gives fewer PCRs than were asked for.
            (reader.raw(SELECTION.len())? == SELECTION && reader.u32()? == 2).then_some(())?;
            Some([reader.sized()?.try_into().ok()?, reader.sized()?.try_into().ok()?])
        };
        read().ok_or(TpmError::Bank)
    }

    /// The counter at an index; `None` when nothing is there.
    pub fn counter(&mut self, index: u32) -> Result<Option<Counter>, TpmError> {
        let found =
            self.run("NV_ReadPublic", NV_READ_PUBLIC, &[(index, &[])], Auth::None, Writer::new(), false);
        let answer = match found {
            Err(TpmError::Refused { code: rc::HANDLE, .. }) => return Ok(None),
            other => other?,
        };
        let public = answer.read().sized().ok_or_else(odd)?;
        let ours = |attributes| public == nv_public(index, attributes).bytes();
        let written = ours(COUNTER | WRITTEN);
        if !written && !ours(COUNTER) {
            return Err(TpmError::CounterForeign(index));
        }
        Ok(Some(Counter { index, name: name(public), written }))
    }

    /// Defines the counter, where it is missing, and starts it. A TPM starts each new counter above all that it ever had:
    /// one that was deleted and defined anew never shows a value of before again.
    pub fn start_counter(&mut self, index: u32) -> Result<Counter, TpmError> {
        let found = self.counter(index)?;
        if found.is_none() {
            let public = nv_public(index, COUNTER);
            let parameters = Writer::new().sized(&[]).sized(public.bytes());
            self.run("NV_DefineSpace", NV_DEFINE, &[(OWNER, &[])], Auth::Empty, parameters, false)
                .map_err(owner_password)?;
        }
        if !found.is_some_and(|counter| counter.written) {
            self.increment(index)?;
        }
        self.counter(index)?.ok_or(TpmError::CounterMissing(index))
    }

    /// Counts up by one.
    pub fn increment(&mut self, index: u32) -> Result<(), TpmError> {
        let handles: [(u32, &[u8]); 2] = [(OWNER, &[]), (index, &[])];
        self.run("NV_Increment", NV_INCREMENT, &handles, Auth::Empty, Writer::new(), false)
            .map_err(owner_password)?;
        Ok(())
    }

    /// What the counter shows.
    pub fn value(&mut self, counter: &Counter) -> Result<u64, TpmError> {
        let handles: [(u32, &[u8]); 2] = [(counter.index, &[]), (counter.index, &[])];
        let answer =
            self.run("NV_Read", NV_READ, &handles, Auth::Empty, Writer::new().u16(8).u16(0), false)?;
        let bytes = answer.read().sized().and_then(|b| b.try_into().ok()).ok_or_else(odd)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Seals bytes under a policy; gives the public and the private part. The bytes go to the TPM encrypted.
    pub fn seal(
        &mut self,
        root: &Root,
        policy: &[u8; 32],
        bytes: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let mut session = self.session(root, 0)?;
        let sensitive = Writer::new().sized(&[]).sized(bytes);
        let public = Writer::new().raw(sealed_template(policy).bytes()).sized(&[]);
        let parameters = Writer::new().sized(sensitive.bytes()).sized(public.bytes()).sized(&[]).u32(0);
        let auth = Auth::Session(&mut session, CONTINUE | DECRYPT);
        let answer = self.run("Create", CREATE, &[(root.handle, &root.name)], auth, parameters, false)?;
        let mut reader = answer.read();
        let private = reader.sized().ok_or_else(odd)?.to_vec();
        let public = reader.sized().ok_or_else(odd)?.to_vec();
        Ok((public, private))
    }

    /// Loads a sealed object; gives its number.
    pub fn load(&mut self, root: &Root, public: &[u8], private: &[u8]) -> Result<u32, TpmError> {
        let parameters = Writer::new().sized(private).sized(public);
        let handles: [(u32, &[u8]); 1] = [(root.handle, &root.name)];
        Ok(self.run("Load", LOAD, &handles, Auth::Empty, parameters, true)?.handle)
    }

    /// Starts a session and fulfils in it what the policy asks: the counter at this value, the PCRs as they are now.
    pub fn fulfil(&mut self, root: &Root, counter: &Counter, value: u64) -> Result<Session, TpmError> {
        let session = self.session(root, 1)?;
        let here = session.handle;
        let handles: [(u32, &[u8]); 3] = [(counter.index, &[]), (counter.index, &[]), (here, &[])];
        let parameters = Writer::new().sized(&value.to_be_bytes()).u16(0).u16(0);
        self.run("PolicyNV", POLICY_NV, &handles, Auth::Empty, parameters, false)?;
        let parameters = Writer::new().sized(&[]).raw(&SELECTION);
        self.run("PolicyPCR", POLICY_PCR, &[(here, &[])], Auth::None, parameters, false)?;
        Ok(session)
    }

    /// Opens a loaded object in a session that fulfils its policy. The answer comes encrypted.
    pub fn unseal(
        &mut self,
        object: u32,
        public: &[u8],
        session: &mut Session,
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let name = name(public);
        let auth = Auth::Session(session, CONTINUE | ENCRYPT);
        let answer = self.run("Unseal", UNSEAL, &[(object, &name)], auth, Writer::new(), false)?;
        Ok(Zeroizing::new(answer.read().sized().ok_or_else(odd)?.to_vec()))
    }
}

/// A format-one code names the handle or parameter that it is about; which one makes no difference here.
fn plain(code: u32) -> u32 {
    if code & 0x80 == 0 { code } else { code & 0xbf }
}

pub(super) fn owner_password(error: TpmError) -> TpmError {
    match error {
        TpmError::Refused { code: rc::BAD_AUTH | rc::AUTH_FAIL, .. } => TpmError::OwnerPassword,
        other => other,
    }
}

pub(super) fn name(public: &[u8]) -> Vec<u8> {
    [&SHA256.to_be_bytes()[..], &digest(&[public])].concat()
}

fn nv_public(index: u32, attributes: u32) -> Writer {
    Writer::new().u32(index).u16(SHA256).u32(attributes).sized(&[]).u16(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lose_what_they_are_about() {
        assert_eq!(plain(0x18b), rc::HANDLE);
        assert_eq!(plain(0x1df), 0x9f);
        assert_eq!(plain(0x99d), rc::POLICY_FAIL);
        assert_eq!(plain(0x126), rc::POLICY);
        assert_eq!(plain(0x921), rc::LOCKOUT);
    }

    #[test]
    fn only_what_opens_by_its_policy_alone_is_ours() {
        let public = Writer::new().raw(sealed_template(&[7; 32]).bytes()).sized(&[9; 32]);
        assert!(is_sealed(public.bytes()));
        let mut weaker = public.bytes().to_vec();
        // userWithAuth: opened by a password in place of the policy.
        if let Some(byte) = weaker.get_mut(7) {
            *byte |= 0x40;
        }
        assert!(!is_sealed(&weaker));
        let open = Writer::new().raw(sealed_template(&[]).bytes()).sized(&[9; 32]);
        assert!(!is_sealed(open.bytes()));
        assert!(!is_sealed(public.bytes().get(..20).unwrap_or_default()));
        assert!(!is_sealed(&[]));
    }
}
