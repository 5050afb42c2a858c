//! BIP-39 words to a seed, and a seed to a key (BIP-32).
#![forbid(unsafe_code)]

use bip32::{DerivationPath, XPrv};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;

/// The English list of BIP-39 (bitcoin/bips, MIT): 2048 words in their order, one a line.
pub(super) const ENGLISH: &str = include_str!("english.txt");
/// Rounds of PBKDF2 (BIP-39).
const ROUNDS: u32 = 2048;
/// Longest way down from the seed that is taken.
const DEEPEST: usize = 10;

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::ImportMnemonic, why)
}

/// The words in their one form: lower case, one space between them.
// [clause 8.7.1-o] a word that is not in the list, and a checksum that does not fit, are told apart and never guessed at
fn checked(words: &str) -> Result<Zeroizing<String>, Refusal> {
    let list: Vec<&str> = ENGLISH.lines().collect();
    let count = words.split_whitespace().count();
    if !matches!(count, 12 | 15 | 18 | 21 | 24) {
        return Err(wrong(format!("{count} words are no mnemonic: it has 12, 15, 18, 21 or 24")));
    }
    let mut form = Zeroizing::new(String::with_capacity(count * 9));
    let mut bits = Zeroizing::new(Vec::with_capacity(24 * 11));
    for (n, word) in words.split_whitespace().enumerate() {
        let mut word = Zeroizing::new(word.to_owned());
        word.make_ascii_lowercase();
        let place = list
            .binary_search(&word.as_str())
            .map_err(|_| wrong(format!("word {} of {count} is not in the English list of BIP-39", n + 1)))?;
        bits.extend((0..11).rev().map(|bit| u8::from(place >> bit & 1 == 1)));
        if n > 0 {
            form.push(' ');
        }
        form.push_str(&word);
    }
    // One bit of checksum for each 32 of entropy.
    let mut bytes = Zeroizing::new(Vec::with_capacity(33));
    bytes.extend(bits.chunks_exact(8).map(|byte| byte.iter().fold(0u8, |all, bit| all << 1 | bit)));
    let (entropy, check) = (count * 4 / 3, count / 3);
    let hash = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(bytes.get(..entropy).unwrap_or_default())));
    let said = bits.iter().skip(entropy * 8);
    let fits = said.clone().count() == check
        && said.enumerate().all(|(n, bit)| hash.first().is_some_and(|byte| byte >> (7 - n) & 1 == *bit));
    if !fits {
        return Err(wrong(
            "the checksum does not fit: a word is another one of the list, or the order is wrong",
        ));
    }
    Ok(form)
}

/// PBKDF2 with HMAC-SHA512, 2048 rounds.
pub(super) fn seed(words: &str, passphrase: &str) -> Result<SecretBytes<64>, Refusal> {
    let words = checked(words)?;
    // BIP-39 wants NFKD, which changes nothing in ASCII; two spellings of one letter would be two wallets.
    if !passphrase.is_ascii() {
        return Err(wrong(
            "the passphrase holds letters outside of ASCII, of which there is more than one spelling: import the private key itself",
        ));
    }
    let mut salt = Zeroizing::new(String::with_capacity(8 + passphrase.len()));
    salt.push_str("mnemonic");
    salt.push_str(passphrase);
    SecretBytes::fill(|out| {
        pbkdf2::pbkdf2_hmac::<Sha512>(words.as_bytes(), salt.as_bytes(), ROUNDS, out);
        Ok(())
    })
}

/// The key at the end of a path such as `m/44'/60'/0'/0/0`.
pub(super) fn derive(seed: &SecretBytes<64>, path: &str) -> Result<SecretBytes<32>, Refusal> {
    let bad = |why: String| Refusal::new(Code::ImportPath, why);
    let shown: String = path.chars().take(64).collect();
    let way: DerivationPath = path.parse().map_err(|_| {
        bad(format!("{shown:?} is no path: m, then numbers below 2^31, hardened with ', each after a /"))
    })?;
    if !(1..=DEEPEST).contains(&way.len()) {
        return Err(bad(format!("{shown:?} goes {} steps down; 1 to {DEEPEST} are taken", way.len())));
    }
    let key = XPrv::derive_from_path(seed.expose(), &way)
        .map_err(|_| bad(format!("there is no key at {shown:?} for this seed: take the next one")))?;
    let bytes = Zeroizing::new(key.to_bytes());
    Ok(SecretBytes::copy_of(&bytes))
}
