//! What the TPM holds, what the firmware says it measured, and whether the two
//! agree. One task reads; everybody else looks at its last result.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tpm::{Digest, Pcr, Prediction, event_log, replay};

use crate::{
    machine::{Machine, TpmReading},
    volumes::Unlock,
};

/// Age from which a reading of the TPM is renewed when somebody looks at it.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// How long a request waits for the first reading. A TPM that needs longer counts
/// as unavailable until it has answered.
const FIRST_READING: Duration = Duration::from_secs(5);

/// How long the start waits for it, which has to know.
const START_READING: Duration = Duration::from_secs(60);

/// One look at the TPM and its event log.
#[derive(Debug, Clone)]
pub(crate) struct Measurements {
    /// What stands behind the kernel's TPM device.
    pub(crate) kind: TpmKind,
    /// What the TPM holds; `None` when it does not answer.
    pub(crate) reading: Option<Arc<TpmReading>>,
    /// What the log gives; `None` when there is no usable one.
    pub(crate) log: Option<Arc<Replayed>>,
    taken: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TpmKind {
    Absent,
    Software,
    Hardware,
}

/// What follows from the event log.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) loader: Digest,
    pub(crate) secure_boot: Digest,
    pub(crate) prediction: Prediction,
    /// Records whose data is not what was measured.
    pub(crate) forged: usize,
}

/// `tpm_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TpmStatus {
    Good,
    Mismatch,
    Software,
    Unavailable,
}

impl TpmStatus {
    /// The words of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Mismatch => "pcr mismatch",
            Self::Software => "swtpm",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Measurements {
    /// Before the first look.
    fn unknown() -> Self {
        Self { kind: TpmKind::Absent, reading: None, log: None, taken: Instant::now() }
    }

    /// Whether the TPM will release the keys of the volumes at the next boot.
    /// `predicted` is PCR 7 with the current firmware variables. PCR 4 counts
    /// only where Secure Boot does not vouch for what is started.
    pub(crate) fn status(&self, secure_boot: bool, predicted: Option<Digest>) -> TpmStatus {
        match self.kind {
            TpmKind::Absent => return TpmStatus::Unavailable,
            TpmKind::Software => return TpmStatus::Software,
            TpmKind::Hardware => {}
        }
        let (Some(reading), Some(log), Some(predicted)) = (&self.reading, &self.log, predicted) else {
            return TpmStatus::Unavailable;
        };
        let holds = |pcr: Pcr, value: Digest| reading.registers.get(&pcr) == Some(&value);
        let is_good = holds(Pcr::SECURE_BOOT, log.secure_boot)
            && holds(Pcr::SECURE_BOOT, predicted)
            && (secure_boot || holds(Pcr::LOADER, log.loader));
        if is_good { TpmStatus::Good } else { TpmStatus::Mismatch }
    }
}

/// Where the results of an [`Observer`] are seen.
#[derive(Debug)]
pub(crate) struct Observations {
    measurements: watch::Receiver<Option<Measurements>>,
    unlock: watch::Receiver<Option<Unlock>>,
    renew: Arc<Notify>,
}

impl Observations {
    /// The last look at the TPM. An old one is renewed for the next time.
    pub(crate) async fn measurements(&self) -> Measurements {
        let last = first(&self.measurements, FIRST_READING).await.unwrap_or_else(Measurements::unknown);
        if last.taken.elapsed() > RENEW_AFTER {
            self.renew.notify_one();
        }
        last
    }

    /// Waits longer than a request does.
    pub(crate) async fn at_start(&self) {
        first(&self.measurements, START_READING).await;
    }

