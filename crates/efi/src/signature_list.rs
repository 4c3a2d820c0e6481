//! `EFI_SIGNATURE_LIST`: the content of `PK`, `KEK`, `db` and `dbx`.

use crate::Guid;

/// Largest list header and largest list that are believed.
const SIZE_LIMIT: usize = 1 << 20;

/// Bytes before the type-specific header: type, list size, header size, entry size.
const FIXED: usize = 28;

/// What one entry of a list identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A DER certificate.
    X509,
    /// Hash of a certificate's to-be-signed part, with a time of revocation.
    CertificateHash,
    /// Hash of a program.
    ImageHash,
    /// A type that this system has no use for.
    Other(Guid),
}

/// One entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// What it identifies.
    pub kind: Kind,
    /// Who put it there.
    pub owner: Guid,
    /// The certificate or the hash.
    pub data: &'a [u8],
}

/// Why bytes are no sequence of signature lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// A list or one of its headers reaches beyond the end.
    #[error("the signature list at offset {offset} is cut off")]
    CutOff {
        /// Where the list starts.
        offset: usize,
    },
    /// A size field is beyond every plausible limit, or too small for the structure it covers.
    #[error("the signature list at offset {offset} has an impossible size")]
    Size {
        /// Where the list starts.
        offset: usize,
    },
    /// The entries do not fill the list.
    #[error("the entries of the signature list at offset {offset} do not fill it")]
    Uneven {
        /// Where the list starts.
        offset: usize,
    },
}

/// Every entry of the lists in `bytes`, in order. Fewer bytes than one header
/// hold no list.
pub fn parse(bytes: &[u8]) -> Result<Vec<Signature<'_>>, ListError> {
    let mut signatures = Vec::new();
    if bytes.len() < FIXED {
        return Ok(signatures);
    }
    let mut offset = 0;
    while offset < bytes.len() {
        offset += list(&bytes[offset..], offset, &mut signatures)?;
    }
    Ok(signatures)
}

/// Parses the list that `bytes` start with and returns its size.
fn list<'a>(bytes: &'a [u8], offset: usize, signatures: &mut Vec<Signature<'a>>) -> Result<usize, ListError> {
    let cut_off = ListError::CutOff { offset };
    let (kind, rest) = bytes.split_first_chunk::<16>().ok_or(cut_off)?;
    let (list_size, rest) = size(rest).ok_or(cut_off)?;
    let (header_size, rest) = size(rest).ok_or(cut_off)?;
    let (entry_size, _) = size(rest).ok_or(cut_off)?;
    if list_size > SIZE_LIMIT || header_size > SIZE_LIMIT || list_size < FIXED + header_size {
        return Err(ListError::Size { offset });
    }
    let entries = bytes.get(FIXED + header_size..list_size).ok_or(cut_off)?;
    if entries.is_empty() {
        return Ok(list_size);
    }
    // Every entry starts with its owner.
    if entry_size <= 16 {
        return Err(ListError::Size { offset });
    }
    if entries.len() % entry_size != 0 {
        return Err(ListError::Uneven { offset });
    }
    let kind = kind_of(Guid::from_bytes(*kind));
    for entry in entries.chunks_exact(entry_size) {
        let (owner, data) = entry.split_first_chunk::<16>().ok_or(cut_off)?;
        signatures.push(Signature { kind, owner: Guid::from_bytes(*owner), data });
    }
    Ok(list_size)
}

fn size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*size)).ok()?, rest))
}

/// Type of the entries that hold a certificate.
pub const X509: Guid = Guid::new(0xa5c059a1, 0x94e4, 0x4aa7, 0x87b5, 0xab155c2bf072);

const CERTIFICATE_HASHES: [Guid; 3] = [
    Guid::new(0x3bd2a492, 0x96c0, 0x4079, 0xb420, 0xfcf98ef103ed), // SHA-256
    Guid::new(0x7076876e, 0x80c2, 0x4ee6, 0xaad2, 0x28b349a6865b), // SHA-384
    Guid::new(0x446dbf63, 0x2502, 0x4cda, 0xbcfa, 0x2465d2b0fe9d), // SHA-512
];

const IMAGE_HASHES: [Guid; 5] = [
    Guid::new(0x826ca512, 0xcf10, 0x4ac9, 0xb187, 0xbe01496631bd), // SHA-1
    Guid::new(0x0b6e5233, 0xa65c, 0x44c9, 0x9407, 0xd9ab83bfc8bd), // SHA-224
    Guid::new(0xc1c41626, 0x504c, 0x4092, 0xaca9, 0x41f936934328), // SHA-256
    Guid::new(0xff3e5307, 0x9fd0, 0x48c9, 0x85f1, 0x8ad56c701e01), // SHA-384
    Guid::new(0x093e0fae, 0xa6c4, 0x4f50, 0x9f1b, 0xd41e2b89c19a), // SHA-512
];

