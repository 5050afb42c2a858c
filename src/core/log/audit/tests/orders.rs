//! Orders that were written down, and whether they were obeyed.
use super::*;
use crate::core::log::orders::OrderEvent;
use crate::core::order::{Level, Order, Scope};

fn order(scope: Scope) -> EntryKind {
    let order = Order {
        deployment: "d".into(),
        device: "a".repeat(64),
        epoch: 1,
        number: 1,
        level: Level::Suspend,
        scope,
        issued: Timestamp(1_700_000_000_000),
        previous: None,
        reason: "lost".into(),
    };
    EntryKind::Order(OrderEvent::Heard {
        order: order.hash(),
        text: order.render(),
        signatures: Vec::new(),
        by: vec!["alice".into()],
        heard: "raised".into(),
        carrier: "operator".into(),
        latch: None,
    })
}

// [clause 8.2.1-a] test
#[test]
fn an_order_that_was_not_obeyed_is_found() {
    each_is_found(
        paying,
        &[
            (
                "its key was used",
                |l| {
                    l.push(order(Scope::Key(Name::parse("hot").unwrap()))).paid(3, 1);
                },
                "order",
                "a key was used",
            ),
            (
                "its app was served",
                |l| {
                    l.push(order(Scope::App(Name::parse("app").unwrap()))).paid(3, 1);
                },
                "order",
                "a key was used",
            ),
            (
                "an answer came out",
                |l| {
                    l.intent(3, 1).push(order(Scope::All)).result(3);
                },
                "order",
                "released",
            ),
        ],
    );
}
