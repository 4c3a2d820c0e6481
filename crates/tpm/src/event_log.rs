//! The crypto-agile event log of the TCG PC Client Platform Firmware Profile:
//! a SHA-1 style record that names the digest algorithms, then one record per
//! measurement with a digest in each of them.

use crate::Digest;

/// Largest log that is worth reading. Real ones have some ten thousand bytes.
pub const SIZE_LIMIT: usize = 4 << 20;

/// `TPM_ALG_SHA256`.
const SHA256: u16 = 0x000b;

/// Largest digest of any algorithm.
const DIGEST_LIMIT: usize = 128;

/// Most algorithms that one log can use.
const ALGORITHM_LIMIT: usize = 16;

/// TCG event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventType(pub u32);

impl EventType {
    /// Information for the reader of the log; extends nothing.
    pub const NO_ACTION: Self = Self(0x0000_0003);
    /// Border between the firmware's and the operating system's measurements.
    pub const SEPARATOR: Self = Self(0x0000_0004);
    /// A measurement by the boot loader or the kernel's stub.
    pub const IPL: Self = Self(0x0000_000d);
    /// A variable that the firmware is configured with.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A program that the firmware started.
    pub const BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    /// Something that the firmware did, in words.
    pub const ACTION: Self = Self(0x8000_0007);
    /// The key that vouched for a program.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Number of the register. Records without effect may carry any number.
    pub pcr: u32,
    /// What happened.
    pub kind: EventType,
    /// SHA-256 digest; `None` when the record has none.
    pub sha256: Option<Digest>,
    /// What is known about it; its form depends on `kind`.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Whether the digest is that of the data, for the types where the profile
    /// says so; `None` for the others and for records without SHA-256 digest.
    pub fn data_is_genuine(&self) -> Option<bool> {
        // The separator of a firmware that failed carries an explanation instead.
        let is_plain_separator =
            self.kind == EventType::SEPARATOR && matches!(self.data, [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff]);
        let is_covered = is_plain_separator
            || matches!(
                self.kind,
                EventType::VARIABLE_DRIVER_CONFIG | EventType::VARIABLE_AUTHORITY | EventType::ACTION
            );
        if is_covered { self.sha256.map(|digest| digest == Digest::of(self.data)) } else { None }
    }
}

/// Why bytes are no event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The first record does not introduce a crypto-agile log.
    #[error("the event log does not start with a crypto-agile header")]
    NotCryptoAgile,
    /// It has more bytes than any firmware writes.
    #[error("the event log is larger than {SIZE_LIMIT} bytes")]
    TooLarge,
    /// A record reaches beyond the end.
    #[error("record {record} of the event log is cut off")]
    CutOff {
        /// Number of the record; the header is 0.
        record: usize,
    },
    /// The header names no algorithm, too many, one twice, or an impossible digest size.
    #[error("the header of the event log names impossible algorithms")]
    Algorithms,
    /// A record has a digest that the header does not announce, or one twice.
    #[error("record {record} of the event log has digest algorithm {algorithm:#06x}, which is not expected there")]
    Digest {
        /// Number of the record.
        record: usize,
        /// `TPM_ALG_ID`.
        algorithm: u16,
    },
}

/// Every record after the header, in order.
pub fn parse(bytes: &[u8]) -> Result<Vec<Event<'_>>, LogError> {
    if bytes.len() > SIZE_LIMIT {
        return Err(LogError::TooLarge);
    }
    let mut reader = Reader { rest: bytes, record: 0 };
    let algorithms = header(&mut reader)?;
    let mut events = Vec::new();
    while !reader.rest.is_empty() {
        reader.record += 1;
        match event(&mut reader, &algorithms)? {
            Some(event) => events.push(event),
            // Firmware may hand over its whole buffer: an empty record is its unused end.
            None => break,
        }
    }
    Ok(events)
}

/// Reads the first record and returns the algorithms with their digest sizes.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, LogError> {
    let _pcr = reader.u32()?;
    let kind = EventType(reader.u32()?);
    let _sha1 = reader.take(20)?;
    let size = reader.size()?;
    let mut data = Reader { rest: reader.take(size)?, record: 0 };
    if kind != EventType::NO_ACTION || data.take(16) != Ok(b"Spec ID Event03\0") {
        return Err(LogError::NotCryptoAgile);
    }
    // Platform class, version, errata, size of UINTN.
    data.take(8)?;
    let count = data.size()?;
    if count == 0 || count > ALGORITHM_LIMIT {
        return Err(LogError::Algorithms);
    }
    let mut algorithms: Vec<(u16, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (algorithm, size) = (data.u16()?, usize::from(data.u16()?));
        let is_known = algorithms.iter().any(|(known, _)| *known == algorithm);
        if is_known || size == 0 || size > DIGEST_LIMIT || (algorithm == SHA256 && size != 32) {
            return Err(LogError::Algorithms);
        }
        algorithms.push((algorithm, size));
    }
    // Vendor information may follow; it means nothing to anybody else.
    Ok(algorithms)
}