fn kind_of(guid: Guid) -> Kind {
    match guid {
        X509 => Kind::X509,
        hash if CERTIFICATE_HASHES.contains(&hash) => Kind::CertificateHash,
        hash if IMAGE_HASHES.contains(&hash) => Kind::ImageHash,
        other => Kind::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: Guid = Guid::new(0x433f8160, 0x9ab6, 0x4407, 0x8e38, 0x12d70e1d54e5);

    /// A list whose header fields are as given, whatever its content.
    fn raw(kind: Guid, list_size: u32, header_size: u32, entry_size: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = kind.as_bytes().to_vec();
        for size in [list_size, header_size, entry_size] {
            bytes.extend(size.to_le_bytes());
        }
        bytes.extend(rest);
        bytes
    }

    fn well_formed(kind: Guid, header: &[u8], entries: &[&[u8]]) -> Vec<u8> {
        let mut rest = header.to_vec();
        for entry in entries {
            rest.extend(OWNER.as_bytes());
            rest.extend(*entry);
        }
        let entry_size = entries.first().map_or(16, |entry| entry.len() + 16);
        let size = |n: usize| u32::try_from(n).unwrap();
        raw(kind, size(FIXED + rest.len()), size(header.len()), size(entry_size), &rest)
    }

    #[test]
    fn lists_of_every_type_are_read_in_order() {
        let bytes = [
            well_formed(X509, &[], &[b"certificate"]),
            well_formed(IMAGE_HASHES[2], &[], &[&[1; 32], &[2; 32]]),
            well_formed(CERTIFICATE_HASHES[0], b"header", &[&[3; 48]]),
            well_formed(OWNER, &[], &[b"?"]),
            well_formed(X509, &[], &[]),
        ]
        .concat();
        let read: Vec<_> = parse(&bytes).unwrap().into_iter().map(|s| (s.kind, s.owner, s.data.len())).collect();
        assert_eq!(
            read,
            [
                (Kind::X509, OWNER, 11),
                (Kind::ImageHash, OWNER, 32),
                (Kind::ImageHash, OWNER, 32),
                (Kind::CertificateHash, OWNER, 48),
                (Kind::Other(OWNER), OWNER, 1),
            ]
        );
    }

    #[test]
    fn fewer_bytes_than_a_header_hold_no_list() {
        for length in 0..FIXED {
            assert_eq!(parse(&vec![0xff; length]).unwrap(), []);
        }
    }

    #[test]
    fn broken_lists_are_refused_with_their_defect() {
        let (cut_off, size, uneven) =
            (ListError::CutOff { offset: 0 }, ListError::Size { offset: 0 }, ListError::Uneven { offset: 0 });
        let table: [(&str, Vec<u8>, ListError); 9] = [
            ("list beyond the end", raw(X509, 100, 0, 20, &[0; 20]), cut_off),
            ("list of size zero", raw(X509, 0, 0, 20, &[0; 20]), size),
            ("list smaller than its header", raw(X509, 27, 0, 20, &[0; 20]), size),
            ("list larger than the limit", raw(X509, u32::MAX, 0, 20, &[0; 20]), size),
            ("type-specific header beyond the list", raw(X509, 48, 21, 20, &[0; 20]), size),
            ("type-specific header beyond the limit", raw(X509, 48, u32::MAX, 20, &[0; 20]), size),
            ("entries without room for an owner", raw(X509, 48, 0, 10, &[0; 20]), size),
            ("entries without data", raw(X509, 44, 0, 16, &[0; 16]), size),
            ("entries that do not fill the list", raw(X509, 48, 0, 17, &[0; 20]), uneven),
        ];
        for (defect, bytes, error) in table {
            assert_eq!(parse(&bytes), Err(error), "{defect}");
        }
    }

    #[test]
    fn a_defect_is_reported_where_it_is() {
        let mut bytes = well_formed(X509, &[], &[b"certificate"]);
        let offset = bytes.len();
        bytes.extend([0; 5]);
        assert_eq!(parse(&bytes), Err(ListError::CutOff { offset }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_sizes_are_read_or_refused(list in 0u32..200, header in 0u32..200, entry in 0u32..200, rest in 0usize..200) {
            let bytes = raw(X509, list, header, entry, &vec![0; rest]);
            if let Ok(signatures) = parse(&bytes) {
                prop_assert!(signatures.iter().map(|s| s.data.len()).sum::<usize>() <= bytes.len());
            }
        }
    }
}
