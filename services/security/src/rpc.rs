//! The service's calls: what was observed, in the messages of the schema.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::v1::{
    BuiltinCertificates, Empty, MeasuredEvent, SecureBootEventLog, SecurityDocument, SecurityState, StartReply,
    StartRequest, SystemSecurity, security_server::Security,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use store::{Health, Store};
use tonic::{Request, Response, Status};
use tpm::{Pcr, event_log};

use crate::{
    error::chain,
    firmware::{self, Firmware, FirmwareCache},
    keys,
    machine::Machine,
    measurements::{Measurements, Observations, TpmKind},
    trust,
    volumes::{self, Unlock},
};

/// The registers that `debug/secureboot/event-log` shows.
const SHOWN: [Pcr; 3] = [Pcr::LOADER, Pcr::SECURE_BOOT, Pcr::KERNEL];

pub(crate) struct Rpc {
    machine: Arc<Machine>,
    observations: Observations,
    firmware: FirmwareCache,
    store: Arc<Mutex<Store<SecurityDocument>>>,
}

impl Rpc {
    pub(crate) fn new(machine: Arc<Machine>, observations: Observations, store: Store<SecurityDocument>) -> Self {
        Self { machine, observations, firmware: FirmwareCache::default(), store: Arc::new(Mutex::new(store)) }
    }

    async fn observed(&self) -> (Measurements, Arc<Firmware>) {
        let measurements = self.observations.measurements().await;
        let firmware = self.firmware.get(&self.machine, &measurements);
        (measurements, firmware)
    }

