use crate::{
    Digest, Pcr,
    event_log::{Event, EventType},
};

/// Why the value of a register does not follow from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A measurement has no SHA-256 digest.
    #[error("record {record} of the event log extends {pcr} without a SHA-256 digest")]
    NoSha256 {
        /// Number of the record; the header is 0.
        record: usize,
        /// The register.
        pcr: Pcr,
    },
}

/// The value that a register has after everything in the log was measured.
pub fn replay(events: &[Event<'_>], pcr: Pcr) -> Result<Digest, ReplayError> {
    let mut value = if pcr == Pcr::FIRMWARE { start_value(events) } else { Digest::ZERO };
    for digest in extensions(events, pcr) {
        value = value.extended(digest?.0);
    }
    Ok(value)
}

/// What a register is extended with: digest and record, in order.
pub(crate) fn extensions<'a, 'b>(
    events: &'b [Event<'a>],
    pcr: Pcr,
) -> impl Iterator<Item = Result<(Digest, &'b Event<'a>), ReplayError>> {
    events
        .iter()
        .enumerate()
        .filter(move |(_, event)| event.pcr == u32::from(pcr.index()) && event.kind != EventType::NO_ACTION)
        .map(move |(position, event)| {
            let digest = event.sha256.ok_or(ReplayError::NoSha256 { record: position + 1, pcr })?;
            Ok((digest, event))
        })
}

/// PCR 0 starts with the locality that the TPM was started from.
fn start_value(events: &[Event<'_>]) -> Digest {
    let mut value = Digest::ZERO;
    let announced = events.iter().find_map(|event| match (event.pcr, event.kind, event.data) {
        (0, EventType::NO_ACTION, [text @ .., locality]) if text == b"StartupLocality\0" => Some(*locality),
        _ => None,
    });
    value.0[31] = announced.unwrap_or(0);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_log::{parse, tests::LogBuilder};

    #[test]
    fn a_register_is_the_chain_of_its_own_measurements() {
        let log = LogBuilder::new().measured(7, EventType::ACTION, b"a").measured(4, EventType::ACTION, b"b").measured(
            7,
            EventType::SEPARATOR,
            &[0; 4],
        );
        let events = parse(&log.0).unwrap();
        let expected = Digest::ZERO.extended(Digest::of(b"a")).extended(Digest::of(&[0; 4]));
        assert_eq!(replay(&events, Pcr::SECURE_BOOT), Ok(expected));
        assert_eq!(replay(&events, Pcr::VOLUME), Ok(Digest::ZERO));
    }

    #[test]
    fn extending_matches_a_published_value() {
        // What every register holds into which only the separator was measured.
        let log = LogBuilder::new().measured(1, EventType::SEPARATOR, &[0; 4]);
        let value = replay(&parse(&log.0).unwrap(), Pcr::new(1).unwrap()).unwrap();
        assert_eq!(value.to_string(), "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969");
    }

    #[test]
    fn records_without_action_extend_nothing() {
        let log = LogBuilder::new().measured(7, EventType::NO_ACTION, b"a note");
        assert_eq!(replay(&parse(&log.0).unwrap(), Pcr::SECURE_BOOT), Ok(Digest::ZERO));
    }

    #[test]
    fn the_start_locality_is_the_first_value_of_pcr_0_only() {
        let log = LogBuilder::new().event(0, EventType::NO_ACTION, Digest::ZERO, b"StartupLocality\0\x03").measured(
            0,
            EventType::SEPARATOR,
            &[0; 4],
        );
        let events = parse(&log.0).unwrap();
        let mut start = Digest::ZERO;
        start.0[31] = 3;
        assert_eq!(replay(&events, Pcr::FIRMWARE), Ok(start.extended(Digest::of(&[0; 4]))));
        assert_eq!(replay(&events, Pcr::SECURE_BOOT), Ok(Digest::ZERO));
    }

    #[test]
    fn a_measurement_without_sha256_is_an_error() {
        let log = LogBuilder::new().raw(&[7, EventType::IPL.0, 0, 0]);
        let error = ReplayError::NoSha256 { record: 1, pcr: Pcr::SECURE_BOOT };
        assert_eq!(replay(&parse(&log.0).unwrap(), Pcr::SECURE_BOOT), Err(error));
    }
}
