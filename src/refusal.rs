//! The one public error: why a request was refused, and what to do about it.
//!
//! Every refusal has a stable code (never renamed, never reused), a sentence that a person can act on, advice,
//! a retry class and the clause of ITU-T X.1405 behind it. `docs/errors.md` is rendered from this table.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

/// Whether asking again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// The same request will be refused again.
    Never,
    /// The same request may pass after a while.
    Later,
    /// An operator must act first.
    Operator,
}

macro_rules! codes {
    ($($variant:ident $code:literal $rpc:literal $retry:ident $clause:literal $advice:literal;)*) => {
        /// Stable refusal codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $advice] $variant,)* }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The stable text, as it stands in replies, metrics and the log.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $code,)* } }
            /// The JSON-RPC error number in the native dialect.
            #[must_use]
            pub fn rpc(self) -> i64 { match self { $(Self::$variant => $rpc,)* } }
            /// Whether asking again can help.
            #[must_use]
            pub fn retry(self) -> Retry { match self { $(Self::$variant => Retry::$retry,)* } }
            /// The derived requirement behind it (`docs/x1405/requirements.toml`).
            #[must_use]
            pub fn clause(self) -> &'static str { match self { $(Self::$variant => $clause,)* } }
            /// What a person can do.
            #[must_use]
            pub fn advice(self) -> &'static str { match self { $(Self::$variant => $advice,)* } }
        }
    };
}

