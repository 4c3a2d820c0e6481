//! Keys of the encrypted volumes on a machine that boots: made at the first start, bound to the
//! TPM, changed over the API, and of use to a person when the TPM is another one.
//!
//! These tests really boot, minutes each without hardware virtualisation.
#![expect(clippy::unwrap_used, reason = "a failure is what a test reports")]

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{BOOT_LIMIT, MOMENT, ready_machine};
use testkit::process::Lifetime;
use testkit::vm::Vm;
use testkit::vm::agent::Agent;
use testkit::wait::wait_for;

/// Where the volumes are, as udev names their partitions.
const PARTITIONS: [&str; 2] = ["/dev/disk/by-partlabel/root-x86-64", "/dev/disk/by-partlabel/swap"];

/// What a key that the TPM releases depends on: exact values, and signed ones.
const BOUND_TO: (&str, &str) = ("[7,12,13,15]", "[11]");

/// Part of what a person is asked at the console.
const PROMPT: &str = "passphrase";

/// `metadata` of an answer that must be good.
fn good(response: &testkit::client::Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json().unwrap()["metadata"].clone()
}

fn security(vm: &Vm) -> Value {
    good(&vm.client().unwrap().get("/1.0/system/security").unwrap())
}

fn recovery_keys(vm: &Vm) -> Vec<String> {
    let keys = security(vm)["config"]["encryption_recovery_keys"].clone();
    serde_json::from_value(keys).unwrap()
}

fn put_keys(vm: &Vm, keys: &[&str]) -> testkit::client::Response {
    let client = vm.client().unwrap().with_patience(Duration::from_secs(300));
    client.put("/1.0/system/security", &json!({ "config": { "encryption_recovery_keys": keys } })).unwrap()
}

fn states(vm: &Vm) -> Vec<String> {
    let volumes = security(vm)["state"]["encrypted_volumes"].clone();
    volumes.as_array().unwrap().iter().map(|volume| volume["state"].as_str().unwrap().to_owned()).collect()
}

/// The way in, if the image has one.
fn agent(vm: &Vm) -> Option<Agent> {
    let mut agent = vm.agent(MOMENT).unwrap();
    if agent.outcome(&["true"]).is_ok() {
        return Some(agent);
    }
    println!("skipped: the image has no agent; only its `test` flavour lets a header be read");
    None
}

/// The header of a volume, without anything that would open it.
fn header(agent: &mut Agent, partition: &str) -> Value {
    let text = agent.run(&["cryptsetup", "luksDump", "--dump-json-metadata", partition]).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What each binding to the TPM depends on.
fn bindings(header: &Value) -> Vec<(String, String)> {
    let tokens = header["tokens"].as_object().unwrap().values();
    let bindings = tokens.filter(|token| token["type"] == "systemd-tpm2");
    bindings.map(|token| (token["tpm2-pcrs"].to_string(), token["tpm2_pubkey_pcrs"].to_string())).collect()
}

fn is_bound(bindings: &[(String, String)]) -> bool {
    bindings.iter().any(|(literal, signed)| (literal.as_str(), signed.as_str()) == BOUND_TO)
}

fn assert_swap_is_on(agent: &mut Agent) {
    let swaps = wait_for("swap to be on", MOMENT, || {
        let swaps = agent.run(&["cat", "/proc/swaps"]).map_err(system_tests::explain)?;
        if swaps.lines().count() == 2 { Ok(swaps) } else { Err(swaps) }
    });
    swaps.unwrap();
}

#[test]
fn the_first_start_makes_a_recovery_key_and_binds_the_volumes() {
    let Some(machine) = ready_machine("keys-first") else { return };
    let keys = recovery_keys(&machine);
    assert_eq!(keys.len(), 1);
    let groups: Vec<_> = keys[0].split('-').map(str::len).collect();
    assert_eq!(groups, [8; 8]);
    assert!(keys[0].chars().all(|c| c == '-' || "cbdefghijklnrtuv".contains(c)));
    assert_eq!(security(&machine)["state"]["encryption_recovery_keys_retrieved"], false);

    let Some(mut agent) = agent(&machine) else { return };
    assert_swap_is_on(&mut agent);
    for partition in PARTITIONS {
        let header = header(&mut agent, partition);
        assert!(is_bound(&bindings(&header)), "{partition}: {:?}", bindings(&header));
        let tokens = header["tokens"].as_object().unwrap();
        assert_eq!(tokens.values().filter(|token| token["type"] == "systemd-recovery").count(), 1, "{partition}");
    }
    let files = agent.run(&["stat", "--format=%a %U %s", "/var/lib/incus-os/recovery.root.key"]).unwrap();
    assert_eq!(files.trim(), "400 root 71");
    let journal = agent.run(&["journalctl", "--boot", "--no-pager", "--output=export"]).unwrap();
    assert!(!journal.contains(&keys[0]), "a recovery key is in the journal");
}

#[test]
fn recovery_keys_are_added_removed_and_refused() {
    let Some(machine) = ready_machine("keys-change") else { return };
    let first = recovery_keys(&machine).remove(0);
    let client = machine.client().unwrap();
    good(&client.post("/1.0/system/security/:retrieved", &json!({})).unwrap());
    assert_eq!(security(&machine)["state"]["encryption_recovery_keys_retrieved"], true);

    let refused = put_keys(&machine, &[&first, "correcthorsebattery"]);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("Password does not contain any special symbols"), "{}", refused.text());
    assert!(put_keys(&machine, &[]).text().contains("no encryption key provided"));

    let chosen = "correct-horse-battery";
    good(&put_keys(&machine, &[&first, chosen]));
    assert_eq!(recovery_keys(&machine), [first.as_str(), chosen]);
    assert_eq!(security(&machine)["state"]["encryption_recovery_keys_retrieved"], false);
    let slots =
        |agent: &mut Agent| PARTITIONS.map(|partition| header(agent, partition)["keyslots"].as_object().unwrap().len());
    let before = agent(&machine).map(|mut agent| slots(&mut agent));
    good(&put_keys(&machine, &[chosen]));
    assert_eq!(recovery_keys(&machine), [chosen]);
    if let (Some(before), Some(mut agent)) = (before, agent(&machine)) {
        assert_eq!(slots(&mut agent), before.map(|count| count - 1));
    }

    let rebind = client.post("/1.0/system/security/:tpm-rebind", &json!({})).unwrap();
    assert_eq!(rebind.status, 500);
    let text = "refusing to reset TPM encryption bindings because current state can unlock all volumes";
    assert!(rebind.text().contains(text), "{}", rebind.text());
}

