//! Address books: in the policy itself, or in files that people of the authority document sign. [clause 8.7.1-m]
//!
//! A file is signed as it is, with `ssh-keygen -Y sign -n clavigerd-book@v1`; the signatures stand one after the other in a
//! file of the same name with `.sig` behind it. Its digest is part of the policy's: a changed book is a changed policy.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::super::units::{Address, Name, sha256};
use super::finding::{Fault, fault};
use crate::core::approval::sshsig::each_armoured;
use crate::core::approval::{Authority, Needs, Shown, judge};

/// SSHSIG namespace of a signed book.
pub const BOOK: &str = "clavigerd-book@v1";
/// Most signatures of one book.
const MOST_SIGNATURES: usize = 16;
/// Most entries of one book.
pub(super) const MOST_ENTRIES: usize = 10_000;
/// Longest book, bytes.
const MAX_TEXT: usize = 1024 * 1024;
/// Nobody asked for a book: no user id is told apart from its signers'.
const NOBODY: u32 = u32::MAX;

/// A book's file and the file beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BookFile {
    /// The file, as the policy names it.
    pub file: String,
    /// The book.
    pub text: String,
    /// Its signatures, armoured, one after the other.
    pub signatures: String,
}

/// What a policy text needs beside itself.
#[derive(Clone, Copy, Default)]
pub struct Sources<'a> {
    /// Files of books, by the name that the policy gives them; why not, for those that could not be read.
    pub files: Option<&'a BTreeMap<String, Result<BookFile, String>>>,
    /// The people who sign.
    pub authority: Option<&'a Authority>,
}

/// A book that was signed, as it came into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBook {
    /// Its name in the policy.
    pub name: Name,
    /// Its file.
    pub file: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// The version that it says.
    pub version: u64,
    /// How many entries.
    pub entries: usize,
    /// Whose signatures count.
    pub needs: Needs,
    /// Who signed.
    pub people: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBook {
    schema: u32,
    book: Name,
    deployment: String,
    version: u64,
    entries: BTreeMap<Name, Address>,
}

/// What a policy says of a book in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSigned {
    file: String,
    signed_by: RawNeeds,
    #[serde(default)]
    least_version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNeeds {
    quorum: u32,
    of: Name,
}

/// The files that a policy text names, so that they can be read before it. A text that is no policy names none.
#[must_use]
pub fn files_of(text: &str) -> Vec<String> {
    let Ok(table) = toml::from_str::<toml::Table>(text) else { return Vec::new() };
    let books = table.get("books").and_then(toml::Value::as_table);
    let file = |book: &toml::Value| {
        let book = book.as_table().filter(|b| b.contains_key("signed_by"))?;
        book.get("file").and_then(toml::Value::as_str).filter(|f| is_beside(f)).map(str::to_owned)
    };
    books.into_iter().flat_map(toml::Table::values).filter_map(file).collect()
}