fn event<'a>(reader: &mut Reader<'a>, algorithms: &[(u16, usize)]) -> Result<Option<Event<'a>>, LogError> {
    let pcr = reader.u32()?;
    let kind = EventType(reader.u32()?);
    let count = reader.size()?;
    let mut seen: Vec<u16> = Vec::new();
    let mut sha256 = None;
    for _ in 0..count {
        let algorithm = reader.u16()?;
        // Each algorithm at most once bounds the loop, whatever the count says.
        let size = algorithms.iter().find(|(known, _)| *known == algorithm).map(|(_, size)| *size);
        let (Some(size), false) = (size, seen.contains(&algorithm)) else {
            return Err(LogError::Digest { record: reader.record, algorithm });
        };
        seen.push(algorithm);
        let digest = reader.take(size)?;
        if algorithm == SHA256 {
            sha256 = digest.try_into().ok().map(Digest);
        }
    }
    let size = reader.size()?;
    let data = reader.take(size)?;
    let is_padding = pcr == 0 && kind.0 == 0 && count == 0 && size == 0;
    Ok((!is_padding).then_some(Event { pcr, kind, sha256, data }))
}

struct Reader<'a> {
    rest: &'a [u8],
    record: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], LogError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(LogError::CutOff { record: self.record })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LogError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(LogError::CutOff { record: self.record })?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, LogError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, LogError> {
        self.array().map(u32::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, LogError> {
        // Where it does not fit, it is beyond the end as well.
        Ok(usize::try_from(self.u32()?).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA1: u16 = 0x0004;

    /// A log as firmware writes it, record by record.
    pub(crate) struct LogBuilder(pub(crate) Vec<u8>);

    impl LogBuilder {
        pub(crate) fn new() -> Self {
            Self::with_algorithms(&[(SHA1, 20), (SHA256, 32)])
        }

        pub(crate) fn with_algorithms(algorithms: &[(u16, u16)]) -> Self {
            let mut data = b"Spec ID Event03\0".to_vec();
            data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
            data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
            for (algorithm, size) in algorithms {
                data.extend(algorithm.to_le_bytes());
                data.extend(size.to_le_bytes());
            }
            data.push(0);
            Self::with_header(3, &data)
        }

        pub(crate) fn with_header(kind: u32, data: &[u8]) -> Self {
            let mut bytes = vec![0; 4];
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 20]);
            bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            bytes.extend(data);
            Self(bytes)
        }

        pub(crate) fn event(mut self, pcr: u32, kind: EventType, digest: Digest, data: &[u8]) -> Self {
            self.0.extend(pcr.to_le_bytes());
            self.0.extend(kind.0.to_le_bytes());
            self.0.extend(2u32.to_le_bytes());
            self.0.extend(SHA1.to_le_bytes());
            self.0.extend([7; 20]);
            self.0.extend(SHA256.to_le_bytes());
            self.0.extend(digest.0);
            self.0.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            self.0.extend(data);
            self
        }

        /// An event whose digest is that of its data.
        pub(crate) fn measured(self, pcr: u32, kind: EventType, data: &[u8]) -> Self {
            self.event(pcr, kind, Digest::of(data), data)
        }

        pub(crate) fn raw(mut self, words: &[u32]) -> Self {
            self.0.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            self
        }
    }

    #[test]
    fn records_are_read_in_order_with_their_sha256_digest() {
        let log = LogBuilder::new()
            .measured(7, EventType::SEPARATOR, &[0; 4])
            .event(0, EventType::NO_ACTION, Digest::ZERO, b"note")
            .raw(&[4, EventType::IPL.0, 0, 0]);
        let expected = [
            Event { pcr: 7, kind: EventType::SEPARATOR, sha256: Some(Digest::of(&[0; 4])), data: &[0; 4] },
            Event { pcr: 0, kind: EventType::NO_ACTION, sha256: Some(Digest::ZERO), data: b"note" },
            Event { pcr: 4, kind: EventType::IPL, sha256: None, data: b"" },
        ];
        assert_eq!(parse(&log.0).unwrap(), expected);
    }

    #[test]
    fn the_unused_end_of_the_firmware_s_buffer_is_no_record() {
        let log = LogBuilder::new().measured(7, EventType::SEPARATOR, &[0; 4]).raw(&[0; 40]);
        assert_eq!(parse(&log.0).unwrap().len(), 1);
    }

    #[test]
    fn every_truncation_is_noticed_or_ends_between_records() {
        let log = LogBuilder::new().measured(7, EventType::SEPARATOR, &[0; 4]).measured(4, EventType::ACTION, b"go").0;
        let header = LogBuilder::new().0.len();
        let first = LogBuilder::new().measured(7, EventType::SEPARATOR, &[0; 4]).0.len();
        for length in 0..log.len() {
            let is_border = length == header || length == first;
            assert_eq!(parse(&log[..length]).is_ok(), is_border, "{length} bytes");
        }
    }

    #[test]
    fn broken_logs_are_refused_with_their_defect() {
        let too_many: Vec<_> = (0..17).map(|algorithm| (algorithm, 20)).collect();
        let one = || LogBuilder::new().0;
        let table: [(&str, Vec<u8>, LogError); 13] = [
            ("nothing", vec![], LogError::CutOff { record: 0 }),
            ("header of another type", LogBuilder::with_header(4, b"Spec ID Event03\0").0, LogError::NotCryptoAgile),
            ("SHA-1 log", LogBuilder::with_header(3, b"Spec ID Event00\0").0, LogError::NotCryptoAgile),
            ("header without signature", LogBuilder::with_header(3, b"Spec").0, LogError::NotCryptoAgile),
            ("no algorithm", LogBuilder::with_algorithms(&[]).0, LogError::Algorithms),
            ("too many algorithms", LogBuilder::with_algorithms(&too_many).0, LogError::Algorithms),
            ("one algorithm twice", LogBuilder::with_algorithms(&[(4, 20), (4, 20)]).0, LogError::Algorithms),
            ("short SHA-256", LogBuilder::with_algorithms(&[(SHA256, 20)]).0, LogError::Algorithms),
            ("digests without bytes", LogBuilder::with_algorithms(&[(4, 0)]).0, LogError::Algorithms),
            ("huge digests", LogBuilder::with_algorithms(&[(0x77, 0xffff)]).0, LogError::Algorithms),
            (
                "unannounced algorithm",
                LogBuilder(one()).raw(&[7, 4, 1, 0x000c]).0,
                LogError::Digest { record: 1, algorithm: 0x000c },
            ),
            ("endless digests", LogBuilder(one()).raw(&[7, 4, u32::MAX]).0, LogError::CutOff { record: 1 }),
            ("endless data", LogBuilder(one()).raw(&[7, 4, 0, u32::MAX]).0, LogError::CutOff { record: 1 }),
        ];
        for (defect, bytes, error) in table {
            assert_eq!(parse(&bytes), Err(error), "{defect}");
        }
        assert_eq!(parse(&vec![0; SIZE_LIMIT + 1]), Err(LogError::TooLarge));
    }

    #[test]
    fn a_digest_that_comes_twice_is_refused() {
        let mut log = LogBuilder::new().measured(7, EventType::SEPARATOR, &[0; 4]).0;
        let second = LogBuilder::new().0.len() + 12 + 2 + 20;
        log[second..second + 2].copy_from_slice(&SHA1.to_le_bytes());
        assert_eq!(parse(&log), Err(LogError::Digest { record: 1, algorithm: SHA1 }));
    }

    #[test]
    fn forged_data_is_told_from_genuine_data() {
        let log = LogBuilder::new()
            .measured(7, EventType::VARIABLE_DRIVER_CONFIG, b"data")
            .event(7, EventType::VARIABLE_DRIVER_CONFIG, Digest::of(b"data"), b"other")
            .measured(7, EventType::SEPARATOR, &[0; 4])
            .event(7, EventType::SEPARATOR, Digest::of(&[1, 0, 0, 0]), b"it failed")
            .event(4, EventType::BOOT_SERVICES_APPLICATION, Digest::of(b"image"), b"path");
        let verdicts: Vec<_> = parse(&log.0).unwrap().iter().map(Event::data_is_genuine).collect();
        assert_eq!(verdicts, [Some(true), Some(false), Some(true), None, None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_bytes_after_a_header_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let log = [LogBuilder::new().0, bytes].concat();
            let _ = parse(&log).map(|events| crate::Prediction::of(&events).map(|p| p.value(|_| Some(Vec::new()))));
        }

        #[test]
        fn a_flipped_byte_is_read_or_refused(position in 0usize..200, value: u8) {
            let mut log = LogBuilder::new().measured(7, EventType::SEPARATOR, &[0; 4]).measured(4, EventType::ACTION, b"go").0;
            let position = position % log.len();
            log[position] = value;
            let _ = parse(&log);
        }
    }
}