codes! {
    ParseError "parse_error" -32700 Never "8.2.3-b" "send one JSON-RPC 2.0 object or batch at a time, UTF-8, properly closed";
    InvalidRequest "invalid_request" -32600 Never "8.2.3-b" "send jsonrpc \"2.0\", a method name, and an id that is a number, a string or null";
    MethodNotFound "method_not_found" -32601 Never "8.2.3-b" "call rpc.discover for the methods of this socket";
    InvalidParams "invalid_params" -32602 Never "8.2.3-b" "compare the parameters with rpc.discover";
    TooLarge "too_large" -32600 Never "8.2.3-b" "send smaller messages; the limit stands under limits in the configuration";
    TooDeep "too_deep" -32600 Never "8.2.3-b" "send JSON that is nested less deeply";
    Busy "busy" -32005 Later "8.2.3-b" "wait for replies before sending more, then ask again";
    Stopping "stopping" -32005 Later "8.2.3-b" "ask again after the daemon has been restarted";
    Cancelled "cancelled" -32006 Never "8.4.3-b" "the request was cancelled before it was reserved; nothing was signed";
    RequestUnknown "request_unknown" -32602 Never "8.4.3-b" "use the id that claviger_signPayment gave on this connection's app";
    AppUnknown "app_unknown" 4100 Operator "8.2.4-a" "an operator must register this executable and user in apps.toml, then reload";
    AppChanged "app_changed" 4100 Never "8.2.4-a" "the process that asked is no longer the one that connected: connect again";
    AppReplaced "app_replaced" 4100 Operator "8.2.4-a" "start the app anew from its registered path; after an update, look why it changed, then claviger app update";
    AppTraced "app_traced" 4100 Never "8.2.4-c" "end the debugger, and start the app anew";
    AppForeignCode "app_foreign_code" 4100 Operator "8.2.4-c" "look what brought this file into the app (LD_PRELOAD, a plug-in); if it belongs there, claviger app update";
    AppPatched "app_patched" 4100 Never "8.2.4-c" "somebody wrote into the app's code: find out who, and start the app anew";
    AppWritableCode "app_writable_code" 4100 Operator "8.2.4-c" "an app that makes code while it runs needs allow_jit in its registration";
    AppNamespace "app_namespace" 4100 Never "8.2.4-c" "start the app outside containers and user namespaces, beside the daemon";
    AppSeccomp "app_seccomp" 4100 Operator "8.2.4-c" "start the app without filters of others; if it sets its own, seccomp = \"filter\" in its registration";
    AppGroup "app_group" 4100 Operator "8.2.4-c" "start the app as it is installed: setgid, in its unit, without no_new_privs";
    AppTier "app_tier" 4100 Operator "8.2.4-c" "see claviger app verify PID for what keeps the app from its tier";
    AppUnseen "app_unseen" 4100 Operator "8.2.4-c" "give the daemon what claviger doctor says that it lacks";
    AppSender "app_sender" 4100 Never "8.2.4-b" "let each process connect by itself: a connection cannot be shared, inherited or passed on";
    AppDescriptor "app_descriptor" 4100 Never "8.2.4-b" "send no descriptors on this socket";
    AppNonce "app_nonce" 4100 Never "8.2.4-e" "connect again, say claviger_hello, and number each request from 1 on";
    ConnectRefused "connect_refused" 4100 Operator "8.2.4-p" "claviger-connect speaks for the user, and the programs, that the file of root's beside it names, and must be setgid: see docs/apps.md";
    AppRevoked "app_revoked" 4100 Operator "8.2.4-c" "the app was taken out of service; register it again if that was a mistake";
    AppExpired "app_expired" 4100 Operator "8.2.4-c" "look at the app, then register it again with a later not_after";
    AppSerial "app_serial" -32602 Never "8.2.4-n" "raise the serial above the one in the sentence; what was once replaced does not come back";
    AppSerialReused "app_serial_reused" -32602 Never "8.2.4-n" "another registration had this serial: raise it with each change";
    AppUnsigned "app_unsigned" 4100 Operator "8.2.4-m" "have the registration signed as a manifest, or agreed on by the quorum of [quorum.apps] (docs/apps.md)";
    AppScope "app_scope" 4001 Operator "8.2.4-o" "use a key that the app is registered for; scope in its registration says which";
    ManifestForm "manifest_form" -32602 Never "8.2.4-m" "write schema = 1 and the table app with id, serial and sha256, as docs/apps.md shows, and sign it again";
    ManifestLines "manifest_lines" -32602 Never "8.2.4-m" "keep the file as it was signed: line ends are LF, without a byte order mark; look what changed it on its way";
    ManifestOther "manifest_other" -32602 Never "8.2.4-m" "the manifest of an app is NAME.toml of that app, for this deployment";
    ManifestUnsigned "manifest_unsigned" -32602 Operator "8.2.4-m" "sign it with ssh-keygen -Y sign -n clavigerd-app@v1, and put the signatures one after the other into NAME.toml.sig";
    ManifestSignature "manifest_signature" -32602 Never "8.2.4-m" "the file or its signature was changed on its way, or it was signed in another namespace: take it anew from who signed it";
    ManifestSigner "manifest_signer" 4100 Operator "8.2.4-m" "it must be signed by the quorum of [quorum.apps], or by a release key that the app's registration names";
    ManifestBeyond "manifest_beyond" 4001 Operator "8.2.4-m" "a release key changes sha256, libs, serial and not_after alone; everything else is for the quorum";
    ManifestExpired "manifest_expired" -32602 Operator "8.2.4-m" "its not_after has passed: have a new one signed";
    ManifestHeld "manifest_held" 4001 Operator "8.2.4-m" "what people decide on apps rests before it is in force: put the registration into apps.toml, and ask them with claviger reload";
    TierUnsupported "tier_unsupported" -32602 Operator "8.2.4-d" "lower the tier, or give the daemon what claviger doctor says that it lacks";
    DeviceUnfit "device_unfit" 4001 Operator "8.2.4-f" "claviger device facts shows what this machine must be, and what to do about it";
    OperatorUnknown "operator_unknown" 4100 Operator "8.2.3-a" "run this as a user listed under operator.uids in the configuration";
    RoleForbids "role_forbids" 4100 Never "8.2.3-c" "ask somebody whose role in the authority document may do this";
    ChangeNeeded "change_needed" 4001 Later "8.8-b" "people must agree to this change: claviger approval list shows them what";
    ChangeHeld "change_held" 4001 Later "8.8-b" "enough have agreed and the time for a veto runs; it is carried out by itself at its end";
    KeyUnknown "key_unknown" 4001 Never "8.7.1-a" "list the keys that this app may use with claviger_listKeys";
    KeyExists "key_exists" -32602 Never "8.7.1-a" "choose another name; names are never reused";
    KeyTombstone "key_tombstone" 4001 Never "8.7.1-h" "this key was destroyed, for good: make a new one";
    ImportMalformed "import_malformed" -32602 Never "8.7.1-o" "give a mnemonic, 64 hex digits, an encrypted PKCS#8 file or an Ethereum keystore of version 3";
    ImportMnemonic "import_mnemonic" -32602 Never "8.7.1-o" "compare the words with what was written down, one by one and in their order";
    ImportPath "import_path" -32602 Never "8.7.1-o" "name the path that the wallet used, such as m/44'/60'/0'/0/0";
    ImportRange "import_range" -32602 Never "8.7.1-o" "this is no key of the curve; look where it comes from";
    ImportPassphrase "import_passphrase" -32602 Never "8.7.1-o" "try the passphrase that the file was written with";
    ImportOther "import_other" -32602 Never "8.7.1-o" "another key than the expected one came out: compare words, passphrase and path with the wallet";
    KeyPurpose "key_purpose" 4001 Never "8.7.2-a" "use a key whose purpose is what is asked; a key has one";
    KeyState "key_state" 4001 Operator "8.7.1-b" "what a key may do ends with its state; see claviger key show";
    KeyEdge "key_edge" 4001 Never "8.7.1-b" "a key's life goes one way; see claviger key show for where it is";
    KeyPolicyForbids "key_policy_forbids" 4001 Operator "8.7.1-f" "the key policy names what may be made; see config/keys.toml";
    BalanceUnproven "balance_unproven" 4001 Operator "8.7.1-t" "hand in a signed statement that nothing is left (--evidence, --signature), or say why it may be destroyed all the same (--waive-balance)";
    BalanceEvidence "balance_evidence" -32602 Never "8.7.1-t" "look at what the sentence names; the text of a statement stands in docs/governance.md";
    SweepOnly "sweep_only" 4001 Operator "8.7.1-b" "the key is at its end and pays only to what sweep.to in the policy lists";
    KeyUnprotected "key_unprotected" 4001 Never "8.2.5-a" "only keys that cannot be read, cannot leave the token and do one thing are taken over; make a new key";
    ShareWrong "share_wrong" -32602 Never "8.2.2-b" "look at the word that is named, and at the sheet; nothing was kept of what was typed";
    ShareOther "share_other" 4001 Operator "8.2.2-b" "look for the sheet of the ceremony in force; one of another ceremony opens no bundle that was made for this one";
    SharesLacking "shares_lacking" 4001 Operator "8.2.2-a" "call more custodians of this very quorum, or take the share out that does not belong";
    QuorumMissing "quorum_missing" 4001 Operator "8.2.2-b" "backups are switched on and nobody could open one: hold a ceremony first, claviger ceremony init";
    QuorumExists "quorum_exists" -32602 Never "8.2.2-b" "a quorum is in force and was not touched";
    BackupOff "backup_off" 4001 Operator "8.2.2-c" "backups are not switched on: see the table backup in config/clavigerd.toml";
    BackupMissing "backup_missing" 4001 Operator "8.2.2-e" "a payment key becomes active when a bundle of it was made and verified; make a new key if this one may not leave its token";
    BundleInvalid "bundle_invalid" -32602 Never "8.2.2-c" "take another copy of the bundle; claviger backup verify compares all of them with the register";
    VaultFailed "vault_failed" 4001 Operator "8.7.1-s" "look at the place of the vault that is named: its file, its token, its PIN; then ask again";
    KeyShredded "key_shredded" 4001 Never "8.7.1-s" "the key was destroyed with all its backups; it cannot come back, and that is what was wanted";
    CopiesLeft "copies_left" 4001 Operator "8.7.1-p" "claviger key copies shows what is left of the key and by when it has to go; give a receipt for what is out of the daemon's reach";
    CopyUnknown "copy_unknown" -32602 Never "8.7.1-p" "claviger key copies lists what is known: name kind and place as they stand there";
    CopyReachable "copy_reachable" -32602 Never "8.7.1-p" "the daemon destroys this copy by itself, and looks that it is gone: mend what keeps it from that";
    PaymentMalformed "payment_malformed" -32602 Never "8.4.3-a" "send a complete legacy, EIP-2930 or EIP-1559 transaction with known fields only";
    ChainUnknown "chain_unknown" 4001 Operator "8.4.3-a" "the policy names no such chain";
    ContractCreation "contract_creation" 4001 Operator "8.4.3-a" "contract creation is not a payment; no rule allows it";
    ContractCallUnknown "contract_call_unknown" 4001 Operator "8.4.3-a" "a rule must name this contract and selector before it can be called";
    Forbidden "forbidden_by_rule" 4001 Operator "8.7.1-c" "a forbid rule matches; forbid always wins";
    NoRule "no_rule" 4001 Operator "8.7.1-c" "no permit rule covers this request; what no rule permits is refused";
    KeyNotAllowed "key_not_allowed" 4001 Operator "8.7.1-c" "no rule lets this app use this key";
    AssetNotAllowed "asset_not_allowed" 4001 Operator "8.7.1-c" "no rule for this app and key covers this asset";
    DestinationNotListed "destination_not_listed" 4001 Operator "8.7.1-c" "the destination is in no address book that the rule names";
    OverLimit "over_limit" 4001 Operator "8.7.1-c" "the amount is above the rule's maximum per transaction";
    WindowExceeded "window_exceeded" 4001 Later "8.7.1-c" "the sliding window is used up; wait until earlier payments leave it";
    FeeTooHigh "fee_too_high" 4001 Never "8.7.1-c" "lower gas limit or fee cap below the rule's fee maximum";
    DestinationNew "destination_new" 4001 Later "8.4.3-d" "the key has not paid this destination before: ask again when the delay of the rule is over";
    TierTooLow "tier_too_low" 4001 Operator "8.7.1-l" "the rule asks for a caller of which more is known; see tier in the policy";
    Tripped "tripped" 4001 Operator "8.4.3-c" "the payment is unlike what this key does: it was not signed and the key is suspended; look into it, then activate the key";
    OutsideHours "outside_hours" 4001 Later "8.7.1-c" "ask again inside the hours of the rule";
    GrantNotAllowed "grant_not_allowed" 4001 Operator "8.7.1-c" "approve and transferFrom need a rule that names them under acts";
    MessageNotAllowed "message_not_allowed" 4001 Operator "8.7.1-c" "no rule lets this app sign messages with this key";
    OperationNotAllowed "operation_not_allowed" 4001 Operator "8.7.1-c" "no rule lets this app do this with this key; name the act in a permit rule";
    ApprovalNeeded "approval_needed" 4001 Later "8.5.4-a" "people must approve it: claviger approval list shows them what; ask again with the same payload, or wait for the request";
    ApprovalMalformed "approval_malformed" -32602 Never "8.5.4-a" "sign with ssh-keygen -Y sign, an ed25519, ecdsa-256 or sk- key, and SHA-512";
    ApprovalNamespace "approval_namespace" -32602 Never "8.5.4-a" "sign with the namespace that claviger approval show --json names: clavigerd-approval@v1 for a payment, clavigerd-rejection@v1 to refuse";
    ApprovalWrong "approval_wrong" -32602 Never "8.5.4-a" "sign exactly the text that claviger approval show prints: line ends, spaces and all";
    ApprovalStranger "approval_stranger" 4100 Operator "8.5.4-a" "only people whom the authority document names for this count";
    ApprovalRevoked "approval_revoked" 4100 Operator "8.5.4-a" "the key was revoked; enrol another one";
    ApprovalOwn "approval_own" 4100 Never "8.5.4-a" "nobody approves what they asked for; another person must";
    ApprovalTwice "approval_twice" 4001 Never "8.5.4-a" "each person counts once; another person must approve";
    ApprovalPresence "approval_presence" 4100 Never "8.5.4-a" "touch the authenticator, and enter its PIN where several must approve (ssh-keygen -O verify-required)";
    ApprovalCounter "approval_counter" 4100 Operator "8.5.4-a" "the authenticator may have been copied: revoke its key and look into it";
    ApprovalStale "approval_stale" 4001 Never "8.5.4-a" "policy or authority changed, the request ended, or its time is over: ask anew, and approve the new text";
    ApprovalRejected "approval_rejected" 4001 Never "8.5.4-a" "somebody who may approve has refused it";
    Suspended "suspended" 4900 Operator "8.2.1-a" "an order of those who may stop this device stands: claviger order status shows which; people lift it with claviger order challenge and reactivate";
    Inactivated "inactivated" 4900 Operator "8.2.1-a" "an order of those who may stop this device stands, and the token is closed: claviger order status shows which; people lift it with claviger order challenge and reactivate";
    Wiped "wiped" 4900 Never "8.2.1-e" "the keys were destroyed by order; what they controlled must be recovered elsewhere";
    LeaseMissing "lease_missing" 4900 Later "8.2.1-d" "signing goes on by itself with a fresh lease: look whether this machine reaches its beacon, or carry one with claviger order lease and send";
    LeaseRefused "lease_refused" -32602 Never "8.2.1-d" "ask for a lease anew with claviger order lease: each answers one request of one boot, for a while";
    OrderMalformed "order_malformed" -32602 Never "8.2.1-a" "send the text as claviger order new wrote it, with signatures that ssh-keygen -Y sign made in its namespace";
    OrderWrong "order_wrong" -32602 Never "8.2.1-a" "sign exactly the bytes of the file; a change of one of them needs a new signature";
    OrderStranger "order_stranger" 4100 Operator "8.2.1-a" "only people of the groups under orders.revokers in the authority document stop this device, with keys that are not revoked";
    OrderQuorum "order_quorum" 4100 Never "8.2.1-a" "have enough different people sign the same text, and send all signatures together";
    OrderOther "order_other" -32602 Never "8.2.1-b" "compare deployment and device with claviger order device: each order is for one";
    OrderEpoch "order_epoch" -32602 Never "8.2.1-b" "a reactivation makes all orders before it void: write the order anew for the epoch that claviger order status shows";
    OrderNumber "order_number" -32602 Never "8.2.1-b" "number orders one after the other; claviger order status shows the highest";
    OrderLifts "order_lifts" 4001 Never "8.2.1-b" "make a challenge anew: it names what stands now";
    ChallengeStale "challenge_stale" 4001 Never "8.2.1-b" "make a challenge anew with claviger order challenge, and have that text signed: each serves once";
    UserNeeded "user_needed" 4001 Later "8.2.3-d" "call claviger_requestUser, and let the user run claviger user unlock with the code";
    UserLocked "user_locked" 4001 Later "8.2.3-f" "the user was here and is not any more: call claviger_requestUser again";
    UserUnknown "user_unknown" 4100 Operator "8.2.3-d" "an operator must add this user: claviger user add";
    UserWrong "user_wrong" 4100 Never "8.2.3-d" "type the PIN again; after ten wrong ones an operator must help (claviger user reset)";
    UserThrottled "user_throttled" 4100 Later "8.2.3-e" "wait as long as the sentence says; a restart of the daemon begins the wait anew";
    UserSuspended "user_suspended" 4100 Operator "8.2.3-e" "an operator must look into it: claviger user reset lets the user enrol anew";
    UserCode "user_code" -32602 Never "8.2.3-d" "ask for a new code: the app calls claviger_requestUser, the operator runs claviger user reset";
    UserUnprotected "user_unprotected" -32002 Operator "8.2.3-d" "PINs are kept under a key of the token: use a token that makes hmac-sha256 keys (claviger token check)";
    DutiesUnacknowledged "duties_unacknowledged" 4001 Later "8.8-d" "read the duties with claviger duties show, and acknowledge them with claviger duties ack; an operator does it for an app, with --app";
    StepUpNeeded "step_up_needed" 4001 Later "8.2.3-g" "the user must confirm it: claviger user pending shows what; ask again with the same payload, or wait for the request";
    StepUpPeople "step_up_people" 4001 Operator "8.2.3-g" "above what one person confirms, the policy's rule must ask people (approve)";
    StepUpRefused "step_up_refused" 4001 Never "8.2.3-g" "the user refused this payment";
    UserAssertion "user_assertion" 4100 Never "8.2.3-h" "sign exactly what claviger user show prints, with an authenticator that is enrolled and asks for its PIN";
    NonceConflict "nonce_conflict" 4001 Never "8.4.3-b" "another payload was already signed for this account nonce; only a rule with replacement may allow a fee bump";
    ClockStepped "clock_stepped" -32003 Operator "8.7.1-d" "the clock went back; signing resumes when it has caught up";
    PolicyInvalid "policy_invalid" -32602 Never "8.7.1-c" "mend the policy text at the place that is named";
    TokenBusy "token_busy" -32005 Later "8.2.5-b" "the token's queue is full; ask again";
    TokenGone "token_gone" -32002 Later "8.2.5-b" "the token is not answering; the daemon keeps trying and resumes by itself";
    TokenLocked "token_locked" -32002 Operator "8.2.5-c" "check the PIN source and the token's PIN state, then run claviger unlock or restart";
    TpmAbsent "tpm_absent" -32002 Operator "8.2.5-d" "look whether the machine has a TPM, whether it is switched on in the firmware, and whether the daemon's user may open it (group tss)";
    TpmBootChanged "tpm_boot_changed" -32002 Operator "8.2.5-d" "find out what changed in firmware, Secure Boot or kernel; if it was you, seal the PIN again with claviger tpm seal";
    TpmInactivated "tpm_inactivated" -32002 Operator "8.2.5-d" "the sealed PIN was made useless on purpose; if the machine is in the right hands, seal the PIN again with claviger tpm seal";
    TpmOther "tpm_other" -32002 Operator "8.2.5-d" "use the machine that the PIN was sealed in, or seal the PIN again with claviger tpm seal";
    TpmBlobDamaged "tpm_blob_damaged" -32002 Operator "8.2.5-d" "look at the file of the sealed PIN, or seal the PIN again with claviger tpm seal";
    TpmLockedOut "tpm_locked_out" -32002 Operator "8.2.5-d" "wait until the TPM forgets the guesses, or have its lockout administrator reset it (tpm2_dictionarylockout --clear-lockout)";
    TpmRefused "tpm_refused" -32002 Operator "8.2.5-d" "look what the sentence says about the TPM; claviger tpm check tries it without the daemon";
    TpmNotBuilt "tpm_not_built" -32002 Operator "8.2.5-d" "install a build with cargo build --features tpm, or give the PIN in another way";
    TokenRefused "token_refused" -32002 Operator "8.2.5-b" "run claviger token check";
    TokenUnfit "token_unfit" -32002 Operator "8.2.5-a" "payment keys are refused in a token that does not protect them; see claviger token check, and use another token";
    DataInvalid "data_invalid" -32602 Never "8.7.2-b" "the data, its associated data or the key is not the one that was used to protect it";
    RandomUnhealthy "random_unhealthy" -32002 Operator "8.7.2-c" "the token's generator repeats itself: no random bits are given out until the daemon is restarted and the tests pass";
    TokenTimeout "token_timeout" -32002 Later "8.2.5-b" "the outcome is unknown and its amount stays reserved; ask again with the same payload";
    SignatureInvalid "signature_invalid" -32002 Operator "8.2.5-b" "what the token returned does not verify and was not released; run claviger token check";
    StateUnconfirmed "state_unconfirmed" -32001 Later "8.7.1-i" "the token must be there and unlocked before the state directory is believed; see claviger status";
    StateTampered "state_tampered" -32001 Operator "8.7.1-i" "put back the newest unchanged copy of the state directory, and find out who changed it (docs/state.md); where there is no copy, claviger state accept goes on without what is lost";
    StateRolledBack "state_rolled_back" -32001 Operator "8.7.1-j" "put the newest state directory back (docs/state.md); where it is lost, claviger state accept goes on, with every window full until it has passed";
    AnchorMissing "anchor_missing" -32001 Operator "8.7.1-j" "the token must keep the anchor of the log: make room, give its key the right to, or set anchor.mode to auto";
    StoreFailed "store_failed" -32001 Operator "8.7.1-d" "nothing is signed that cannot be written down; check free space and permissions of the state directory";
    Internal "internal" -32603 Operator "8.7.1-d" "this is a defect; report it with the log around it";
}

