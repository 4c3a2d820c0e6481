use std::time::Duration;

use efi::{Value, Variable};
use runner::{Call, RunError, Tool};

use crate::{Machine, Refusal};

/// Where udev shows the root volume of the drive that was booted.
const DEVICE: &str = "/dev/gpt-auto-root-luks";

/// The TPM answers within seconds.
const TPM_LIMIT: Duration = Duration::from_secs(300);

/// How long the prompt stands before the machine starts again, in case the TPM has come to its senses.
const PROMPT_LIMIT: Duration = Duration::from_secs(3600);

/// Non-volatile, and visible before and after the firmware hands over.
const ATTRIBUTES: u32 = 0x7;

/// Unlocks the root volume by the TPM, else by a recovery key that a person types,
/// and notes which of them it was.
///
/// # Errors
///
/// When neither does within an hour.
pub async fn unlock(machine: &Machine) -> Result<(), Refusal> {
    let by_tpm = attach(machine, "tpm2-device=auto,tpm2-measure-pcr=yes,headless=1", TPM_LIMIT).await;
    let Err(error) = by_tpm else {
        note(machine, TpmState::Unlocked);
        return Ok(());
    };
    machine.tell(&Refusal::because("The TPM did not unlock the root volume. Enter a recovery key to go on", error));
    attach(machine, "tpm2-measure-pcr=yes,tries=0", PROMPT_LIMIT)
        .await
        .map_err(|cause| Refusal::because("The root volume stays locked", cause))?;
    note(machine, TpmState::Passphrase);
    Ok(())
}

async fn attach(machine: &Machine, options: &str, limit: Duration) -> Result<(), RunError> {
    // Measured into PCR 15 either way: the TPM releases nothing to what runs after this.
    let call = Call::new(Tool::SystemdCryptsetup, ["attach", "root", DEVICE, "-", options]).deadline(limit);
    machine.runner.run(&call).await?.success().map(drop)
}

/// What the security service reports as the state of the volumes.
#[derive(Debug, Clone, Copy)]
enum TpmState {
    Unlocked = 0,
    Passphrase = 1,
}

/// Writing wears the firmware's flash, so only a change is written.
fn note(machine: &Machine, state: TpmState) {
    let value = Value { attributes: ATTRIBUTES, data: vec![0, 0, 0, state as u8] };
    if machine.variables.read(Variable::TpmState).ok().flatten().as_ref() == Some(&value) {
        return;
    }
    if let Err(error) = machine.variables.write(Variable::TpmState, &value) {
        machine.tell(&Refusal::because("How the root volume was unlocked cannot be noted", error));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use efi::Variables;
    use runner::{Reply, ScriptedRunner};

    use super::*;

    const BY_TPM: &str =
        "systemd-cryptsetup attach root /dev/gpt-auto-root-luks - tpm2-device=auto,tpm2-measure-pcr=yes,headless=1";
    const BY_KEY: &str = "systemd-cryptsetup attach root /dev/gpt-auto-root-luks - tpm2-measure-pcr=yes,tries=0";

    fn done() -> Reply {
        Reply::Stdout(Vec::new())
    }

    fn failed(reason: &str) -> Reply {
        Reply::Failure(1, reason.to_owned())
    }

    async fn unlocked(calls: Vec<(&'static str, Reply)>) -> (Result<(), Refusal>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        let runner = calls.into_iter().fold(ScriptedRunner::new(), |runner, (line, reply)| runner.expect(line, reply));
        let variables = Variables::in_dir(dir.path());
        let machine = Machine {
            roots: sys::Roots { sys: dir.path().join("sys"), dev: dir.path().join("dev") },
            run: dir.path().join("run"),
            variables: variables.clone(),
            runner: Arc::new(runner),
            patience: Duration::ZERO,
        };
        let outcome = unlock(&machine).await;
        (outcome, variables.read(Variable::TpmState).unwrap().map(|value| value.data))
    }

    #[tokio::test]
    async fn the_tpm_unlocks_without_a_person() {
        let (outcome, state) = unlocked(vec![(BY_TPM, done())]).await;
        outcome.unwrap();
        assert_eq!(state, Some(vec![0, 0, 0, 0]));
    }

    #[tokio::test]
    async fn a_person_is_asked_when_the_tpm_refuses() {
        let (outcome, state) = unlocked(vec![(BY_TPM, failed("PCR mismatch")), (BY_KEY, done())]).await;
        outcome.unwrap();
        assert_eq!(state, Some(vec![0, 0, 0, 1]));
    }

    #[tokio::test]
    async fn without_either_the_boot_stops() {
        let calls = vec![(BY_TPM, failed("no TPM")), (BY_KEY, failed("cancelled"))];
        let (outcome, state) = unlocked(calls).await;
        assert!(outcome.unwrap_err().to_string().starts_with("The root volume stays locked"));
        assert_eq!(state, None);
    }
}
