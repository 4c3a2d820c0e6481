//! The service's calls: what was observed, in the messages of the schema, and
//! changes handed to the keeper.

use std::sync::Arc;

use api::v1::{
    BuiltinCertificates, Empty, MeasuredEvent, OperatorLine, PowerRequest, RecoveryKey, SecureBootEventLog,
    SecurityDocument, SecurityStart, SecurityState, StartReply, SystemSecurity, operator_line, power_request,
    security_server::Security,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use service::{Identity, Peers, call_error};
use store::{Health, Store};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::{Request, Response, Status};
use tpm::{Digest, Pcr, event_log};

use crate::{
    binding::Boot,
    firmware::{self, Firmware, FirmwareCache},
    keeper::{ChangeError, Keeper, KeeperError},
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
    keeper: Arc<Keeper>,
    peers: Peers,
}

impl Rpc {
    pub(crate) fn new(
        machine: Arc<Machine>,
        observations: Observations,
        store: Store<SecurityDocument>,
        peers: Peers,
    ) -> Self {
        let keeper = Arc::new(Keeper::new(Arc::clone(&machine), store));
        Self { machine, observations, firmware: FirmwareCache::default(), keeper, peers }
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

    /// What is known of this boot.
    async fn boot(&self) -> Boot {
        let (measurements, firmware) = self.observed().await;
        let unlock = self.unlock(&firmware).await;
        Boot { measurements, secure_boot: firmware.secure_boot, predicted: firmware.predicted, unlock }
    }

    fn weaknesses(boot: &Boot) -> Vec<trust::Weakness> {
        trust::weaknesses(boot.secure_boot, boot.measurements.kind, boot.has_foreign_input())
    }

    /// Restarts the machine, and says why.
    async fn restart(&self) -> Result<(), Status> {
        let mut supervisor = self.peers.supervisor();
        let mut line = OperatorLine {
            message: "The encrypted volumes were bound to the TPM again, the system restarts".to_owned(),
            ..OperatorLine::default()
        };
        line.set_level(operator_line::Level::Info);
        if let Err(status) = supervisor.write_operator_line(line).await {
            tracing::warn!("the operator was not told: {}", call_error(Identity::Supervisor, &status));
        }
        let mut request = PowerRequest::default();
        request.set_action(power_request::Action::Reboot);
        supervisor.power(request).await.map(drop).map_err(|status| {
            let reason = call_error(Identity::Supervisor, &status);
            Status::internal(format!(
                "the encrypted volumes are bound to the TPM again, but the restart failed: {reason}"
            ))
        })
    }
}

/// Lets a change run to its end even when its caller goes away: half a change
/// would be completed by the next start only.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(change)
        .await
        .unwrap_or_else(|error| Err(Status::internal(format!("the change was broken off: {error}"))))
}

fn failure(error: &KeeperError) -> Status {
    tracing::error!("{}", causes::chain(error));
    Status::internal(causes::chain(error))
}

#[tonic::async_trait]
impl Security for Rpc {
    async fn start(&self, request: Request<SecurityStart>) -> Result<Response<StartReply>, Status> {
        self.observations.at_start().await;
        let boot = self.boot().await;
        let measurements = &boot.measurements;
        let mut warnings = Vec::new();
        let weaknesses = Self::weaknesses(&boot);
        if weaknesses.iter().any(|weakness| weakness.lasts()) {
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
        if boot.unlock == Unlock::Passphrase {
            warnings.push(
                "The root volume was opened with a recovery key, because the TPM did not release its own: after an \
                 intended change of firmware or TPM, bind the volumes again (`:tpm-rebind`)"
                    .to_owned(),
            );
        }
        match self.keeper.store().health() {
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
        let (keeper, seed) = (Arc::clone(&self.keeper), request.into_inner().seed);
        warnings.extend(to_its_end(async move { Ok(keeper.bring_up(seed, &boot).await) }).await?);
        Ok(Response::new(StartReply { warnings }))
    }

    async fn get(&self, _: Request<Empty>) -> Result<Response<SystemSecurity>, Status> {
        let (measurements, firmware) = self.observed().await;
        let unlock = self.unlock(&firmware).await;
        let tpm_status = measurements.status(firmware.secure_boot, firmware.predicted);
        let is_trusted = !self.machine.fuse().exists();
        let weaknesses = Self::weaknesses(&self.boot().await);
        let keys = keys::recovery_keys(&self.machine.keys());
        let document = self.keeper.store().get().clone();
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
        let keeper = Arc::clone(&self.keeper);
        to_its_end(async move {
            keeper.change(wanted).await.map_err(|error| match error {
                ChangeError::Refused(reason) => Status::invalid_argument(reason),
                ChangeError::Failed(error) => failure(&error),
            })
        })
        .await?;
        Ok(Response::new(Empty {}))
    }

    async fn mark_recovery_keys_retrieved(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        let keeper = Arc::clone(&self.keeper);
        to_its_end(async move { keeper.mark_retrieved().await.map_err(|error| failure(&error)) }).await?;
        Ok(Response::new(Empty {}))
    }

    async fn check_recovery_key(&self, request: Request<RecoveryKey>) -> Result<Response<Empty>, Status> {
        let typed = request.into_inner().key;
        let config = self.keeper.store().get().config.clone().unwrap_or_default();
        if is_one_of(&typed, &config.encryption_recovery_keys) {
            return Ok(Response::new(Empty {}));
        }
        tracing::warn!("a wrong recovery key was typed at the console");
        Err(Status::permission_denied("this is no recovery key of this system"))
    }

    async fn rebind_tpm(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        let boot = self.boot().await;
        if boot.unlock == Unlock::Tpm {
            // Clients compare the text, and expect it with a status of 500.
            return Err(Status::internal(
                "refusing to reset TPM encryption bindings because current state can unlock all volumes",
            ));
        }
        let keeper = Arc::clone(&self.keeper);
        to_its_end(async move { keeper.rebind(&boot).await.map_err(|error| failure(&error)) }).await?;
        self.restart().await?;
        Ok(Response::new(Empty {}))
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

/// Whether a key is among others. Neither the place of the first difference nor
/// the number of the key shows in the time that this takes.
fn is_one_of(typed: &str, keys: &[String]) -> bool {
    // Digests are of one length.
    let typed = Digest::of(typed.trim().as_bytes());
    let same = |key: &String| Digest::of(key.as_bytes()).0.ct_eq(&typed.0);
    keys.iter().fold(Choice::from(0), |found, key| found | same(key)).into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_of_the_list_is_one() {
        let keys = ["correct-horse-battery".to_owned(), "staple".to_owned()];
        assert!(is_one_of("staple", &keys) && is_one_of(" correct-horse-battery\n", &keys));
        for wrong in ["", "stapl", "staple-", "Staple", "correct-horse-batterystaple"] {
            assert!(!is_one_of(wrong, &keys), "{wrong}");
        }
        assert!(!is_one_of("", &[]));
    }
}
