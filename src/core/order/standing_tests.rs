use super::super::document::tests::order;
use super::*;
use crate::core::approval::Needs;
use crate::core::units::{Name, Timestamp};
use proptest::prelude::*;

fn scopes() -> [Scope; 4] {
    let name = |n: &str| Name::parse(n).unwrap();
    [Scope::All, Scope::App(name("web")), Scope::Key(name("hot")), Scope::Key(name("cold"))]
}

fn some_order() -> impl Strategy<Value = Order> {
    // Few numbers, so that two orders often share one.
    let number = prop_oneof![4 => 1..6u64, 1 => Just(u64::MAX), 1 => Just(FARTHEST + 3)];
    (number, 0..3usize, 0..4usize, "[a-c]").prop_map(|(number, level, scope, reason)| {
        let mut told = order(number, Level::ALL[level], scopes()[scope].clone());
        if told.check().is_err() {
            told.level = Level::Inactivate;
        }
        told.reason = reason;
        told
    })
}

/// What must stand, from a set of orders alone: no order of events, no repetition.
fn expected(orders: &[Order]) -> BTreeMap<Scope, Level> {
    let mut levels: BTreeMap<Scope, Level> = BTreeMap::new();
    let mut raise = |scope: &Scope, level: Level| {
        let there = levels.entry(scope.clone()).or_insert(level);
        *there = (*there).max(level);
    };
    for told in orders {
        raise(&told.scope, told.level);
    }
    levels
}

fn levels(standing: &Standing) -> BTreeMap<Scope, Level> {
    standing.held().iter().map(|(s, h)| (s.clone(), h.level)).collect()
}

fn asked(standing: &mut Standing, scope: &Scope) -> Option<Reactivation> {
    let held = standing.held().get(scope)?.clone();
    let asked = Reactivation {
        deployment: "d".into(),
        device: "a".repeat(64),
        epoch: standing.epoch(),
        scope: scope.clone(),
        level: held.level,
        lifts: held.order,
        challenge: "c".repeat(64),
        uid: 7,
        needs: Needs { quorum: 2, of: "ops".into() },
        expires: Timestamp(1_900_000_000_000),
    };
    standing.ask(asked.render());
    Some(asked)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // [clause 8.2.1-b] test
    #[test]
    fn the_level_is_the_highest_that_was_asked_for_whatever_the_order_repeats_and_losses(
        orders in proptest::collection::vec(some_order(), 1..12),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let mut standing = Standing::default();
        let (mut came, mut two_stories): (Vec<Order>, bool) = (Vec::new(), false);
        for pick in picks {
            let told = pick.get(&orders).clone();
            let before = levels(&standing);
            let outcome = standing.hear(&told);
            let after = levels(&standing);
            // Never down, in any scope, at any step.
            for (scope, level) in &before {
                prop_assert!(after.get(scope) >= Some(level));
            }
            match outcome {
                Ok(effect) => {
                    let again = came.contains(&told);
                    prop_assert_eq!(effect.heard == Heard::Again, again);
                    if again { prop_assert_eq!(before, after); }
                    two_stories |= effect.heard == Heard::Equivocal;
                    prop_assert!(effect.level >= told.level);
                    if !again { came.push(told); }
                }
                // What is not taken would have stopped nothing more.
                Err(_) => prop_assert!(before.get(&told.scope) >= Some(&told.level)),
            }
        }
        let mut must = expected(&came);
        let twice = came.iter().any(|a| came.iter().any(|b| a != b && a.number == b.number));
        prop_assert_eq!(two_stories, twice, "two orders of one number are always found");
        if twice {
            let all = must.entry(Scope::All).or_insert(Level::Suspend);
            *all = (*all).max(Level::Suspend);
        }
        prop_assert_eq!(levels(&standing), must);
    }

    // [clause 8.2.1-b] test
    #[test]
    fn after_a_reactivation_no_order_of_before_counts_and_other_scopes_stay(
        first in proptest::collection::vec(some_order(), 1..8),
        second in proptest::collection::vec(some_order(), 0..8),
    ) {
        let mut standing = Standing::default();
        for told in &first { let _ = standing.hear(told); }
        let Some(scope) = standing.held().iter().find(|(_, h)| h.level < Level::Wipe).map(|(s, _)| s.clone())
            else { return Ok(()) };
        let before = levels(&standing);
        let asked = asked(&mut standing, &scope).unwrap();
        standing.lift(&asked).unwrap();
        let mut must = before;
        must.remove(&scope);
        prop_assert_eq!(levels(&standing), must.clone());
        prop_assert_eq!(standing.lift(&asked), Err(NotHeard::Epoch(1, 2)), "a challenge serves once");
        for told in &first {
            prop_assert_eq!(standing.hear(told), Err(NotHeard::Epoch(1, 2)), "an old order is void");
        }
        for told in &second {
            let told = Order { epoch: 2, ..told.clone() };
            let before = standing.level(&told.scope);
            if standing.hear(&told).is_ok() {
                prop_assert!(standing.level(&told.scope) >= before.max(Some(told.level)));
            }
        }
    }
}

