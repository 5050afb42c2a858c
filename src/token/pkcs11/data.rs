//! Small data in a PKCS#11 token: private `CKO_DATA` objects, found by their label. Their value cannot be changed
//! everywhere, so that the new one is made before an old one is removed.
#![forbid(unsafe_code)]

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::super::TokenError;
use super::class;

/// `CKA_APPLICATION` of what is ours.
const APPLICATION: &[u8] = b"claviger";

fn each(session: &Session, label: &str) -> Result<Vec<(ObjectHandle, Vec<u8>)>, TokenError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let mut all = Vec::new();
    for handle in session.find_objects(&template).map_err(|e| class(&e))? {
        let told = session.get_attributes(handle, &[AttributeType::Value]).map_err(|e| class(&e))?;
        let value = told.into_iter().find_map(|a| if let Attribute::Value(v) = a { Some(v) } else { None });
        all.push((handle, value.unwrap_or_default()));
    }
    Ok(all)
}

pub(super) fn read(session: &Session, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
    Ok(each(session, label)?.into_iter().map(|(_, value)| value).collect())
}

pub(super) fn keep(writer: &Session, label: &str, bytes: &[u8], beside: &[u8]) -> Result<(), TokenError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Value(bytes.to_vec()),
    ];
    writer.create_object(&template).map_err(|e| class(&e))?;
    for (handle, value) in each(writer, label)? {
        if value != bytes && value != beside {
            writer.destroy_object(handle).map_err(|e| class(&e))?;
        }
    }
    Ok(())
}
