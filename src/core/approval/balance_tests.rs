//! Statements that count, and those that do not.

use super::*;
use crate::core::approval::sshsig::tests::signed;

fn document() -> Authority {
    let line = |seed| signed(seed, BALANCE, b"").0;
    Authority::parse(&format!(
        "schema = 1\ndeployment = \"d\"\nfiles_allowed = true\n\
         [[observer]]\nid = \"node\"\nkeys = [\"{}\"]\n\
         [[person]]\nid = \"otto\"\nroles = [\"operator\"]\nkeys = [\"{}\"]\n\
         [[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{}\"]\n",
        line(1),
        line(2),
        line(3)
    ))
    .unwrap()
}

const ACCOUNT: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
const TOKEN: &str = "erc20:0x1111111111111111111111111111111111111111";

fn text() -> String {
    let hash = "ab".repeat(32);
    format!(
        "clavigerd balance v1\ndeployment: d\nkey: hot\naccount: {ACCOUNT}\nobserved: 2026-11-21T12:00:00Z\n\
         block: eip155:1 21234567 0x{hash}\nbalance: eip155:1 native 0\nbalance: eip155:1 {TOKEN} 0\n"
    )
}

fn judged(text: &str, seed: u8, namespace: &str, later_ms: i64) -> Result<Stated, String> {
    let key = Name::parse("hot").unwrap();
    let about = About {
        key: &key,
        account: ACCOUNT,
        assets: [(Chain(1), Asset::Native), (Chain(1), asset(TOKEN).unwrap())].into(),
        now: Timestamp::parse("2026-11-21T12:00:00Z").unwrap().plus(later_ms),
    };
    let (_, signature) = signed(seed, namespace, text.as_bytes());
    judge(&document(), text, &signature, &about).map_err(|refusal| {
        assert_eq!(refusal.code, Code::BalanceEvidence);
        refusal.sentence
    })
}

// [clause 8.7.1-t] test
#[test]
fn a_statement_is_of_this_account_of_every_asset_fresh_and_by_somebody_who_is_named() {
    let stated = judged(&text(), 1, BALANCE, 0).unwrap();
    assert_eq!(stated.by, "observer node");
    assert_eq!(stated.lines.len(), 2);
    assert!(stated.lines[1].contains("block 21234567 of eip155:1"), "{stated:?}");
    assert_eq!(judged(&text(), 2, BALANCE, 3_600_000).unwrap().by, "operator otto");
    for (seed, namespace, later, why) in [
        (3, BALANCE, 0, "no observer"),
        (9, BALANCE, 0, "no observer"),
        (1, "clavigerd-key@v1", 0, "namespace"),
        (1, BALANCE, 3_600_001, "counts for 60 minutes"),
        (1, BALANCE, -300_001, "counts for 60 minutes"),
    ] {
        let said = judged(&text(), seed, namespace, later).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    for (from, to, why) in [
        ("deployment: d", "deployment: e", "deployment"),
        ("key: hot", "key: cold", "key"),
        (ACCOUNT, "0x2222222222222222222222222222222222222222", "account"),
        ("native 0", "native 1", "1 base units of native"),
        ("balance: eip155:1 native 0\n", "", "says nothing of native"),
        ("block: eip155:1", "block: eip155:5", "no block of eip155:1"),
        ("block: eip155:1 21234567", "block: eip155:1 021234567", "neither"),
        ("balance: eip155:1 native 0", "balance: eip155:1 native 0\nbalance: eip155:1 native 0", "twice"),
        ("balance: eip155:1 native 0", "balance: eip155:1 native -0", "neither"),
        ("balance: eip155:1 native 0", "balance: eip155:1 native 0 ", "neither"),
        ("12:00:00Z", "12:00:61Z", "no time"),
        ("balance v1", "balance v2", "first line"),
        ("key: hot\n", "", "missing"),
        ("\n", "\r\n", "line feed"),
    ] {
        let changed = text().replacen(from, to, 1);
        assert_ne!(changed, text());
        let said = judged(&changed, 1, BALANCE, 0).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    let bare = text().replace("balance: eip155:1", "block: eip155:7 1 0x00 #");
    assert!(judged(&bare, 1, BALANCE, 0).is_err());
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_handed_in_panics(text in "(clavigerd balance v1\n)?[ -~\n]{0,200}") {
        let _ = judged(&text, 1, BALANCE, 0);
    }
}