// [clause 8.2.1-b] test
#[test]
fn a_wipe_is_final_and_what_is_lifted_is_what_stands() {
    let mut standing = Standing::default();
    standing.hear(&order(1, Level::Suspend, Scope::All)).unwrap();
    let asked = asked(&mut standing, &Scope::All).unwrap();
    // While people think, it gets worse: they agreed on something else.
    standing.hear(&order(2, Level::Inactivate, Scope::All)).unwrap();
    assert!(matches!(standing.lift(&asked), Err(NotHeard::Lifts(Scope::All, _))));
    let mut other = super::tests::asked(&mut standing, &Scope::All).unwrap();
    other.challenge = "d".repeat(64);
    assert_eq!(standing.lift(&other), Err(NotHeard::Challenge));
    assert_eq!(standing.lift(&Reactivation { epoch: 9, ..other.clone() }), Err(NotHeard::Epoch(9, 1)));
    let nothing = Reactivation { scope: scopes()[2].clone(), ..other };
    assert_eq!(standing.lift(&nothing), Err(NotHeard::Nothing(scopes()[2].clone())));
    standing.hear(&order(3, Level::Wipe, Scope::All)).unwrap();
    let wiped = super::tests::asked(&mut standing, &Scope::All).unwrap();
    assert_eq!(standing.lift(&wiped), Err(NotHeard::Wiped));
    assert_eq!(standing.to_wipe(), [Scope::All]);
    standing.wiped(&Scope::All);
    assert!(standing.to_wipe().is_empty());
    assert_eq!(standing.lift(&wiped), Err(NotHeard::Wiped));
}

#[test]
fn numbers_are_followed_a_bounded_way_and_stopping_never_waits_for_one() {
    let mut standing = Standing::default();
    let far = standing.hear(&order(u64::MAX, Level::Suspend, Scope::All)).unwrap();
    assert_eq!((far.heard, far.far), (Heard::Raised, true));
    assert_eq!(standing.highest(), 0, "it uses up no numbers");
    let mut more = order(FARTHEST + 1, Level::Suspend, Scope::All);
    assert_eq!(standing.hear(&more), Err(NotHeard::Number(FARTHEST + 1, 0)));
    more.number = FARTHEST;
    assert_eq!(standing.hear(&more).unwrap().heard, Heard::Noted);
    let mut old = order(1, Level::Inactivate, Scope::All);
    old.previous = Some("e".repeat(64));
    let late = standing.hear(&old).unwrap();
    assert_eq!((late.heard, late.gap), (Heard::Raised, true), "late, and honoured");
    // Of a later epoch: what is here is the older state, and stops too.
    let later = Order { epoch: 3, ..order(1, Level::Suspend, scopes()[1].clone()) };
    assert_eq!(standing.hear(&later).unwrap().heard, Heard::Raised);
    assert_eq!(standing.epoch(), 3);
    assert_eq!(standing.level(&Scope::All), Some(Level::Inactivate));
    let beyond = Order { epoch: u32::MAX, ..later };
    assert_eq!(standing.hear(&beyond), Err(NotHeard::Epoch(u32::MAX, 3)));
}

#[test]
fn orders_that_are_kept_are_bounded_and_the_last_word_is_not() {
    let mut standing = Standing::default();
    for number in 1..=MOST as u64 {
        standing.hear(&order(number, Level::Suspend, Scope::All)).unwrap();
    }
    let more = MOST as u64 + 1;
    assert_eq!(standing.hear(&order(more, Level::Suspend, Scope::All)), Err(NotHeard::Full));
    assert_eq!(standing.hear(&order(more, Level::Inactivate, scopes()[1].clone())), Err(NotHeard::Full));
    assert_eq!(standing.hear(&order(more, Level::Inactivate, Scope::All)).unwrap().heard, Heard::Raised);
}

// [clause 8.2.1-c] test
#[test]
fn a_state_that_is_older_than_its_latch_is_inactivated() {
    let mut standing = Standing::default();
    standing.latched("file", 3);
    assert_eq!(standing.level(&Scope::All), None);
    standing.found_older("file", 5, &"f".repeat(64));
    assert_eq!(standing.level(&Scope::All), Some(Level::Inactivate));
    assert_eq!(standing.latch(), Some(("file", 5)));
}
