//! Documents that are rendered from the code: `UPDATE=1 cargo test --test documents` rewrites them.

#![allow(clippy::unwrap_used, reason = "tests stop where they cannot go on")]

use std::fmt::Write;
use std::path::Path;

use claviger::refusal::Code;
use claviger::serve::discover::{Method, OPERATOR, USER, WALLET};

fn held(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{file} is not what the code says: run UPDATE=1 cargo test --test documents");
}

#[test]
fn errors_are_documented_as_they_are() {
    let mut text = String::from(
        "# Refusals\n\nEvery refusal has a stable code. `retry` says whether asking again can help: `never`, `later`, or `operator`\n(an operator must act first). Rendered from `src/refusal.rs`.\n\n| code | JSON-RPC | retry | clause | what to do |\n|---|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let retry = serde_json::to_value(code.retry()).unwrap();
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            code.as_str(),
            code.rpc(),
            retry.as_str().unwrap(),
            code.clause(),
            code.advice()
        )
        .unwrap();
    }
    held("docs/errors.md", &text);
}

#[test]
fn methods_are_documented_as_they_are() {
    let mut text = String::from(
        "# Methods\n\nRendered from `src/serve/discover.rs`; each socket serves its own as an OpenRPC document under `rpc.discover`.\n",
    );
    let list = |text: &mut String, title: &str, methods: &[Method]| {
        write!(text, "\n## {title}\n\n| method | parameters | result | what it does |\n|---|---|---|---|\n")
            .unwrap();
        for m in methods {
            let params: Vec<String> = m
                .params
                .iter()
                .map(|(n, required, what)| format!("`{n}`{}: {what}", if *required { "" } else { "?" }))
                .collect();
            writeln!(text, "| `{}` | {} | {} | {} |", m.name, params.join("; "), m.result, m.summary)
                .unwrap();
        }
    };
    list(&mut text, "wallet.sock", WALLET);
    list(&mut text, "operator.sock", OPERATOR);
    list(&mut text, "user.sock", USER);
    held("docs/methods.md", &text);
}
