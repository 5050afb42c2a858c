use super::*;
use ed25519_dalek::Signer;
use proptest::prelude::*;

const NAMESPACE: &str = "clavigerd-approval@v1";

/// Made with OpenSSH 9.2, `ssh-keygen -Y sign -n clavigerd-approval@v1 -f KEY text`.
macro_rules! made {
    ($file:literal) => {
        include_str!(concat!("../../../tests/vectors/sshsig/", $file))
    };
}

pub(in crate::core::approval) const TEXT: &[u8] = include_bytes!("../../../tests/vectors/sshsig/text");

// [clause 8.5.4-a] test
#[test]
fn what_ssh_keygen_signs_verifies_and_nothing_else_does() {
    for (key, signature) in [(made!("alice.pub"), made!("alice.sig")), (made!("bob.pub"), made!("bob.sig"))] {
        let key = SshKey::parse(key).unwrap();
        let signed = verify(signature, NAMESPACE, TEXT).unwrap();
        assert_eq!((&signed.key, signed.presence), (&key, None));
        assert!(key.fingerprint().starts_with("SHA256:") && !key.is_fido());
        assert_eq!(verify(signature, NAMESPACE, b"the text\r\n"), Err(SshSigError::Wrong));
        assert_eq!(verify(signature, NAMESPACE, b"the text"), Err(SshSigError::Wrong));
        assert!(matches!(verify(signature, "file", TEXT), Err(SshSigError::Namespace(n)) if n == NAMESPACE));
        assert!(matches!(verify(&signature[30..], NAMESPACE, TEXT), Err(SshSigError::Malformed(_))));
    }
    let sha256 = verify(made!("alice256.sig"), NAMESPACE, TEXT);
    assert_eq!(sha256, Err(SshSigError::Hash("sha256".into())));
    assert!(
        matches!(verify(made!("carol.sig"), NAMESPACE, TEXT), Err(SshSigError::Algorithm(a)) if a == "ssh-rsa")
    );
    assert!(matches!(SshKey::parse(made!("carol.pub")), Err(SshSigError::Algorithm(_))));
    assert!(SshKey::parse(&made!("alice.pub").replace("ssh-ed25519", "ssh-rsa")).is_err());
}

/// A stand-in for a FIDO key, which can say of itself whatever a test wants.
pub(in crate::core::approval) fn fido(flags: u8, counter: u32) -> (String, String) {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = secret.verifying_key().to_bytes();
    let name = b"sk-ssh-ed25519@openssh.com";
    let blob = [string(name), string(&public), string(b"ssh:")].concat();
    let signed = [
        MAGIC,
        &string(NAMESPACE.as_bytes()),
        &string(b""),
        &string(b"sha512"),
        &string(&Sha512::digest(TEXT)),
    ]
    .concat();
    let bound = [
        Sha256::digest(b"ssh:").as_slice(),
        &[flags],
        &counter.to_be_bytes(),
        Sha256::digest(&signed).as_slice(),
    ]
    .concat();
    let made = secret.sign(&bound).to_bytes();
    let body = [string(name), string(&made), vec![flags], counter.to_be_bytes().to_vec()].concat();
    let all = [
        MAGIC.to_vec(),
        1u32.to_be_bytes().to_vec(),
        string(&blob),
        string(NAMESPACE.as_bytes()),
        string(b""),
        string(b"sha512"),
        string(&body),
    ]
    .concat();
    let armoured =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", STANDARD.encode(all));
    (format!("sk-ssh-ed25519@openssh.com {}", STANDARD.encode(&blob)), armoured)
}

// [clause 8.5.4-a] test
#[test]
fn an_authenticators_flags_and_counter_are_told_as_they_are() {
    for (flags, touched, verified) in [(0, false, false), (1, true, false), (4, false, true), (5, true, true)]
    {
        let (line, armoured) = fido(flags, 9);
        let key = SshKey::parse(&line).unwrap();
        let signed = verify(&armoured, NAMESPACE, TEXT).unwrap();
        assert!(key.is_fido() && signed.key == key);
        assert_eq!(signed.presence, Some(Presence { touched, verified, counter: 9 }));
    }
    // The flags are signed: turning one on afterwards is found.
    let (_, armoured) = fido(0, 9);
    let mut bytes = unarmoured(&armoured).unwrap();
    let at = bytes.len() - 5;
    bytes[at] = 5;
    let forged =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", STANDARD.encode(&bytes));
    assert_eq!(verify(&forged, NAMESPACE, TEXT), Err(SshSigError::Wrong));
}

proptest! {
    #[test]
    fn any_bytes_neither_panic_nor_verify(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", STANDARD.encode(&bytes));
        prop_assert!(verify(&text, NAMESPACE, TEXT).is_err());
        let with_head = [b"SSHSIG\0\0\0\x01".as_slice(), &bytes].concat();
        let text = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", STANDARD.encode(&with_head));
        prop_assert!(verify(&text, NAMESPACE, TEXT).is_err());
    }

    #[test]
    fn a_signature_with_one_byte_changed_does_not_verify(at in 0usize..400, change in 1u8..) {
        for made in [made!("alice.sig"), made!("bob.sig"), fido(5, 1).1.as_str()] {
            let mut bytes = unarmoured(made).unwrap();
            let length = bytes.len();
            bytes[at % length] ^= change;
            let text = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", STANDARD.encode(&bytes));
            prop_assert!(verify(&text, NAMESPACE, TEXT).is_err());
        }
    }
}

/// A key in a file, made from a seed; its line and its signature over a text.
pub(in crate::core::approval) fn signed(seed: u8, namespace: &str, text: &[u8]) -> (String, String) {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let name = b"ssh-ed25519";
    let blob = [string(name), string(&secret.verifying_key().to_bytes())].concat();
    let about = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
    let bytes = [MAGIC, &about, &string(&Sha512::digest(text))].concat();
    let body = [string(name), string(&secret.sign(&bytes).to_bytes())].concat();
    let all = [MAGIC, &1u32.to_be_bytes(), &string(&blob), &about, &string(&body)].concat();
    let armoured =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", STANDARD.encode(all));
    (format!("ssh-ed25519 {}", STANDARD.encode(&blob)), armoured)
}
