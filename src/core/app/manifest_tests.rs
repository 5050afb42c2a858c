use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest, Sha512};

use super::super::Apps;
use super::super::memory::Memory;
use super::*;
use crate::core::proof::Tier;

struct Person(SigningKey);

impl Person {
    fn new(n: u8) -> Self {
        Self(SigningKey::from_bytes(&[n; 32]))
    }

    fn blob(&self) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(&self.0.verifying_key().to_bytes())].concat()
    }

    fn line(&self) -> String {
        format!("ssh-ed25519 {}", BASE64.encode(self.blob()))
    }

    /// As `ssh-keygen -Y sign` does it.
    fn signs(&self, namespace: &str, text: &str) -> String {
        let head = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
        let signed = [b"SSHSIG".as_slice(), &head, &string(&Sha512::digest(text.as_bytes()))].concat();
        let body = [string(b"ssh-ed25519"), string(&self.0.sign(&signed).to_bytes())].concat();
        let all = [b"SSHSIG\0\0\0\x01".as_slice(), &string(&self.blob()), &head, &string(&body)].concat();
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", BASE64.encode(all))
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

const VENDOR: u8 = 9;
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn authority(delay: &str) -> Authority {
    let mut text = format!(
        "schema = 1\ndeployment = \"here\"\nfiles_allowed = true\n[quorum.authority]\nquorum = 2\nof = \"ops\"\n[quorum.apps]\nquorum = 2\nof = \"ops\"\ndelay = \"{delay}\"\n"
    );
    for (n, who) in [(1, "alice"), (2, "bob")] {
        let key = Person::new(n).line();
        text += &format!("[[person]]\nid = \"{who}\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n");
    }
    Authority::parse(&text).unwrap()
}

fn sha(byte: &str) -> String {
    byte.repeat(32)
}

fn file(serial: u64, digest: &str, more: &str) -> Apps {
    let key = Person::new(VENDOR).line();
    let text = format!(
        "[[app]]\nid = \"pay\"\npath = \"/usr/bin/pay\"\nsha256 = \"{}\"\nuid = 1000\nserial = {serial}\nrelease_keys = [\"{key}\"]\n{more}",
        sha(digest)
    );
    Apps::parse(&text).unwrap()
}

fn update(serial: u64, digest: &str, more: &str) -> String {
    format!("schema = 1\n[app]\nid = \"pay\"\nserial = {serial}\nsha256 = \"{}\"\n{more}", sha(digest))
}

fn whole(serial: u64, more: &str) -> String {
    format!(
        "schema = 1\ndeployment = \"here\"\n{}path = \"/usr/bin/pay\"\nuid = 1000\n{more}",
        update(serial, "cc", "").strip_prefix("schema = 1\n").unwrap()
    )
}

fn signed(text: &str, people: &[u8]) -> ManifestFile {
    let signatures = people.iter().map(|n| Person::new(*n).signs(MANIFEST, text)).collect();
    ManifestFile { name: "pay".into(), text: text.into(), signatures }
}

struct Desk {
    file: Apps,
    memory: Memory,
    authority: Authority,
}

impl Desk {
    fn new() -> Self {
        let file = file(3, "aa", "");
        let memory = Memory::default().with_file(&file, &[]).unwrap();
        Self { file, memory, authority: authority("0s") }
    }

    fn asked(&self, manifest: &ManifestFile) -> Result<Memory, Code> {
        let court = Court { authority: Some(&self.authority), now: Some(NOW) };
        let taken = self.memory.with_manifest(&self.file, manifest, court).map_err(|refusal| refusal.code)?;
        Ok(taken.map_or_else(|| self.memory.clone(), |taken| taken.memory))
    }

    fn takes(&mut self, manifest: &ManifestFile) -> Result<(), Code> {
        self.memory = self.asked(manifest)?;
        // What is kept is what is read again.
        assert_eq!(Memory::parse(&self.memory.render()), Some(self.memory.clone()));
        Ok(())
    }

    fn reads(&mut self, file: Apps) -> Result<(), Code> {
        self.memory = self.memory.with_file(&file, &[]).map_err(|refusal| refusal.code)?;
        self.file = file;
        Ok(())
    }

    fn pay(&self) -> App {
        self.memory.in_force(&self.file, false).unwrap().all()[0].clone()
    }
}

// [clause 8.2.4-m] test
#[test]
fn whatever_is_wrong_with_a_manifest_is_refused_under_its_own_name() {
    let mut desk = Desk::new();
    let good = update(4, "bb", "");
    let code = |manifest: &ManifestFile| desk.asked(manifest).map(drop);
    assert_eq!(code(&signed(&good, &[VENDOR])), Ok(()));
    assert_eq!(code(&signed(&good, &[])), Err(Code::ManifestUnsigned));
    assert_eq!(code(&signed(&good, &[7])), Err(Code::ManifestSigner), "nobody's key");
    assert_eq!(code(&signed(&good, &[VENDOR, 7])), Err(Code::ManifestSigner), "beside a good one");
    assert_eq!(code(&signed(&whole(4, ""), &[1])), Err(Code::ManifestSigner), "one person of two");
    assert_eq!(code(&signed(&whole(4, ""), &[1, 1])), Err(Code::ManifestSigner), "one person twice");
    let changed = ManifestFile { text: good.replace("bb", "bc"), ..signed(&good, &[VENDOR]) };
    assert_eq!(code(&changed), Err(Code::ManifestSignature));
    let lines = ManifestFile { text: good.replace('\n', "\r\n"), ..signed(&good, &[VENDOR]) };
    assert_eq!(code(&lines), Err(Code::ManifestLines));
    let elsewhere = Person::new(VENDOR).signs("clavigerd-book@v1", &good);
    assert_eq!(
        code(&ManifestFile { signatures: elsewhere, ..signed(&good, &[]) }),
        Err(Code::ManifestSignature)
    );
    let other = good.replace("\"pay\"", "\"other\"");
    assert_eq!(code(&signed(&other, &[VENDOR])), Err(Code::ManifestOther), "in a file of another name");
    let own = ManifestFile { name: "other".into(), ..signed(&other, &[VENDOR]) };
    assert_eq!(code(&own), Err(Code::ManifestSigner), "of an app whose key it is not");
    let there = good.replace("[app]", "deployment = \"there\"\n[app]");
    assert_eq!(code(&signed(&there, &[VENDOR])), Err(Code::ManifestOther));
    let unbound = whole(4, "").replace("deployment = \"here\"\n", "");
    assert_eq!(code(&signed(&unbound, &[1, 2])), Err(Code::ManifestOther), "people say where");
    assert_eq!(
        code(&signed(&update(4, "bb", "not_after = \"2020-01-01\"\n"), &[VENDOR])),
        Err(Code::ManifestExpired)
    );
    assert_eq!(code(&signed(&update(2, "bb", ""), &[VENDOR])), Err(Code::AppSerial));
    assert_eq!(code(&signed(&update(3, "bb", ""), &[VENDOR])), Err(Code::AppSerialReused));
    for broken in [
        "",
        "schema = 1\n",
        &good.replace("schema = 1", "schema = 2"),
        &update(0, "bb", ""),
        &update(4, "bb", "fun = 1\n"),
        &good.replace("sha256", "sha512"),
    ] {
        assert_eq!(code(&signed(broken, &[VENDOR])), Err(Code::ManifestForm), "{broken}");
    }
    assert_eq!(code(&signed(&whole(4, ""), &[1, 2])), Ok(()));
    let rested = Desk { authority: authority("1h"), ..Desk::new() };
    assert_eq!(
        rested.asked(&signed(&whole(4, ""), &[1, 2])),
        Err(Code::ManifestHeld),
        "no way around a veto"
    );
    assert!(rested.asked(&signed(&good, &[VENDOR])).is_ok(), "what a release key may do does not wait");
    desk.takes(&signed(&good, &[VENDOR])).unwrap();
    assert_eq!((desk.pay().serial, desk.pay().sha256), (4, [0xbb; 32]));
}

// [clause 8.2.4-m] test
#[test]
fn a_release_key_changes_what_the_app_is_and_nothing_of_what_it_may() {
    let ends = "not_after = \"2030-01-01\"\ntier = \"T1\"\n[app.scope]\nkeys = [\"hot\"]\n";
    let mut desk = Desk::new();
    desk.reads(file(4, "aa", ends)).unwrap();
    let asked = |more: &str| desk.asked(&signed(&update(5, "bb", more), &[VENDOR])).map(drop);
    for beyond in [
        "uid = 0\n",
        "gid = 7\n",
        "path = \"/tmp/pay\"\n",
        "unit = \"pay.service\"\n",
        "tier = \"T0\"\n",
        "tier = \"T3\"\n",
        "allow_jit = true\n",
        "seccomp = \"filter\"\n",
        "not_after = \"2030-01-02\"\n",
        "release_keys = []\n",
        "chain = \"eip155:1\"\n",
        "[app.scope]\nkeys = [\"hot\", \"cold\"]\n",
        "[app.scope]\n",
    ] {
        assert_eq!(asked(beyond), Err(Code::ManifestBeyond), "{beyond}");
    }
    for within in ["", "uid = 1000\n", "not_after = \"2029-01-01\"\n", "tier = \"T1\"\n", "revoked = true\n"]
    {
        assert_eq!(asked(within), Ok(()), "{within}");
    }
    let far = update(1 << 54, "bb", "");
    assert_eq!(
        desk.asked(&signed(&far, &[VENDOR])).map(drop),
        Err(Code::ManifestBeyond),
        "people go above it"
    );
    let listed = format!("[app.libs]\n\"/lib/x.so\" = \"{}\"\n", sha("dd"));
    assert_eq!(asked(&listed), Ok(()), "a list is narrower than all that root owns");
    desk.reads(file(5, "aa", &listed)).unwrap();
    let all = update(6, "bb", "libs = \"root-owned\"\n");
    assert_eq!(desk.asked(&signed(&all, &[VENDOR])).map(drop), Err(Code::ManifestBeyond));
    desk.takes(&signed(&update(6, "bb", ""), &[VENDOR])).unwrap();
    let pay = desk.pay();
    assert_eq!((pay.serial, pay.uid, pay.least()), (6, 1000, Tier::T1));
    assert!(matches!(pay.libs, Libs::Exact(_)), "what it does not name stays");
    assert!(matches!(desk.memory.in_force(&desk.file, false).unwrap().signer(&pay.id), Signer::Release(_)));
}

// [clause 8.2.4-n] test
#[test]
fn the_highest_serial_outlives_the_app_the_file_and_the_manifest() {
    let mut desk = Desk::new();
    desk.takes(&signed(&update(6, "bb", ""), &[VENDOR])).unwrap();
    assert_eq!(desk.reads(file(3, "aa", "")), Ok(()), "the file that it updates is still the same");
    assert_eq!(desk.pay().serial, 6);
    assert_eq!(desk.reads(file(4, "ab", "")), Err(Code::AppSerial));
    assert_eq!(desk.reads(file(3, "ab", "")), Err(Code::AppSerial));
    assert_eq!(desk.reads(file(6, "ab", "")), Err(Code::AppSerialReused));
    desk.reads(Apps::parse("").unwrap()).unwrap();
    assert!(desk.memory.in_force(&desk.file, false).unwrap().all().is_empty());
    assert_eq!(desk.reads(file(3, "aa", "")), Err(Code::AppSerial), "added again, it counts on");
    assert_eq!(desk.asked(&signed(&whole(5, ""), &[1, 2])).map(drop), Err(Code::AppSerial));
    assert_eq!(desk.reads(file(7, "aa", "")), Ok(()));
    assert_eq!(desk.asked(&signed(&update(6, "bb", ""), &[VENDOR])).map(drop), Err(Code::AppSerial));
    assert_eq!((desk.pay().serial, desk.memory.highest(&desk.pay().id)), (7, Some(7)));
    // What was never numbered may change, until it is.
    let mut plain = Desk::new();
    plain.memory = Memory::default();
    for digest in ["aa", "ab", "aa"] {
        assert_eq!(plain.reads(file(0, digest, "")), Ok(()));
    }
    assert_eq!(plain.reads(file(1, "ab", "")), Ok(()));
    assert_eq!(plain.reads(file(0, "ab", "")), Err(Code::AppSerial));
    assert_eq!(plain.reads(file(1, "aa", "")), Err(Code::AppSerialReused));
}

// [clause 8.2.4-r] test
#[test]
fn what_was_revoked_comes_back_by_people_and_a_higher_serial_alone() {
    let mut desk = Desk::new();
    desk.takes(&signed(&update(4, "bb", ""), &[VENDOR])).unwrap();
    let id = desk.pay().id;
    let (memory, through) = desk.memory.with_revoked(&id).unwrap();
    desk.memory = memory;
    assert!(through == 4 && desk.pay().revoked);
    assert_eq!(desk.asked(&signed(&update(5, "bb", ""), &[VENDOR])).map(drop), Err(Code::AppRevoked));
    assert_eq!(desk.reads(file(4, "cc", "")), Err(Code::AppSerialReused));
    assert!(desk.pay().revoked);
    desk.takes(&signed(&whole(5, ""), &[1, 2])).unwrap();
    assert!(!desk.pay().revoked);
    assert!(desk.memory.with_revoked(&Name::parse("nobody").unwrap()).is_none());
    // Whoever signs updates may end them, and go on under a higher number.
    let mut vendor = Desk::new();
    vendor.takes(&signed(&update(4, "aa", "revoked = true\n"), &[VENDOR])).unwrap();
    assert!(vendor.pay().revoked);
    assert_eq!(vendor.asked(&signed(&update(3, "aa", ""), &[VENDOR])).map(drop), Err(Code::AppSerial));
    vendor.takes(&signed(&update(5, "ab", ""), &[VENDOR])).unwrap();
    assert!(!vendor.pay().revoked);
}

// [clause 8.2.4-m] test
#[test]
fn where_signatures_are_wanted_a_registration_without_one_gets_nothing() {
    let mut desk = Desk::new();
    let unsigned = |desk: &Desk| desk.memory.in_force(&desk.file, true).unwrap().all()[0].unsigned;
    assert!(unsigned(&desk));
    desk.takes(&signed(&update(4, "bb", ""), &[VENDOR])).unwrap();
    assert!(unsigned(&desk), "an update of what nobody signed");
    desk.takes(&signed(&whole(5, ""), &[1, 2])).unwrap();
    assert!(!unsigned(&desk));
    let mut agreed = Desk::new();
    agreed.file = file(4, "aa", "");
    agreed.memory = agreed.memory.with_file(&agreed.file, &["alice".into(), "bob".into()]).unwrap();
    assert!(!unsigned(&agreed), "people agreed on the file");
    agreed.reads(file(5, "aa", "")).unwrap();
    assert!(unsigned(&agreed), "and on nothing that came after");
}

// [clause 8.2.4-m] test
#[test]
fn an_auditor_judges_each_manifest_again() {
    let mut desk = Desk::new();
    let before = desk.memory.clone();
    desk.takes(&signed(&whole(5, ""), &[1, 2])).unwrap();
    let court = Court { authority: Some(&desk.authority), now: None };
    assert_eq!(desk.memory.audited(&desk.file, court, &before), Vec::<String>::new());
    let forged = desk.memory.render().replacen("cccc", "cccd", 1);
    let forged = Memory::parse(&forged).unwrap();
    assert!(forged.audited(&desk.file, court, &before)[0].contains("does not count"));
    assert!(before.audited(&desk.file, court, &desk.memory)[0].contains("goes back"));
    let bare = Court { authority: None, now: None };
    assert_eq!(desk.memory.audited(&desk.file, bare, &before).len(), 1, "without the people nobody signed");
    assert_eq!(
        desk.memory.audited(&desk.file, bare, &desk.memory),
        Vec::<String>::new(),
        "it was looked at before"
    );
}
