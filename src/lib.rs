//! Claviger keeps payment-signing keys inside a token and signs for wallet apps over a local socket.
//!
//! The map of the house, in the order of the flow:
//!
//! | room | what it is for | clause of X.1405 |
//! |---|---|---|
//! | [`wire`] | PURE. Frames and JSON-RPC 2.0, bounded | 8.2.3 |
//! | [`caller`] | EDGE. Which program is on the other end of the socket | 8.2.4 |
//! | [`core`] | PURE. Keys, payments, policy, log format, proofs | 8.7.1, 8.7.2 |
//! | [`store`] | EDGE. Durable state: one writer, write-ahead | 8.7.1 |
//! | [`token`] | EDGE. The HSM behind one trait | 8.2.5 |
//! | [`device`] | EDGE. What the kernel says about this machine | 8.2.4 |
//! | `tpm` | EDGE. A PIN sealed in a TPM (feature `tpm`) | 8.2.5 |
//! | [`carrier`] | EDGE. How orders come by themselves: a directory, a beacon | 8.2.1 |
//! | [`service`] | The use cases, each as one readable file | all |
//! | [`serve`] | Listeners, limits, dispatch, metrics | 8.2.3 |
//! | [`cli`] | Operator commands | 8.8 |
//! | [`client`] | For wallet apps: a client, blocking and for tokio | 8.2.4 |
//! | [`connect`] | EDGE. The helper `claviger-connect`, which speaks for one app | 8.2.4 |
//! | [`refusal`], [`secret`] | The one public error; secrets that do not print | 8.2.5 |
//! | [`sys`] | The only unsafe code | |

pub mod caller;
pub mod carrier;
pub mod cli;
pub mod client;
pub mod config;
pub mod connect;
pub mod core;
pub mod device;
pub mod refusal;
pub mod secret;
pub mod serve;
pub mod service;
pub mod store;
pub mod sys;
pub mod token;
#[cfg(feature = "tpm")]
pub mod tpm;
pub mod wire;
