//! Backups that need no quorum to make and one to open: shares, the envelope, the lock that can be thrown away.
//! [clause 8.2.2] [clause 8.7.1]
#![forbid(unsafe_code)]

pub mod age;
#[cfg(test)]
mod age_tests;
pub mod bundle;
#[cfg(test)]
mod bundle_tests;
mod gf256;
pub mod pkcs8;
pub mod quorum;
pub mod slip39;
#[cfg(test)]
mod slip39_tests;
pub mod vault;
mod words;
