use efi::{Guid, Variable};

use crate::{
    Digest, Pcr, ReplayError,
    event_log::{Event, EventType},
    replay::extensions,
};

/// What PCR 7 becomes at the next boot: the last boot's log with the current
/// content of the variables that are measured into it.
///
/// A record that cannot be understood, and a variable that this system does not
/// know, count as unchanged. So with unchanged variables the prediction is the
/// replay of the log, whatever firmware wrote it.
#[derive(Debug, Clone)]
pub struct Prediction {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Fixed(Digest),
    Variable { variable: Variable, logged: Digest },
}

impl Prediction {
    /// Keeps what is needed of a log.
    pub fn of(events: &[Event<'_>]) -> Result<Self, ReplayError> {
        let steps = extensions(events, Pcr::SECURE_BOOT)
            .map(|extension| {
                let (logged, event) = extension?;
                Ok(match measured_variable(event) {
                    Some(variable) => Step::Variable { variable, logged },
                    None => Step::Fixed(logged),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// PCR 7 with the variables' content as `current` gives it: empty for one
    /// that is absent, `None` for one that cannot be read.
    pub fn value(&self, mut current: impl FnMut(Variable) -> Option<Vec<u8>>) -> Digest {
        self.steps.iter().fold(Digest::ZERO, |value, step| {
            value.extended(match *step {
                Step::Fixed(digest) => digest,
                Step::Variable { variable, logged } => {
                    current(variable).map_or(logged, |data| Digest::of(&encode(variable, &data)))
                }
            })
        })
    }
}

/// The known variable that a record measured, if its data is what was measured.
fn measured_variable(event: &Event<'_>) -> Option<Variable> {
    if event.kind != EventType::VARIABLE_DRIVER_CONFIG || event.data_is_genuine() != Some(true) {
        return None;
    }
    let (vendor, rest) = event.data.split_first_chunk::<16>()?;
    let (name_length, rest) = rest.split_first_chunk::<8>()?;
    let (data_length, rest) = rest.split_first_chunk::<8>()?;
    let name_size = usize::try_from(u64::from_le_bytes(*name_length)).ok()?.checked_mul(2)?;
    let data_size = usize::try_from(u64::from_le_bytes(*data_length)).ok()?;
    let (name, data) = rest.split_at_checked(name_size)?;
    if data.len() != data_size {
        return None;
    }
    let units: Vec<u16> = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let variable = Variable::find(&String::from_utf16(&units).ok()?, Guid::from_bytes(*vendor))?;
    // Re-encoding must be able to reproduce the record.
    (encode(variable, data) == event.data).then_some(variable)
}

/// `UEFI_VARIABLE_DATA`.
fn encode(variable: Variable, data: &[u8]) -> Vec<u8> {
    let name: Vec<u16> = variable.name().encode_utf16().collect();
    let mut bytes = variable.vendor().as_bytes().to_vec();
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event_log::{parse, tests::LogBuilder},
        replay,
    };

    const CONFIG: EventType = EventType::VARIABLE_DRIVER_CONFIG;

    fn boot(db: &[u8]) -> LogBuilder {
        LogBuilder::new()
            .measured(7, CONFIG, &encode(Variable::SecureBoot, &[1]))
            .measured(7, CONFIG, &encode(Variable::Db, db))
            .measured(7, CONFIG, &encode(Variable::Dbx, &[]))
            .measured(7, EventType::SEPARATOR, &[0; 4])
            .measured(7, EventType::VARIABLE_AUTHORITY, &encode(Variable::Db, b"who signed"))
    }

    fn current(db: &[u8]) -> impl Fn(Variable) -> Option<Vec<u8>> {
        move |variable| match variable {
            Variable::SecureBoot => Some(vec![1]),
            Variable::Db => Some(db.to_vec()),
            _ => Some(Vec::new()),
        }
    }

    #[test]
    fn unchanged_variables_give_the_value_of_the_log() {
        let log = boot(b"one");
        let events = parse(&log.0).unwrap();
        let prediction = Prediction::of(&events).unwrap();
        let logged = replay(&events, Pcr::SECURE_BOOT).unwrap();
        assert_eq!(prediction.value(current(b"one")), logged);
        assert_eq!(prediction.value(|_| None), logged);
    }

    #[test]
    fn a_changed_variable_gives_the_value_of_the_next_boot() {
        let prediction = Prediction::of(&parse(&boot(b"one").0).unwrap()).unwrap();
        let next = replay(&parse(&boot(b"one and two").0).unwrap(), Pcr::SECURE_BOOT).unwrap();
        assert_eq!(prediction.value(current(b"one and two")), next);
    }

    #[test]
    fn what_is_not_understood_counts_as_unchanged() {
        let unknown = [&[9; 16][..], &1u64.to_le_bytes(), &0u64.to_le_bytes(), b"x\0"].concat();
        let endless = [&[9; 16][..], &u64::MAX.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
        let prolonged = [encode(Variable::Db, b"one"), vec![0]].concat();
        let log = LogBuilder::new()
            .measured(7, CONFIG, &unknown)
            .measured(7, CONFIG, &endless)
            .measured(7, CONFIG, &prolonged)
            .measured(7, CONFIG, b"short")
            .event(7, CONFIG, Digest::of(b"something else"), &encode(Variable::Db, b"forged"));
        let events = parse(&log.0).unwrap();
        let value = Prediction::of(&events).unwrap().value(current(b"two"));
        assert_eq!(value, replay(&events, Pcr::SECURE_BOOT).unwrap());
    }
}
