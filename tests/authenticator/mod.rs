//! A FIDO2 authenticator in software: an sk- key for OpenSSH, and a credential for raw assertions. It says of touch, PIN and
//! counter whatever a test wants, and shares no code with what checks it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on; not every test uses all of this"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use sha2::{Digest, Sha256, Sha512};

pub const RP: &str = "claviger.test";

pub struct Authenticator {
    ssh: ed25519_dalek::SigningKey,
    credential: p256::ecdsa::SigningKey,
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

const NAME: &[u8] = b"sk-ssh-ed25519@openssh.com";

impl Authenticator {
    pub fn new(seed: u8) -> Self {
        Self {
            ssh: ed25519_dalek::SigningKey::from_bytes(&[seed; 32]),
            credential: p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
        }
    }

    fn blob(&self) -> Vec<u8> {
        [string(NAME), string(self.ssh.verifying_key().as_bytes()), string(b"ssh:")].concat()
    }

    /// The line of its `.pub` file.
    pub fn line(&self) -> String {
        format!("{} {} test", String::from_utf8_lossy(NAME), STANDARD.encode(self.blob()))
    }

    /// The COSE key of its credential, hex.
    pub fn cose(&self) -> String {
        let point = self.credential.verifying_key().to_sec1_point(false);
        let point = point.as_bytes();
        let head = [0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20];
        hex::encode([&head[..], &point[1..33], &[0x22, 0x58, 0x20], &point[33..]].concat())
    }

    /// What `ssh-keygen -Y sign` would make with it.
    pub fn sshsig(&self, namespace: &str, text: &str, flags: u8, counter: u32) -> String {
        let about = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
        let signed = [b"SSHSIG".as_slice(), &about, &string(&Sha512::digest(text.as_bytes()))].concat();
        let bound = [
            Sha256::digest(b"ssh:").as_slice(),
            &[flags],
            &counter.to_be_bytes(),
            Sha256::digest(&signed).as_slice(),
        ]
        .concat();
        let body = [
            string(NAME),
            string(&self.ssh.sign(&bound).to_bytes()),
            vec![flags],
            counter.to_be_bytes().to_vec(),
        ]
        .concat();
        let all = [b"SSHSIG".as_slice(), &1u32.to_be_bytes(), &string(&self.blob()), &about, &string(&body)]
            .concat();
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", STANDARD.encode(all))
    }

    /// What `fido2-assert -G` would print for a client data hash.
    pub fn assertion(&self, client_data_hash: &str, flags: u8, counter: u32) -> String {
        let hash = hex::decode(client_data_hash).unwrap();
        let data = [Sha256::digest(RP).as_slice(), &[flags], &counter.to_be_bytes()].concat();
        let made: p256::ecdsa::Signature = self.credential.sign(&[data.as_slice(), &hash].concat());
        let wrapped = [&[0x58, u8::try_from(data.len()).unwrap()], data.as_slice()].concat();
        let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
        format!("{}\n{RP}\n{}\n{}\n", b64(&hash), b64(&wrapped), b64(made.to_der().as_bytes()))
    }
}
