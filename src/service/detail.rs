//! What people are shown of a document that would come into force: the lines by which it differs.
#![forbid(unsafe_code)]

use crate::core::approval::Authority;

/// Who comes, goes, and changes; which quorums.
pub(super) fn authority_detail(old: Option<&Authority>, new: &Authority) -> Vec<String> {
    let people = |a: &Authority| -> Vec<String> {
        a.people()
            .iter()
            .map(|p| {
                let roles: Vec<&str> = p.roles.iter().map(|r| r.as_str()).collect();
                let groups: Vec<&str> = p.groups.iter().map(String::as_str).collect();
                let keys = a.keys_of(&p.id).join(" ");
                format!("person {}: {} of [{}], keys {keys}", p.id, roles.join("+"), groups.join(" "))
            })
            .chain(a.quorums().map(|(m, q)| {
                let (n, of, s) = (q.needs.quorum, &q.needs.of, q.delay_ms / 1000);
                format!("quorum {}: {n} of {of}, then {s} s", m.as_str())
            }))
            .chain(a.observers().map(|(id, key)| format!("observer {id}: states balances, key {key}")))
            .chain([format!("files_allowed {}", a.files_allowed), format!("deployment {}", a.deployment)])
            .collect()
    };
    let (before, after) = (old.map(people).unwrap_or_default(), people(new));
    let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("- {l}"));
    let come = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).collect()
}

/// The lines that differ.
pub(super) fn line_detail(old: &str, new: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    let (before, after) = (lines(old), lines(new));
    let gone = before.iter().filter(|l| !after.contains(l) && !l.is_empty()).map(|l| format!("- {l}"));
    let come = after.iter().filter(|l| !before.contains(l) && !l.is_empty()).map(|l| format!("+ {l}"));
    gone.chain(come).collect()
}