#[test]
fn second_boot_opens_the_volumes_by_the_tpm_alone_and_retires_the_first_binding() {
    let Some(mut machine) = ready_machine("keys-boots") else { return };
    // The second boot proves the binding, and the one of the first boot goes.
    machine.power_cut().unwrap();
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert!(!console.text().unwrap().contains(PROMPT), "a person was asked for something");
    assert_eq!(states(&machine), ["unlocked (TPM)", "unlocked (TPM)"]);
    if let Some(mut agent) = agent(&machine) {
        assert_swap_is_on(&mut agent);
        for partition in PARTITIONS {
            let bindings = bindings(&header(&mut agent, partition));
            assert!(bindings.len() == 1 && is_bound(&bindings), "{partition}: {bindings:?}");
        }
    }
}

#[test]
fn recovery_key_opens_the_volumes_when_the_tpm_was_replaced_and_they_are_bound_to_the_new_one() {
    let Some(mut machine) = ready_machine("keys-new-tpm") else { return };
    let key = recovery_keys(&machine).remove(0);
    machine.power_cut().unwrap();
    machine.replace_tpm().unwrap();

    // Another TPM releases nothing, and a wrong key opens nothing.
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    let mut keyboard = machine.keyboard().unwrap();
    console.wait_for(PROMPT, BOOT_LIMIT).unwrap();
    let refusal = machine.console_from_now();
    keyboard.type_line("not-the-key").unwrap();
    refusal.wait_for(PROMPT, BOOT_LIMIT).unwrap();
    keyboard.type_line(&key).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert_eq!(states(&machine), ["unlocked (recovery passphrase)", "unlocked (recovery passphrase)"]);
    if let Some(mut agent) = agent(&machine) {
        assert_swap_is_on(&mut agent);
    }
    assert!(!console.text().unwrap().contains(&key), "the console shows the key");

    // Bound to the new one, the machine restarts by itself and asks nobody.
    let console = machine.console_from_now();
    let client = machine.client().unwrap().with_patience(Duration::from_secs(300));
    good(&client.post("/1.0/system/security/:tpm-rebind", &json!({})).unwrap());
    wait_for("the machine to go down", BOOT_LIMIT, || match client.get("/1.0/system/security") {
        Err(_) => Ok(()),
        Ok(_) => Err("it still answers".to_owned()),
    })
    .unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert!(!console.text().unwrap().contains(PROMPT), "a person was asked for something");
    assert_eq!(states(&machine), ["unlocked (TPM)", "unlocked (TPM)"]);
}

#[test]
fn foreign_kernel_arguments_get_no_key_and_leave_no_harm() {
    let Some(mut machine) = ready_machine("keys-arguments") else { return };
    machine.power_cut().unwrap();
    machine.set_kernel_arguments(&["init=/bin/sh"]).unwrap();
    assert_asks_for_a_key(&mut machine);
    machine.power_cut().unwrap();
    machine.set_kernel_arguments(&[]).unwrap();
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    machine.wait_ready(BOOT_LIMIT, |_| ()).unwrap();
    assert!(!console.text().unwrap().contains(PROMPT), "a person was asked for something");
}

#[test]
fn foreign_credential_beside_the_boot_loader_gets_no_key() {
    let Some(mut machine) = ready_machine("keys-credential") else { return };
    let Some(mut agent) = agent(&machine) else { return };
    // The boot loader hands every file of this folder to the system, signed or not.
    let folder = "/boot/loader/credentials";
    agent.run(&["mkdir", "-p", folder]).unwrap();
    agent.run(&["cp", "/etc/machine-id", &format!("{folder}/foreign.cred")]).unwrap();
    agent.run(&["sync"]).unwrap();
    drop(agent);
    machine.power_cut().unwrap();
    assert_asks_for_a_key(&mut machine);
}

/// Starts the machine and waits until it asks for a recovery key.
fn assert_asks_for_a_key(machine: &mut Vm) {
    let console = machine.console_from_now();
    machine.start(Lifetime::Tied).unwrap();
    console.wait_for("The TPM did not unlock the root volume", BOOT_LIMIT).unwrap();
    console.wait_for(PROMPT, BOOT_LIMIT).unwrap();
}

/// So that a root volume that an attacker has put in, and can open, comes to nothing else.
#[test]
fn tpm_releases_nothing_once_the_root_volume_is_open() {
    let Some(machine) = ready_machine("keys-late") else { return };
    let Some(mut agent) = agent(&machine) else { return };
    for partition in PARTITIONS {
        let call = ["cryptsetup", "open", "--test-passphrase", "--token-only", "--verbose", partition];
        let refused = agent.outcome(&call).unwrap();
        assert_ne!(refused.exit, 0, "{partition}: {refused:?}");
        // The TPM was asked, and its policy does not hold.
        let reason = "Failed to unseal secret using TPM2: Operation not permitted";
        assert!(refused.stderr.contains(reason), "{partition}: {refused:?}");
    }
}