/// A path below the policy's own directory, and nowhere else.
fn is_beside(file: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    file.len() <= 200
        && file.bytes().all(good)
        && file.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

type Entries = BTreeMap<Name, Address>;

/// Reads one `[books.…]`.
pub(super) fn read(
    name: &Name,
    raw: Spanned<BTreeMap<String, Spanned<toml::Value>>>,
    sources: &Sources<'_>,
) -> Result<(Entries, Option<SignedBook>), Fault> {
    let at = raw.span();
    let raw = raw.into_inner();
    if !raw.contains_key("signed_by") {
        return inline(at, raw).map(|entries| (entries, None));
    }
    let place = raw.get("signed_by").map_or(at, Spanned::span);
    let table: toml::Table = raw.into_iter().map(|(k, v)| (k, v.into_inner())).collect();
    let shape = "write [books.NAME] with file = \"NAME.book\" and signed_by = { quorum = 2, of = \"GROUP\" }";
    let signed: RawSigned =
        table.try_into().map_err(|e: toml::de::Error| fault(place.clone(), e.message().to_owned(), shape))?;
    let (entries, book) =
        verified(name, signed, sources).map_err(|(why, advice)| fault(place, why, advice))?;
    Ok((entries, Some(book)))
}

fn inline(at: Range<usize>, raw: BTreeMap<String, Spanned<toml::Value>>) -> Result<Entries, Fault> {
    if raw.len() > MOST_ENTRIES {
        return Err(fault(at, format!("it has more than {MOST_ENTRIES} entries"), "split it"));
    }
    let mut entries = Entries::new();
    for (name, value) in raw {
        let place = value.span();
        let text = value.into_inner();
        let Some(name_read) = Name::parse(&name) else {
            let advice = "use 1 to 64 of A-Z a-z 0-9 . _ -";
            return Err(fault(place, format!("{name:?} is no name"), advice));
        };
        let address = text.as_str().and_then(Address::parse);
        let Some(address) = address else {
            let (why, advice) = if name == "file" {
                (
                    "a book in a file must be signed".to_owned(),
                    "add signed_by = { quorum = 1, of = \"GROUP\" }",
                )
            } else {
                let why = format!("{name} = {text} is no address");
                (why, "write \"0x\" and 40 hex digits, with a right EIP-55 checksum or in one case")
            };
            return Err(fault(place, why, advice));
        };
        entries.insert(name_read, address);
    }
    Ok(entries)
}

type Because = (String, String);

fn because(why: impl Into<String>, advice: impl Into<String>) -> Because {
    (why.into(), advice.into())
}

/// The book that enough people signed.
// [clause 8.7.1-m] a signed book counts only with the signatures of its quorum, for this deployment and under its own name
fn verified(name: &Name, raw: RawSigned, sources: &Sources<'_>) -> Result<(Entries, SignedBook), Because> {
    let file = raw.file;
    if !is_beside(&file) {
        let advice = "write a path below the policy's directory, without .. and of A-Z a-z 0-9 . _ - /";
        return Err(because(format!("file = {file:?} is not taken"), advice));
    }
    let quorum = raw.signed_by.quorum;
    let needs = Needs { quorum, of: raw.signed_by.of.to_string() };
    if quorum == 0 || usize::try_from(quorum).is_ok_and(|q| q > MOST_SIGNATURES) {
        let why = format!("signed_by.quorum = {quorum} must be 1 to {MOST_SIGNATURES}");
        return Err(because(why, "say how many people must sign"));
    }
    let Some(authority) = sources.authority else {
        let advice = "set authority_file in clavigerd.toml, or name the document with --authority";
        return Err(because("without an authority document nobody can sign a book", advice));
    };
    let strength = authority.strength(&needs.of);
    if usize::try_from(quorum).is_ok_and(|q| strength < q) {
        let why = format!(
            "it asks for {quorum} of {}, and the authority document names {strength} with a key that counts",
            needs.of
        );
        return Err(because(why, "lower the quorum, name another group, or enrol people"));
    }
    let read = match sources.files.and_then(|files| files.get(&file)) {
        Some(Ok(read)) => read,
        Some(Err(why)) => {
            let advice = format!("put the book there, and its signatures in {file}.sig");
            return Err(because(format!("{file} cannot be read: {why}"), advice));
        }
        None => return Err(because(format!("{file} was not read"), "put it beside the policy")),
    };
    if read.text.len() > MAX_TEXT {
        return Err(because(format!("{file} is longer than {MAX_TEXT} bytes"), "split it"));
    }
    let shape = "it holds schema = 1, book, deployment, version and [entries]";
    let book: RawBook = toml::from_str(&read.text).map_err(|e| because(format!("{file}: {e}"), shape))?;
    let sign = format!("sign it with ssh-keygen -Y sign -n {BOOK} -f KEY {file}");
    if book.schema != 1 {
        return Err(because(format!("{file} has schema {}", book.schema), "this program reads schema 1"));
    }
    if book.book != *name {
        let advice = "a book is used under the name that was signed";
        return Err(because(format!("{file} is the book {}", book.book), advice));
    }
    if book.deployment != authority.deployment {
        let why =
            format!("{file} is for deployment {:?}, and this is {:?}", book.deployment, authority.deployment);
        return Err(because(why, "have it signed for this deployment"));
    }
    if book.version < raw.least_version {
        let why = format!("{file} has version {}, and {} is the least", book.version, raw.least_version);
        return Err(because(why, "an older book was put back: bring the newer one"));
    }
    if book.entries.len() > MOST_ENTRIES {
        return Err(because(format!("{file} has more than {MOST_ENTRIES} entries"), "split it"));
    }
    let shown = Shown { text: read.text.clone(), needs };
    let mut people = BTreeSet::new();
    for (at, armoured) in each_armoured(&read.signatures).enumerate() {
        if at >= MOST_SIGNATURES {
            return Err(because(format!("{file}.sig has more than {MOST_SIGNATURES} signatures"), sign));
        }
        // One that does not count is no noise to be skipped: somebody put it there.
        let voice = judge(authority, &shown, NOBODY, BOOK, armoured, |_| None).map_err(|r| {
            because(format!("signature {} of {file}.sig: {}", at + 1, r.sentence), sign.clone())
        })?;
        people.insert(voice.person);
    }
    if usize::try_from(quorum).map_or(true, |q| people.len() < q) {
        let who: Vec<&str> = people.iter().map(String::as_str).collect();
        let who = if who.is_empty() { "nobody".to_owned() } else { who.join(", ") };
        let why = format!("{file} must be signed by {quorum} of {}; {who} signed it", shown.needs.of);
        return Err(because(
            why,
            format!("{sign}, and put the signatures one after the other into {file}.sig"),
        ));
    }
    let signed = SignedBook {
        name: name.clone(),
        digest: sha256(read.text.as_bytes()),
        version: book.version,
        entries: book.entries.len(),
        needs: shown.needs,
        people,
        file,
    };
    Ok((book.entries, signed))
}

/// The digest of a policy: of its text alone, or of the text and every signed book.
pub(super) fn digest(text: &str, books: &[SignedBook]) -> [u8; 32] {
    if books.is_empty() {
        return sha256(text.as_bytes());
    }
    let mut all = b"clavigerd policy with books v1\n".to_vec();
    all.extend(sha256(text.as_bytes()));
    for book in books {
        all.extend(sha256(book.name.as_str().as_bytes()));
        all.extend(book.digest);
    }
    sha256(&all)
}
