//! What kind of act each method of `operator.sock` is, for the table of roles.
#![forbid(unsafe_code)]

use serde_json::Value;

use crate::core::approval::Act;
use crate::core::key::State;

/// What kind of act a method is, for the table of roles: one of these must be allowed.
pub(super) fn acts_of(method: &str, params: &Value) -> &'static [Act] {
    let to = || params.get("to").and_then(Value::as_str).and_then(State::parse);
    match method {
        "operator_keyCreate"
        | "operator_keyAdopt"
        | "operator_keyImport"
        | "operator_keyRotate"
        | "operator_userReset"
        | "operator_keyCopy"
        | "operator_backupMake" => &[Act::Make],
        "operator_userLock" | "operator_incidentOpen" | "operator_appRevoke" => &[Act::Stop],
        "operator_incidentClose" => &[Act::Make],
        "operator_keyMove" => match to() {
            Some(State::Active | State::Destroyed) => &[Act::Make, Act::Ask],
            _ => &[Act::Stop],
        },
        // A voice is worth what its signature is worth; whoever asks for things may carry it here.
        "operator_orderReactivate" | "operator_approve" => &[Act::Speak, Act::Ask],
        "operator_policyApply"
        | "operator_authorityApply"
        | "operator_usersApply"
        | "operator_changeWithdraw"
        | "operator_orderChallenge" => &[Act::Ask],
        "operator_dutiesAck"
        | "operator_tokenCheck"
        | "operator_unlock"
        | "operator_reload"
        | "operator_leaseRequest"
        | "operator_backupVerify" => &[Act::Run],
        _ => &[Act::Look],
    }
}