/// A refusal: code, the sentence for this very case, and the facts that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Stable code.
    pub code: Code,
    /// What was refused and why, with the value and the limit. Holds no secret.
    pub sentence: String,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// Further facts for the caller, as JSON (limits, figures, ids).
    pub facts: Value,
    /// It stands in the log already.
    pub written: bool,
}

impl Refusal {
    /// A refusal with its sentence.
    #[must_use]
    pub fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into(), rule: None, facts: Value::Null, written: false }
    }

    /// The same, and it stands in the log.
    #[must_use]
    pub fn in_the_log(mut self) -> Self {
        self.written = true;
        self
    }

    /// Whether it is about the form of a request, before anybody asked what it means.
    #[must_use]
    pub fn is_about_form(&self) -> bool {
        matches!(
            self.code,
            Code::ParseError
                | Code::InvalidRequest
                | Code::MethodNotFound
                | Code::InvalidParams
                | Code::TooLarge
                | Code::TooDeep
                | Code::Busy
                | Code::RequestUnknown
        )
    }

    /// Names the rule that decided.
    #[must_use]
    pub fn by_rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Adds facts.
    #[must_use]
    pub fn with(mut self, facts: Value) -> Self {
        self.facts = facts;
        self
    }

    /// The `data` member of a JSON-RPC error.
    #[must_use]
    pub fn data(&self) -> Value {
        let mut data = json!({
            "code": self.code.as_str(),
            "retry": self.code.retry(),
            "advice": self.code.advice(),
            "clause": self.code.clause(),
        });
        if let Some(map) = data.as_object_mut() {
            if let Some(rule) = &self.rule {
                map.insert("rule".into(), json!(rule));
            }
            if !self.facts.is_null() {
                map.insert("facts".into(), self.facts.clone());
            }
        }
        data
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.sentence)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_parse_as_names() {
        let mut seen = HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(!code.advice().is_empty());
        }
    }
}
