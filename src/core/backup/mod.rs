//! Backups that need no quorum to make and one to open: shares, the envelope, the lock that can be thrown away. [clause 8.2.2]
#![forbid(unsafe_code)]

pub mod age;
#[cfg(test)]
mod age_tests;
mod gf256;
pub mod slip39;
#[cfg(test)]
mod slip39_tests;
mod words;
