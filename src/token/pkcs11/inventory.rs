//! What is in a PKCS#11 token, and what it says of keys that it did not make for us.
#![forbid(unsafe_code)]

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::super::{MOST_OBJECTS, Object, Past, TokenError, Use};
use super::class;
use crate::core::key::Algorithm;

pub(super) fn inventory(session: &Session, only: Option<&str>) -> Result<Vec<Object>, TokenError> {
    let label = only.map(|label| Attribute::Label(label.as_bytes().to_vec()));
    let wanted: Vec<Attribute> = label.into_iter().chain([Attribute::Token(true)]).collect();
    let found = session.find_objects(&wanted).map_err(|e| class(&e))?;
    if found.len() > MOST_OBJECTS {
        return Err(TokenError::Unsupported(format!(
            "the token holds {} objects; an inventory reads {MOST_OBJECTS}",
            found.len()
        )));
    }
    let wanted = [AttributeType::Class, AttributeType::Id, AttributeType::Label];
    let mut objects = Vec::with_capacity(found.len());
    for handle in found {
        let told = session.get_attributes(handle, &wanted).map_err(|e| class(&e))?;
        let mut object = Object { kind: "unknown".into(), id: String::new(), label: String::new() };
        for attribute in told {
            match attribute {
                Attribute::Class(kind) => {
                    object.kind = match kind {
                        ObjectClass::PRIVATE_KEY => "private".into(),
                        ObjectClass::PUBLIC_KEY => "public".into(),
                        ObjectClass::SECRET_KEY => "secret".into(),
                        other => other.to_string(),
                    }
                }
                Attribute::Id(id) => object.id = hex::encode(id),
                Attribute::Label(label) => {
                    object.label = String::from_utf8_lossy(&label).chars().take(64).collect();
                }
                _ => {}
            }
        }
        objects.push(object);
    }
    Ok(objects)
}

/// An attribute that is absent proves nothing.
pub(super) fn past(session: &Session, key: ObjectHandle, algorithm: Algorithm) -> Result<Past, Error> {
    let wanted = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
        AttributeType::Local,
        AttributeType::Modifiable,
        AttributeType::Sign,
        AttributeType::Decrypt,
        AttributeType::Encrypt,
        AttributeType::Unwrap,
        AttributeType::Wrap,
        AttributeType::Derive,
    ];
    let told = session.get_attributes(key, &wanted)?;
    let is = |a: Attribute| told.contains(&a);
    let used = Use::of(algorithm);
    let uses = [
        ("signs", is(Attribute::Sign(true)), matches!(used, Use::Sign | Use::Mac)),
        ("encrypts", is(Attribute::Encrypt(true)), used == Use::Encrypt),
        ("decrypts", is(Attribute::Decrypt(true)), used == Use::Encrypt),
        ("wraps", is(Attribute::Wrap(true)), used == Use::Wrap),
        ("unwraps", is(Attribute::Unwrap(true)), used == Use::Wrap),
        ("derives", is(Attribute::Derive(true)), false),
    ];
    Ok(Past {
        sensitive: is(Attribute::Sensitive(true)),
        kept: is(Attribute::Extractable(false)),
        always_sensitive: is(Attribute::AlwaysSensitive(true)),
        never_extractable: is(Attribute::NeverExtractable(true)),
        local: is(Attribute::Local(true)),
        fixed: is(Attribute::Modifiable(false)),
        other_uses: uses
            .into_iter()
            .filter(|(_, can, may)| *can && !may)
            .map(|(what, ..)| what.to_owned())
            .collect(),
        narrowed: Vec::new(),
    })
}

/// Takes other uses away, one by one; what the token does not let go of is seen afterwards.
pub(super) fn narrow(writer: &Session, key: ObjectHandle, past: &Past) {
    for what in &past.other_uses {
        let off = match what.as_str() {
            "signs" => Attribute::Sign(false),
            "encrypts" => Attribute::Encrypt(false),
            "decrypts" => Attribute::Decrypt(false),
            "wraps" => Attribute::Wrap(false),
            "unwraps" => Attribute::Unwrap(false),
            _ => Attribute::Derive(false),
        };
        if let Err(e) = writer.update_attributes(key, &[off]) {
            tracing::debug!("a key that {what} goes on so: {e}");
        }
    }
}
