//! Registrations over the file of apps.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;
use crate::core::app::Apps;
use crate::core::app::manifest::{Court, MANIFEST, ManifestFile};
use crate::core::app::memory::Memory;

fn people() -> String {
    let quorums = "[quorum.authority]\nquorum = 2\nof = \"ops\"\n[quorum.apps]\nquorum = 2\nof = \"ops\"\n";
    authority().replacen("[[person]]", &format!("{quorums}[[person]]"), 1)
}

fn manifest(serial: u64, more: &str) -> ManifestFile {
    let sha256 = "0".repeat(64);
    let text = format!(
        "schema = 1\ndeployment = \"d\"\n[app]\nid = \"app\"\nserial = {serial}\npath = \"/a\"\nuid = 7\nsha256 = \"{sha256}\"\n{more}"
    );
    let signatures = [1, 2].map(|n| Person::new(n).sign(MANIFEST, &text) + "\n").concat();
    ManifestFile { name: "app".into(), text, signatures }
}

fn remembered(serial: u64, more: &str) -> Memory {
    let (file, people) = (Apps::parse(APPS).unwrap(), Authority::parse(&people()).unwrap());
    let memory = Memory::default().with_file(&file, &[]).unwrap();
    let court = Court { authority: Some(&people), now: Some(Timestamp(0)) };
    memory.with_manifest(&file, &manifest(serial, more), court).unwrap().unwrap().memory
}

impl Log {
    fn registers(&mut self, text: &str) -> &mut Self {
        for part in EntryKind::documents("registrations", text) {
            self.push(part);
        }
        let entry = EntryKind::apps(sha256(APPS.as_bytes()), 1, 0);
        self.push(entry.keeping(&[hash(APPS), hash(text)]))
    }
}

fn governed() -> Log {
    let mut log = begun();
    for part in EntryKind::documents("authority", &people()) {
        log.push(part);
    }
    log.push(EntryKind::Authority { hash: hash(&people()), people: 3, uid: 0, kept: None });
    log
}

fn scoped() -> Log {
    let mut log = governed();
    log.registers(&remembered(5, "[app.scope]\nkeys = [\"hot\"]\n").render());
    log.paid(1, 10);
    log
}

/// Long after, so that what was in force before does not count any more.
fn pays_later(log: &mut Log) {
    for _ in 0..6 {
        log.push(EntryKind::stop());
    }
    log.paid(2, 10);
}

// [clause 8.2.4-m] test
#[test]
fn what_people_signed_is_judged_again_and_holds() {
    each_is_found(
        scoped,
        &[
            (
                "another text than was signed",
                |l| {
                    let forged = remembered(6, "").render().replacen("uid = 7", "uid = 0", 1);
                    l.registers(&forged);
                },
                "app",
                "does not count",
            ),
            (
                "a lower serial",
                |l| {
                    l.registers(&remembered(4, "").render());
                },
                "app",
                "goes back",
            ),
            (
                "a key that it is not registered for",
                |l| {
                    l.registers(&remembered(6, "[app.scope]\nkeys = [\"cold\"]\n").render());
                    pays_later(l);
                },
                "app",
                "was not registered for key hot",
            ),
            (
                "an app that was revoked",
                |l| {
                    let memory = remembered(6, "");
                    let (revoked, _) = memory.with_revoked(&Name::parse("app").unwrap()).unwrap();
                    l.registers(&revoked.render());
                    pays_later(l);
                },
                "app",
                "was revoked",
            ),
        ],
    );
}
