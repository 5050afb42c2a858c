//! For wallet apps written in Rust: connects to `wallet.sock`, says hello, and asks.
//!
//! ```no_run
//! use claviger::client::{Address, Client, Eip1559, Error, Payment, U256};
//!
//! let mut client = Client::connect()?;
//! let from = client.list_keys()?.into_iter().find_map(|key| key.address).expect("a payment key");
//! let payment = Payment::try_from(Eip1559 {
//!     from,
//!     chain: 1,
//!     nonce: 0,
//!     to: Address::parse("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359").expect("an address"),
//!     value: U256::from(1_000_000_000_u64),
//!     gas: 21_000,
//!     max_fee_per_gas: 30_000_000_000,
//!     max_priority_fee_per_gas: 1_000_000_000,
//!     data: Vec::new(),
//! })?;
//! match client.sign_payment(&payment) {
//!     Ok(signed) => println!("send {} to a node", signed.raw_hex()),
//!     Err(Error::Refused(why)) => println!("{}: {} ({})", why.code(), why.message(), why.advice()),
//!     // The connection broke meanwhile: connect again, and ask for the very same payment.
//!     Err(error) if error.ask_again() => println!("{error}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! What it takes care of: each request shows the connection's nonce; nothing is said to a socket that somebody else than root
//! (or the user that [`Options::daemon_uid`] names) opened; a signature that is not of the payment that was asked for,
//! by its account, is not given out; and it never connects again by itself. Under it is [`protocol`], which is pure and has
//! no part in how bytes travel.
#![forbid(unsafe_code)]

pub mod blocking;
mod connect;
mod methods;
pub mod protocol;
pub mod tokio;

pub use blocking::Client;
pub use connect::{DEFAULT_SOCKET, Options, SOCKET_VARIABLE, default_socket};
pub use protocol::ask::{self, Ask};
pub use protocol::error::{Error, Refused};
pub use protocol::payment::{Eip1559, Payment, SignedPayment, Standing};
pub use protocol::replies::{Governance, Key, LoginSignature, News, Simulation, Status, UserCode};

pub use crate::core::key::{Algorithm, Purpose, State};
pub use crate::core::proof::RequestId;
pub use crate::core::units::{Address, Name, U256};
pub use crate::refusal::{Code, Retry};
