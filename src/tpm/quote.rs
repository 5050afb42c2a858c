//! A signing key that lives in the TPM and signs only what the TPM itself says: PCRs, with a digest that is handed in.
#![forbid(unsafe_code)]

use super::TpmError;
use super::commands::{Auth, CREATE_PRIMARY, NO_ALGORITHM, OWNER, SHA256, Tpm, name, odd, owner_password};
use super::wire::{Reader, Writer};

const QUOTE: u32 = 0x158;
const PCR_READ: u32 = 0x17e;

/// What the TPM signed.
pub struct Quoted {
    /// The key: a point of P-256, uncompressed.
    pub key: Vec<u8>,
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The PCRs that were asked for.
    pub pcrs: Vec<Vec<u8>>,
}

impl Tpm {
    /// Quotes PCRs. The key is the same each time, until the TPM is cleared: restricted, so that it signs nothing that
    /// was made outside of the TPM.
    pub fn quote(
        &mut self,
        qualifying: &[u8; 32],
        selection: &[u8; 10],
        count: u32,
    ) -> Result<Quoted, TpmError> {
        // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
        let template = Writer::new().u16(0x0023).u16(SHA256).u32(0x0005_0472).sized(&[]);
        let template = template.u16(NO_ALGORITHM).u16(0x0018).u16(SHA256).u16(0x0003).u16(NO_ALGORITHM);
        // A label of its own: not the storage root key's neighbour by accident.
        let asked = Writer::new().raw(template.bytes()).sized(b"claviger quote x").sized(&[]);
        let parameters = Writer::new().sized(&[0; 4]).sized(asked.bytes()).sized(&[]).u32(0);
        let answer = self
            .run("CreatePrimary", CREATE_PRIMARY, &[(OWNER, &[])], Auth::Empty, parameters, true)
            .map_err(owner_password)?;
        let public = answer.read().sized().ok_or_else(odd)?;
        let mut point = Reader::new(
            public.strip_prefix(template.bytes()).ok_or(TpmError::Tampered("its key is another"))?,
        );
        let (x, y) = (point.sized().ok_or_else(odd)?, point.sized().ok_or_else(odd)?);
        let padded = |part: &[u8]| [vec![0; 32usize.saturating_sub(part.len())], part.to_vec()].concat();
        let key = [vec![4], padded(x), padded(y)].concat();
        let (handle, named) = (answer.handle, name(public));
        // PCRs may be extended between the two commands: the verifier finds that, and one asks again.
        let pcrs = self.read_pcrs(selection, count)?;
        let parameters = Writer::new().sized(qualifying).u16(NO_ALGORITHM).raw(selection);
        let answer = self.run("Quote", QUOTE, &[(handle, &named)], Auth::Empty, parameters, false)?;
        let mut reader = answer.read();
        let attest = reader.sized().ok_or_else(odd)?.to_vec();
        Ok(Quoted { key, attest, signature: reader.rest().to_vec(), pcrs })
    }

    fn read_pcrs(&mut self, selection: &[u8; 10], count: u32) -> Result<Vec<Vec<u8>>, TpmError> {
        let answer = self.run("PCR_Read", PCR_READ, &[], Auth::None, Writer::new().raw(selection), false)?;
        let mut reader = answer.read();
        let mut read = || {
            reader.u32()?;
            (reader.raw(selection.len())? == selection && reader.u32()? == count).then_some(())?;
            (0..count).map(|_| reader.sized().map(<[u8]>::to_vec)).collect::<Option<Vec<_>>>()
        };
        read().ok_or(TpmError::Bank)
    }
}
