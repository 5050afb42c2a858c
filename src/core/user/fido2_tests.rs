use super::*;
use ed25519_dalek::Signer as _;
use proptest::prelude::*;

/// An authenticator in software, which says of itself whatever a test wants.
struct Virtual {
    ed: ed25519_dalek::SigningKey,
    ec: p256::ecdsa::SigningKey,
}

const RP: &str = "claviger.test";
const REQUEST: RequestId = RequestId(42);
const DIGEST: Digest = [9; 32];
const AAGUID: &str = "ee882879-721c-4913-9775-3dfcce97072a";

impl Virtual {
    fn new() -> Self {
        Self {
            ed: ed25519_dalek::SigningKey::from_bytes(&[7; 32]),
            ec: p256::ecdsa::SigningKey::from_slice(&[8; 32]).unwrap(),
        }
    }

    fn credentials(&self) -> Vec<Credential> {
        let point = self.ec.verifying_key().to_sec1_point(false);
        let ec = [ES256, &point.as_bytes()[1..33], ES256_Y, &point.as_bytes()[33..]].concat();
        let ed = [EDDSA, self.ed.verifying_key().as_bytes()].concat();
        [ec, ed].map(|cose| Credential::read(RP, &hex::encode(cose), AAGUID).unwrap()).into()
    }

    fn asserts(&self, elliptic: bool, rp: &str, hash: [u8; 32], flags: u8, counter: u32) -> String {
        let data = [sha256(rp.as_bytes()).as_slice(), &[flags], &counter.to_be_bytes()].concat();
        let signed = [data.as_slice(), &hash].concat();
        let signature = if elliptic {
            let made: p256::ecdsa::Signature = self.ec.sign(&signed);
            made.to_der().as_bytes().to_vec()
        } else {
            self.ed.sign(&signed).to_bytes().to_vec()
        };
        let wrapped = [&[0x58, u8::try_from(data.len()).unwrap()], data.as_slice()].concat();
        let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
        format!("{}\n{rp}\n{}\n{}\n", b64(&hash), b64(&wrapped), b64(&signature))
    }
}

// [clause 8.2.3-h] test
#[test]
fn an_assertion_counts_for_its_payment_its_request_and_its_user_alone() {
    let device = Virtual::new();
    let credentials = device.credentials();
    let hash = client_data_hash(&DIGEST, REQUEST);
    let checked = |text: &str| verify(text, &DIGEST, REQUEST, &credentials);
    for elliptic in [true, false] {
        let told = checked(&device.asserts(elliptic, RP, hash, 5, 17)).unwrap();
        assert_eq!(told.counter, 17);
        let wanted = &credentials[usize::from(!elliptic)];
        assert_eq!(told.fingerprint, wanted.fingerprint());
        assert_eq!(wanted.aaguid, AAGUID.replace('-', ""));
        let made = |flags| device.asserts(elliptic, RP, hash, flags, 17);
        assert!(matches!(checked(&made(4)), Err(AssertionError::Presence(_))), "no touch");
        assert!(
            matches!(checked(&made(1)), Err(AssertionError::Presence(_))),
            "nobody was asked who they are"
        );
        let other = client_data_hash(&[8; 32], REQUEST);
        assert_eq!(checked(&device.asserts(elliptic, RP, other, 5, 1)), Err(AssertionError::Other));
        let later = client_data_hash(&DIGEST, RequestId(43));
        assert_eq!(checked(&device.asserts(elliptic, RP, later, 5, 1)), Err(AssertionError::Other));
        let elsewhere = device.asserts(elliptic, "evil.test", hash, 5, 1);
        assert_eq!(checked(&elsewhere), Err(AssertionError::Wrong), "another relying party");
        assert_eq!(verify(&made(5), &DIGEST, REQUEST, &[]), Err(AssertionError::Wrong), "nobody's");
        // The hash in the file may be made to fit; what was signed was another.
        let forged = device.asserts(elliptic, RP, other, 5, 1);
        let forged = forged.replacen(&STANDARD.encode(other), &STANDARD.encode(hash), 1);
        assert_eq!(checked(&forged), Err(AssertionError::Wrong));
        // Flags are signed: one that is turned on afterwards is found.
        let mut lines: Vec<String> = made(1).lines().map(str::to_owned).collect();
        let mut data = STANDARD.decode(&lines[2]).unwrap();
        data[2 + 32] = 5;
        lines[2] = STANDARD.encode(&data);
        assert_eq!(checked(&lines.join("\n")), Err(AssertionError::Wrong));
    }
}

// [clause 8.2.3-h] test
#[test]
fn a_counter_that_does_not_rise_comes_from_a_copy() {
    assert!(rises(None, 0) && rises(None, 9) && rises(Some(0), 0) && rises(Some(0), 1) && rises(Some(8), 9));
    assert!(!rises(Some(9), 9) && !rises(Some(9), 8));
    assert!(!rises(Some(9), 0), "one that counted does not stop counting");
}

#[test]
fn credentials_of_another_form_are_refused() {
    let good = [EDDSA, Virtual::new().ed.verifying_key().as_bytes()].concat();
    for (rp, public, aaguid) in [
        ("", hex::encode(&good), AAGUID),
        (RP, "zz".into(), AAGUID),
        (RP, hex::encode(&good[..41]), AAGUID),
        (RP, hex::encode([good.as_slice(), &[0]].concat()), AAGUID),
        (RP, hex::encode([ES256, &[1; 32], ES256_Y, &[1; 32]].concat()), AAGUID),
        (RP, hex::encode([EDDSA, &[0; 32]].concat()), AAGUID),
        (RP, hex::encode(&good), "ee88"),
    ] {
        assert!(Credential::read(rp, &public, aaguid).is_err(), "{rp} {public} {aaguid}");
    }
}

proptest! {
    #[test]
    fn any_text_neither_panics_nor_verifies(text in ".{0,400}", data in proptest::collection::vec(any::<u8>(), 0..100)) {
        let credentials = Virtual::new().credentials();
        prop_assert!(verify(&text, &DIGEST, REQUEST, &credentials).is_err());
        let hash = STANDARD.encode(client_data_hash(&DIGEST, REQUEST));
        let text = format!("{hash}\n{RP}\n{}\n{}\n", STANDARD.encode(&data), STANDARD.encode(&data));
        prop_assert!(verify(&text, &DIGEST, REQUEST, &credentials).is_err());
    }

    #[test]
    fn one_byte_changed_does_not_verify(at in 0usize..300, change in 1u8..) {
        let device = Virtual::new();
        let credentials = device.credentials();
        let made = device.asserts(true, RP, client_data_hash(&DIGEST, REQUEST), 5, 1);
        let mut lines: Vec<Vec<u8>> = [0, 2, 3].iter().map(|n| STANDARD.decode(made.lines().nth(*n).unwrap()).unwrap()).collect();
        let length: usize = lines.iter().map(Vec::len).sum();
        let mut at = at % length;
        for line in &mut lines {
            if at < line.len() {
                line[at] ^= change;
                break;
            }
            at -= line.len();
        }
        let b64 = |n: usize| STANDARD.encode(&lines[n]);
        let text = format!("{}\n{RP}\n{}\n{}\n", b64(0), b64(1), b64(2));
        prop_assert!(verify(&text, &DIGEST, REQUEST, &credentials).is_err());
    }
}
