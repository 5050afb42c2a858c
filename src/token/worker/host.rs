//! The worker's side: one token, one login, one thread and one session for each socket.
//!
//! Ends with its daemon, keeps nothing, opens no file of ours, and may neither start programs nor look into others.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use super::Place;
use super::message::{Answer, Control, Lane, Reply, Request};
use crate::secret::{Pin, SecretBytes};
use crate::sys;
use crate::token::audit::Handover;
use crate::token::profile::Profile;
use crate::token::{Description, Token, TokenError, pkcs11, yubihsm};

/// The argument that makes a program of ours a worker; the numbers of the passed sockets follow it.
pub(super) const ARGUMENT: &str = "--token-worker";

/// Called first in `main`: does a worker's work when this process was started as one.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next()? != ARGUMENT {
        return None;
    }
    let descriptors: Vec<i32> = words.next()?.split(',').filter_map(|n| n.parse().ok()).collect();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    Some(run(&descriptors))
}

/// Serves on the sockets that were passed; the first is for the worker's life. Returns when the other side goes.
fn run(descriptors: &[i32]) -> ExitCode {
    if let Err(e) = sys::harden_process().and_then(|()| sys::die_with_parent()) {
        tracing::error!("the token's worker could not be hardened: {e}");
        return ExitCode::FAILURE;
    }
    let mut lanes = descriptors
        .iter()
        .filter_map(|fd| sys::adopt_descriptor(*fd))
        .map(|fd| Lane::new(UnixStream::from(fd)));
    let Some(control) = lanes.next() else { return ExitCode::from(2) };
    match live(control, lanes.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::debug!("the token's worker ends: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What is hosted here.
enum Hosted {
    Pkcs11(pkcs11::Module, Box<pkcs11::Connection>),
    Yubihsm(yubihsm::Connection),
}

/// Opens sessions on the threads of the sockets.
enum Opener {
    Pkcs11(pkcs11::Opener),
    Yubihsm(yubihsm::Opener),
}

impl Opener {
    fn session(&self) -> Result<Box<dyn Token>, TokenError> {
        Ok(match self {
            Self::Pkcs11(opener) => Box::new(opener.session()?),
            Self::Yubihsm(opener) => opener.session(),
        })
    }
}

impl Hosted {
    fn open(
        place: Place,
        profile: Profile,
        pin: &Pin,
        handover: Handover,
        before_login: pkcs11::BeforeLogin<'_>,
    ) -> Result<Self, TokenError> {
        Ok(match place {
            Place::Pkcs11(place) => {
                let module = pkcs11::Module::load(place, profile)?;
                let connection = Box::new(module.connect(pin, before_login)?);
                Self::Pkcs11(module, connection)
            }
            // A YubiHSM counts no tries, and a password is not sent to it: both sides prove that they know it.
            Place::Yubihsm(place) => {
                Self::Yubihsm(yubihsm::Connection::open(&place, profile, pin, handover)?)
            }
        })
    }

    fn description(&self) -> &Description {
        match self {
            Self::Pkcs11(_, connection) => connection.description(),
            Self::Yubihsm(connection) => connection.description(),
        }
    }

    fn opener(&self) -> Opener {
        match self {
            Self::Pkcs11(_, connection) => Opener::Pkcs11(connection.opener()),
            Self::Yubihsm(connection) => Opener::Yubihsm(connection.opener()),
        }
    }

    fn alive(&self) -> Result<(), TokenError> {
        match self {
            Self::Pkcs11(_, connection) => connection.alive(),
            Self::Yubihsm(connection) => connection.alive(),
        }
    }

    /// The sessions of the other threads are the module's, or the device's, to close.
    fn close(self) {
        match self {
            Self::Pkcs11(module, connection) => {
                drop(connection);
                module.finalize();
            }
            Self::Yubihsm(connection) => connection.close(),
        }
    }
}

fn live(mut control: Lane, lanes: Vec<Lane>) -> std::io::Result<()> {
    let Some(Control::Start { profile, place, handover }) = control.receive(None)? else { return Ok(()) };
    let pin = control.receive_pin()?;
    let network = profile.network;
    let opened =
        Pin::from_bytes(&pin).ok_or_else(|| TokenError::Locked("the PIN is empty".into())).and_then(|pin| {
            drop(
                super::confine::confine(network)
                    .inspect_err(|e| tracing::warn!("the worker is not confined: {e}")),
            );
            // A death after this may have cost a try of the PIN. Who cannot be told of it, for him nothing is tried.
            Hosted::open(place, *profile, &pin, handover, &mut || {
                let told = control.send(&Answer::Ok(Reply::LoggingIn));
                told.map_err(|e| TokenError::Gone(format!("the daemon is not there: {e}")))
            })
        });
    drop(pin);
    let hosted = match opened {
        Ok(hosted) => hosted,
        Err(e) => return control.send(&Answer::Err(e)),
    };
    control.send(&Answer::Ok(Reply::Description(hosted.description().clone())))?;
    for mut lane in lanes {
        let opener = hosted.opener();
        std::thread::Builder::new().name("session".into()).spawn(move || serve(&mut lane, &opener))?;
    }
    attend(&mut control, &hosted)?;
    hosted.close();
    Ok(())
}

/// Answers for the life of the token until told to go, or until nobody asks any more.
fn attend(control: &mut Lane, hosted: &Hosted) -> std::io::Result<()> {
    loop {
        match control.receive(None)? {
            Some(Control::Alive) => control.send(&hosted.alive().map(|()| Reply::Done))?,
            Some(Control::Close | Control::Start { .. }) | None => return Ok(()),
        }
    }
}

fn serve(lane: &mut Lane, opener: &Opener) {
    let mut session: Option<Box<dyn Token>> = None;
    while let Ok(Some(request)) = lane.receive::<Request>(None) {
        let answer = match &mut session {
            Some(session) => answer(session.as_mut(), request),
            None => match opener.session() {
                Ok(new) => answer(session.insert(new).as_mut(), request),
                Err(e) => Err(e),
            },
        };
        if lane.send(&answer).is_err() {
            return;
        }
    }
}

fn answer(token: &mut dyn Token, request: Request) -> Answer {
    let public = |key: crate::core::key::PublicKey| (key.algorithm(), key.as_bytes().to_vec());
    Ok(match request {
        Request::Describe => Reply::Description(token.describe()?),
        Request::Generate(spec) => Reply::Public(Some(public(token.generate(&spec)?))),
        Request::Find(reference) => Reply::Public(token.find(reference)?.map(public)),
        Request::Sign { reference, algorithm, to_sign } => {
            Reply::Bytes(token.sign(reference, algorithm, &to_sign)?.to_vec().into())
        }
        Request::Encrypt { reference, nonce, aad, plain } => {
            Reply::Bytes(token.encrypt(reference, nonce, &aad, &plain)?.into())
        }
        Request::Decrypt { reference, nonce, aad, sealed } => {
            Reply::Bytes(token.decrypt(reference, nonce, &aad, &sealed)?)
        }
        Request::Mac { reference, data } => Reply::Bytes(token.mac(reference, &data)?.to_vec().into()),
        Request::Data(label) => Reply::Data(token.data(&label)?),
        Request::KeepData { label, bytes, beside } => {
            token.keep_data(&label, &bytes, &beside)?;
            Reply::Done
        }
        Request::Destroy(reference) => {
            token.destroy(reference)?;
            Reply::Done
        }
        Request::Random(length) => {
            let mut bytes = vec![0; length.min(1 << 16)];
            token.random(&mut bytes)?;
            Reply::Bytes(bytes.into())
        }
        Request::Inventory(only) => Reply::Objects(token.inventory(only.as_deref())?),
        Request::Past(reference) => Reply::Past(token.past(reference)?),
        Request::Import { spec, private } => {
            let (public, past) = token.import(&spec, &SecretBytes::copy_of(&private))?;
            Reply::Imported { algorithm: public.algorithm(), public: public.as_bytes().to_vec(), past }
        }
        Request::Backup(ask) => Reply::Backup(token.backup(&ask)?),
        Request::Health => {
            token.health()?;
            Reply::Done
        }
        Request::Audit => Reply::Audit(token.audit()?),
        Request::Check => Reply::Rows(token.check()?),
    })
}