    /// The initrd's own word counts before what the journal lets conclude.
    async fn unlock(&self, firmware: &Firmware) -> Unlock {
        match firmware.unlock {
            Some(unlock) => unlock,
            None => self.observations.unlock().await,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store<SecurityDocument>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Security for Rpc {
    async fn start(&self, _: Request<StartRequest>) -> Result<Response<StartReply>, Status> {
        let (measurements, firmware) = self.observed().await;
        let mut warnings = Vec::new();
        let weaknesses = trust::weaknesses(firmware.secure_boot, measurements.kind);
        if !weaknesses.is_empty() {
            match trust::blow(&self.machine.fuse()) {
                Ok(true) => tracing::info!("the system is no longer fully trusted"),
                Ok(false) => {}
                Err(error) => {
                    let fuse = self.machine.fuse();
                    warnings.push(format!(
                        "Cannot record in `{}` that the system is less trusted: {error}",
                        fuse.display()
                    ));
                }
            }
        }
        warnings.extend(weaknesses.iter().map(|weakness| format!("Degraded security state: {}", weakness.as_str())));
        if measurements.kind == TpmKind::Absent {
            warnings.push("There is no TPM 2.0".to_owned());
        }
        if let Some(reading) = &measurements.reading {
            let tpm = &reading.identity;
            tracing::info!("TPM {} by {}, firmware {}", tpm.family, tpm.manufacturer, tpm.firmware);
        }
        if let Some(forged) = measurements.log.as_ref().map(|log| log.forged).filter(|forged| *forged > 0) {
            warnings.push(format!("{forged} records of the firmware's event log are not what was measured"));
        }
        match self.store().health() {
            Health::Good => {}
            Health::Recovered { kept } => {
                warnings.push(format!(
                    "The security settings were damaged; the previous ones are in force, see `{}`",
                    kept.display()
                ));
            }
            Health::Damaged { kept } => {
                warnings.push(format!("The security settings were damaged and are lost, see `{}`", kept.display()));
            }
            Health::TooNew { .. } => {
                warnings.push("The security settings were written by a newer release and cannot be changed".to_owned());
            }
        }
        Ok(Response::new(StartReply { warnings }))
    }

    async fn get(&self, _: Request<Empty>) -> Result<Response<SystemSecurity>, Status> {
        let (measurements, firmware) = self.observed().await;
        let unlock = self.unlock(&firmware).await;
        let tpm_status = measurements.status(firmware.secure_boot, firmware.predicted);
        let is_trusted = !self.machine.fuse().exists();
        let weaknesses = trust::weaknesses(firmware.secure_boot, measurements.kind);
        let keys = keys::recovery_keys(&self.machine.keys());
        let document = self.store().get().clone();
        let state = SecurityState {
            encrypted_volumes: volumes::states(&self.machine.block_devices(), unlock, tpm_status),
            encryption_recovery_keys_retrieved: document.encryption_recovery_keys_retrieved,
            drive_recovery_keys: keys.drives,
            pool_recovery_keys: keys.pools,
            secure_boot_certificates: firmware.certificates.clone(),
            secure_boot_enabled: firmware.secure_boot,
            system_state_is_trusted: is_trusted,
            system_state_status: trust::status(is_trusted, &weaknesses),
            tpm_status: tpm_status.as_str().to_owned(),
            tpm_public_key: keys::identity_key(&self.machine.keys()),
        };
        Ok(Response::new(SystemSecurity { config: document.config, state: Some(state) }))
    }

    async fn put(&self, request: Request<SystemSecurity>) -> Result<Response<Empty>, Status> {
        let wanted = request.into_inner().config.unwrap_or_default();
        if wanted.encryption_recovery_keys.is_empty() {
            return Err(Status::invalid_argument("no encryption key provided"));
        }
        if self.store().get().config.as_ref() == Some(&wanted) {
            return Ok(Response::new(Empty {}));
        }
        Err(Status::unimplemented("changing recovery keys and certificate authorities is not supported yet"))
    }

    async fn mark_recovery_keys_retrieved(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        let store = Arc::clone(&self.store);
        let saved = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            if store.get().encryption_recovery_keys_retrieved {
                return Ok(());
            }
            let document = SecurityDocument { encryption_recovery_keys_retrieved: true, ..store.get().clone() };
            store.replace(document)
        });
        match saved.await {
            Ok(Ok(())) => Ok(Response::new(Empty {})),
            Ok(Err(error)) => Err(Status::internal(chain(&error))),
            Err(error) => Err(Status::internal(format!("saving was broken off: {error}"))),
        }
    }

    async fn rebind_tpm(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        let (_, firmware) = self.observed().await;
        if self.unlock(&firmware).await == Unlock::Tpm {
            // Clients compare the text, and expect it with a status of 500.
            return Err(Status::internal(
                "refusing to reset TPM encryption bindings because current state can unlock all volumes",
            ));
        }
        Err(Status::unimplemented("binding the encrypted volumes to the TPM again is not supported yet"))
    }

    async fn get_event_log(&self, _: Request<Empty>) -> Result<Response<SecureBootEventLog>, Status> {
        let measurements = self.observations.measurements().await;
        match measurements.kind {
            TpmKind::Absent => return Err(Status::internal("there is no TPM 2.0")),
            TpmKind::Software => {
                return Err(Status::unimplemented("the event log of a software TPM is not supported yet"));
            }
            TpmKind::Hardware => {}
        }
        let reading = measurements.reading.ok_or_else(|| Status::internal("the TPM does not answer"))?;
        let bytes = self
            .machine
            .read_event_log()
            .map_err(|error| Status::internal(format!("cannot read the firmware's event log: {error}")))?;
        let events = event_log::parse(&bytes).map_err(|error| Status::internal(error.to_string()))?;
        let value = |pcr: Pcr| reading.registers.get(&pcr).map(ToString::to_string).unwrap_or_default();
        Ok(Response::new(SecureBootEventLog {
            event_log: events.iter().filter(|event| is_shown(event)).map(shown).collect(),
            pcr4: value(Pcr::LOADER),
            pcr7: value(Pcr::SECURE_BOOT),
        }))
    }

    async fn get_builtin_certificates(&self, _: Request<Empty>) -> Result<Response<BuiltinCertificates>, Status> {
        Ok(Response::new(firmware::builtin(&self.machine)))
    }
}

fn is_shown(event: &event_log::Event<'_>) -> bool {
    SHOWN.iter().any(|pcr| event.pcr == u32::from(pcr.index()))
}

fn shown(event: &event_log::Event<'_>) -> MeasuredEvent {
    MeasuredEvent {
        index: event.pcr,
        r#type: event.kind.0,
        data: STANDARD.encode(event.data),
        digest: event.sha256.map(|digest| STANDARD.encode(digest.0)).unwrap_or_default(),
    }
}