    /// What the journal says about how the root volume was opened.
    pub(crate) async fn unlock(&self) -> Unlock {
        first(&self.unlock, FIRST_READING).await.unwrap_or(Unlock::Unknown)
    }
}

async fn first<T: Clone>(results: &watch::Receiver<Option<T>>, patience: Duration) -> Option<T> {
    let mut results = results.clone();
    timeout(patience, results.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
}

/// Looks at the TPM: once at first, then whenever a look is asked for.
#[derive(Debug)]
pub(crate) struct Observer {
    machine: Arc<Machine>,
    measurements: watch::Sender<Option<Measurements>>,
    unlock: watch::Sender<Option<Unlock>>,
    renew: Arc<Notify>,
}

impl Observer {
    pub(crate) fn new(machine: Arc<Machine>) -> (Self, Observations) {
        let (measurements, seen_measurements) = watch::channel(None);
        let (unlock, seen_unlock) = watch::channel(None);
        let renew = Arc::new(Notify::new());
        let observations =
            Observations { measurements: seen_measurements, unlock: seen_unlock, renew: Arc::clone(&renew) };
        (Self { machine, measurements, unlock, renew }, observations)
    }

    /// Never returns.
    pub(crate) async fn observe(self) -> Infallible {
        let (never, ()) = tokio::join!(self.observe_tpm(), self.observe_unlock());
        never
    }

    async fn observe_tpm(&self) -> Infallible {
        let mut log = None;
        loop {
            let (machine, known) = (Arc::clone(&self.machine), log.clone());
            match tokio::task::spawn_blocking(move || look(&machine, known)).await {
                Ok(measurements) => {
                    log.clone_from(&measurements.log);
                    self.measurements.send_replace(Some(measurements));
                }
                Err(error) => tracing::error!("reading the TPM was broken off: {error}"),
            }
            self.renew.notified().await;
        }
    }

    async fn observe_unlock(&self) {
        let found = match self.machine.unlock_log().await {
            Ok(log) => Unlock::from_log(&log),
            Err(error) => {
                tracing::warn!("the journal does not tell how the root volume was opened: {}", causes::chain(&error));
                Unlock::Unknown
            }
        };
        self.unlock.send_replace(Some(found));
    }
}

/// Reads the TPM, and the event log unless it is known.
fn look(machine: &Machine, known: Option<Arc<Replayed>>) -> Measurements {
    let taken = Instant::now();
    if !machine.has_tpm() {
        return Measurements { kind: TpmKind::Absent, reading: None, log: None, taken };
    }
    let kind = if machine.tpm_is_software() { TpmKind::Software } else { TpmKind::Hardware };
    let reading =
        machine.tpm().read().inspect_err(|error| tracing::error!("{}", causes::chain(error))).ok().map(Arc::new);
    let log = known.or_else(|| match kind {
        TpmKind::Hardware => replayed(machine).inspect_err(|reason| tracing::error!("{reason}")).ok().map(Arc::new),
        _ => None,
    });
    Measurements { kind, reading, log, taken }
}

fn replayed(machine: &Machine) -> Result<Replayed, String> {
    let bytes = machine.read_event_log().map_err(|error| format!("cannot read the firmware's event log: {error}"))?;
    let events = event_log::parse(&bytes).map_err(|error| error.to_string())?;
    let value = |pcr| replay(&events, pcr).map_err(|error| error.to_string());
    Ok(Replayed {
        loader: value(Pcr::LOADER)?,
        secure_boot: value(Pcr::SECURE_BOOT)?,
        prediction: Prediction::of(&events).map_err(|error| error.to_string())?,
        forged: events.iter().filter(|event| event.data_is_genuine() == Some(false)).count(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tpm::Identity;

    use super::*;

    const FOUR: Digest = Digest([4; 32]);
    const SEVEN: Digest = Digest([7; 32]);
    const OTHER: Digest = Digest([9; 32]);

    fn measurements(pcr4: Digest, pcr7: Digest) -> Measurements {
        let identity = Identity { family: "2.0".into(), manufacturer: "IBM".into(), firmware: "1.2.3.4".into() };
        let registers = BTreeMap::from([(Pcr::LOADER, pcr4), (Pcr::SECURE_BOOT, pcr7)]);
        let prediction = Prediction::of(&[]).unwrap();
        Measurements {
            kind: TpmKind::Hardware,
            reading: Some(Arc::new(TpmReading { identity, registers })),
            log: Some(Arc::new(Replayed { loader: FOUR, secure_boot: SEVEN, prediction, forged: 0 })),
            taken: Instant::now(),
        }
    }

    #[test]
    fn agreement_of_tpm_log_and_variables_is_good() {
        assert_eq!(measurements(FOUR, SEVEN).status(true, Some(SEVEN)), TpmStatus::Good);
        assert_eq!(measurements(FOUR, SEVEN).status(false, Some(SEVEN)), TpmStatus::Good);
    }

    #[test]
    fn any_disagreement_about_pcr_7_is_a_mismatch() {
        assert_eq!(measurements(FOUR, OTHER).status(true, Some(SEVEN)), TpmStatus::Mismatch);
        assert_eq!(measurements(FOUR, OTHER).status(true, Some(OTHER)), TpmStatus::Mismatch);
        assert_eq!(measurements(FOUR, SEVEN).status(true, Some(OTHER)), TpmStatus::Mismatch);
    }

    #[test]
    fn pcr_4_counts_only_without_secure_boot() {
        assert_eq!(measurements(OTHER, SEVEN).status(true, Some(SEVEN)), TpmStatus::Good);
        assert_eq!(measurements(OTHER, SEVEN).status(false, Some(SEVEN)), TpmStatus::Mismatch);
    }

    #[test]
    fn what_cannot_be_compared_is_not_called_good() {
        let good = measurements(FOUR, SEVEN);
        let cases = [
            (Measurements { reading: None, ..good.clone() }, TpmStatus::Unavailable),
            (Measurements { log: None, ..good.clone() }, TpmStatus::Unavailable),
            (Measurements { kind: TpmKind::Absent, ..good.clone() }, TpmStatus::Unavailable),
            (Measurements { kind: TpmKind::Software, ..good.clone() }, TpmStatus::Software),
        ];
        for (case, status) in cases {
            assert_eq!(case.status(true, Some(SEVEN)), status, "{case:?}");
        }
        assert_eq!(good.status(true, None), TpmStatus::Unavailable);
    }
}
