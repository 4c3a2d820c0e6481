//! Looks after the keys of the encrypted volumes: the service's own recovery key
//! of each, the recovery keys of people, and the bindings to the TPM.
//!
//! Each volume is brought from whatever state it is found in to the wanted one,
//! in steps that can be broken off anywhere:
//!
//! * What is about to be done is on disk before it is done: a key is stored before
//!   it is enrolled, a slot is named before it is emptied.
//! * What is new is added, and seen to work, before what is old goes.
//! * A slot is emptied only if it was seen to open with the key that is to go, or
//!   if a token says that it belongs to a binding that another one has replaced.
//! * So the next start completes what this one leaves, and the same functions do
//!   both.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::v1::{KeySlot, SecurityConfig, SecurityDocument, TpmBinding};
use store::{Store, StoreError};
use tpm::Policy;

use crate::{
    authorities,
    binding::{Boot, Unbindable, Values},
    luks::{Authority, Cost, Header, Luks, LuksError, RECOVERY_TOKEN, TPM_TOKEN, Token, Volume},
    machine::{Machine, read_at_most},
    recovery,
    volumes::{self, Partitions},
};

/// Largest file that can hold a recovery key of ours.
const KEY_LIMIT: usize = 128;

/// Why the keys are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error(transparent)]
    Luks(#[from] LuksError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {action} `{path}`")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot get random numbers from the kernel")]
    Random(#[source] io::Error),
    #[error("nothing that is known here allows to change the keys of volume {volume}")]
    NoAuthority {
        volume: &'static str,
        #[source]
        source: Option<LuksError>,
    },
    #[error("a key that was just added does not open volume {volume}")]
    NotOpened { volume: &'static str },
    #[error("volume {volume} was bound to the TPM in another way than was asked for")]
    OtherPolicy { volume: &'static str },
    #[error("the encrypted volumes were not bound to the TPM")]
    Unbindable(#[from] Unbindable),
    #[error("the partition of volume {volume} is not found")]
    Missing { volume: &'static str },
    #[error("there is no encrypted volume that a recovery key could open")]
    NoVolume,
    #[error("the task that saves the settings was broken off")]
    Broken,
}

/// Why new settings were not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// They are wrong; nothing was changed.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Failed(#[from] KeeperError),
}

/// The one that changes the keys of the volumes, one change at a time.
#[derive(Debug)]
pub(crate) struct Keeper {
    machine: Arc<Machine>,
    store: Arc<Mutex<Store<SecurityDocument>>>,
    turn: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub(crate) fn new(machine: Arc<Machine>, store: Store<SecurityDocument>) -> Self {
        Self { machine, store: Arc::new(Mutex::new(store)), turn: tokio::sync::Mutex::default() }
    }

    /// The state document.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store<SecurityDocument>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every start does: whatever is missing. Returns what could not be done;
    /// the next start tries it again.
    pub(crate) async fn bring_up(&self, seed: Option<SecurityConfig>, boot: &Boot) -> Vec<String> {
        let _turn = self.turn.lock().await;
        let mut problems = Problems::default();
        problems.note(self.take_over_seed(seed).await);
        problems.note(self.install_authorities().await);

        let Partitions { found, missing } = volumes::partitions(&self.machine);
        for volume in missing {
            problems.note(Err(KeeperError::Missing { volume }));
        }
        let mut kept = Vec::new();
        for volume in found {
            match self.internal_key(&volume).await {
                Ok(()) => kept.push(volume),
                failed => problems.note(failed),
            }
        }
        problems.note(self.keep_recovery_keys(&kept).await);
        problems.note(self.keep_bindings(&kept, boot).await);
        problems.0
    }

    /// Puts new settings into force.
    pub(crate) async fn change(&self, wanted: SecurityConfig) -> Result<(), ChangeError> {
        let _turn = self.turn.lock().await;
        let present = self.document().config.unwrap_or_default();
        let keys = unique(wanted.encryption_recovery_keys);
        let new: Vec<_> = keys.iter().filter(|key| !present.encryption_recovery_keys.contains(key)).cloned().collect();
        for key in &new {
            recovery::check(key).map_err(|weakness| ChangeError::Refused(weakness.to_string()))?;
        }
        authorities::check(&wanted.custom_ca_certs).map_err(ChangeError::Refused)?;

        if !new.is_empty() || keys.len() != present.encryption_recovery_keys.len() {
            self.change_keys(keys, &new).await?;
        }
        if wanted.custom_ca_certs != present.custom_ca_certs {
            let certificates = wanted.custom_ca_certs;
            self.save(|document| document.config.get_or_insert_default().custom_ca_certs = certificates).await?;
        }
        Ok(self.install_authorities().await?)
    }

    /// Notes that an administrator has the keys.
    pub(crate) async fn mark_retrieved(&self) -> Result<(), KeeperError> {
        self.save(|document| document.encryption_recovery_keys_retrieved = true).await
    }

    /// Binds the volumes to the TPM as it is, after it did not release their keys.
    pub(crate) async fn rebind(&self, boot: &Boot) -> Result<(), KeeperError> {
        let _turn = self.turn.lock().await;
        let policy = boot.policy(&self.machine, Values::Current)?;
        for volume in self.all_volumes()? {
            self.internal_key(&volume).await?;
            let luks = self.luks(&volume);
            let header = self.clear_bindings(luks).await?;
            // The TPM did not release this key although its conditions are met: it
            // is another TPM's. Its presence would keep the tool from making a new one.
            if let Some((id, token)) = header.bound_by(&policy.digest().to_string()) {
                for slot in &token.slots {
                    luks.kill(&header, *slot).await?;
                }
                luks.remove_token(id).await?;
            }
            self.bind(luks, &policy).await?;
        }
        Ok(())
    }

    async fn change_keys(&self, keys: Vec<String>, new: &[String]) -> Result<(), KeeperError> {
        let volumes = self.all_volumes()?;
        for volume in &volumes {
            self.internal_key(volume).await?;
            self.settle(volume).await?;
        }
        for key in new {
            if let Err(error) = self.add(&volumes, key).await {
                self.forget(&volumes, key).await;
                return Err(error);
            }
        }
        // From here on the keys that are left out count as gone, whatever happens.
        self.save(move |document| {
            for record in &mut document.key_slots {
                record.removing |= !keys.contains(&record.key);
            }
            document.config.get_or_insert_default().encryption_recovery_keys = keys;
            document.encryption_recovery_keys_retrieved = false;
        })
        .await?;
        for volume in &volumes {
            self.settle(volume).await?;
        }
        Ok(())
    }

    /// The volumes that a change concerns: all of them, or it is not made.
    fn all_volumes(&self) -> Result<Vec<Volume>, KeeperError> {
        let Partitions { found, missing } = volumes::partitions(&self.machine);
        match missing.first() {
            Some(volume) => Err(KeeperError::Missing { volume }),
            None if found.is_empty() => Err(KeeperError::NoVolume),
            None => Ok(found),
        }
    }

    fn luks<'a>(&'a self, volume: &'a Volume) -> Luks<'a> {
        Luks { machine: &self.machine, volume }
    }

    fn document(&self) -> SecurityDocument {
        self.store().get().clone()
    }

    /// Changes the document; it is on disk when this returns.
    async fn save(&self, change: impl FnOnce(&mut SecurityDocument) + Send + 'static) -> Result<(), KeeperError> {
        let store = Arc::clone(&self.store);
        let saved = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let mut document = store.get().clone();
            change(&mut document);
            if document == *store.get() { Ok(()) } else { store.replace(document) }
        });
        Ok(saved.await.map_err(|_| KeeperError::Broken)??)
    }

    /// Takes the certificate authorities of the seed over, once.
    async fn take_over_seed(&self, seed: Option<SecurityConfig>) -> Result<(), KeeperError> {
        let Some(seed) = seed else { return Ok(()) };
        self.save(move |document| {
            let config = document.config.get_or_insert_default();
            if !document.seed_applied && config.custom_ca_certs.is_empty() {
                config.custom_ca_certs = seed.custom_ca_certs;
            }
            document.seed_applied = true;
        })
        .await
    }

    async fn install_authorities(&self) -> Result<(), KeeperError> {
        let (machine, config) = (Arc::clone(&self.machine), self.document().config.unwrap_or_default());
        let path = self.machine.trust_store();
        let installed = tokio::task::spawn_blocking(move || authorities::install(&machine, &config.custom_ca_certs));
        let changed = installed.await.map_err(|_| KeeperError::Broken)?.map_err(|source| KeeperError::File {
            action: "make the trust store",
            path,
            source,
        })?;
        if changed {
            tracing::info!("the certificate authorities that programs trust have changed");
        }
        Ok(())
    }
}

/// The service's own recovery key of each volume.
impl Keeper {
    /// Makes sure that the key in the volume's key file opens it.
    async fn internal_key(&self, volume: &Volume) -> Result<(), KeeperError> {
        let luks = self.luks(volume);
        let file = self.machine.recovery_key(volume.name);
        let header = luks.header().await?;
        if is_key_file(&file)
            && let Some(slot) = self.slot_of(luks, &header, &file).await?
        {
            return Ok(mark(luks, &header, slot).await?);
        }
        // Under another name until it opens the volume: whoever finds the file may use it.
        let pending = file.with_extension("key.new");
        if !is_key_file(&pending) {
            make_key_file(&pending)?;
        }
        let slot = match self.slot_of(luks, &header, &pending).await? {
            Some(slot) => slot,
            None => {
                let slot = header.free_slot().ok_or(LuksError::Full { volume: volume.name })?;
                self.add_by_any_authority(luks, &header, slot, &pending).await?;
                if !luks.file_opens(slot, &pending).await? {
                    return Err(KeeperError::NotOpened { volume: volume.name });
                }
                slot
            }
        };
        mark(luks, &header, slot).await?;
        rename(&pending, &file)?;
        tracing::info!("volume {} has a recovery key of this service in key slot {slot}", volume.name);
        Ok(())
    }

    /// The slot that opens with the key in a file. Looks only where such a key can
    /// be: a look at one of a person's slots takes seconds.
    async fn slot_of(&self, luks: Luks<'_>, header: &Header, file: &Path) -> Result<Option<u32>, LuksError> {
        let document = self.document();
        let is_a_person_s = |slot: u32| {
            document.key_slots.iter().any(|record| record.volume == luks.volume.name && record.slot == slot)
        };
        let marked = header.tokens_of(RECOVERY_TOKEN).flat_map(|(_, token)| token.slots.iter().copied());
        let unmarked = header
            .slots
            .iter()
            .filter(|(slot, cost)| **cost == Cost::Little && !header.has_token(**slot) && !is_a_person_s(**slot))
            .map(|(slot, _)| *slot);
        for slot in marked.chain(unmarked) {
            if header.slots.contains_key(&slot) && luks.file_opens(slot, file).await? {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    /// Adds the key in a file with whatever allows it: the TPM at the first start,
    /// a person's key if ours was lost.
    async fn add_by_any_authority(
        &self,
        luks: Luks<'_>,
        header: &Header,
        slot: u32,
        file: &Path,
    ) -> Result<(), KeeperError> {
        let keys = self.known_keys();
        let tpm = header.tokens_of(TPM_TOKEN).next().map(|_| Authority::Tpm);
        let mut last = None;
        for authority in tpm.into_iter().chain(keys.iter().map(|key| Authority::Typed(key))) {
            match luks.add_from_file(authority, slot, file).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(KeeperError::NoAuthority { volume: luks.volume.name, source: last })
    }
}

/// The recovery keys of people.
impl Keeper {
    /// The keys that are enrolled, and those that are about to be.
    fn known_keys(&self) -> Vec<String> {
        let document = self.document();
        let enrolled = document.config.unwrap_or_default().encryption_recovery_keys;
        let under_way = document.key_slots.into_iter().filter(|record| !record.removing).map(|record| record.key);
        unique(enrolled.into_iter().chain(under_way).collect())
    }

    /// Completes what was begun, makes up for what was lost, and makes the first key.
    async fn keep_recovery_keys(&self, volumes: &[Volume]) -> Result<(), KeeperError> {
        if volumes.is_empty() {
            return Ok(());
        }
        for volume in volumes {
            self.settle(volume).await?;
        }
        match self.known_keys() {
            keys if keys.is_empty() => {
                let key = recovery::generate().map_err(KeeperError::Random)?;
                self.add(volumes, &key).await?;
                tracing::info!("the first recovery key was made");
                self.save(|document| document.encryption_recovery_keys_retrieved = false).await
            }
            keys => self.list(keys).await,
        }
    }

    /// Enrols a key everywhere, and lists it then.
    async fn add(&self, volumes: &[Volume], key: &str) -> Result<(), KeeperError> {
        for volume in volumes {
            let luks = self.luks(volume);
            let mut header = luks.header().await?;
            self.enrol(luks, &mut header, key).await?;
        }
        self.list(vec![key.to_owned()]).await
    }

    /// Lists keys that are enrolled.
    async fn list(&self, keys: Vec<String>) -> Result<(), KeeperError> {
        self.save(move |document| {
            let listed = &mut document.config.get_or_insert_default().encryption_recovery_keys;
            for key in keys {
                if !listed.contains(&key) {
                    listed.push(key);
                }
            }
        })
        .await
    }

    /// Takes back a key that could not be enrolled everywhere. What stays is
    /// written down, and goes at the next start.
    async fn forget(&self, volumes: &[Volume], key: &str) {
        let gone = key.to_owned();
        let saved = self.save(move |document| {
            for record in document.key_slots.iter_mut().filter(|record| record.key == gone) {
                record.removing = true;
            }
        });
        if let Err(error) = saved.await {
            tracing::warn!("a recovery key that was not taken is left in a volume: {}", causes::chain(&error));
            return;
        }
        for volume in volumes {
            if let Err(error) = self.settle(volume).await {
                tracing::warn!("a recovery key that was not taken is left in a volume: {}", causes::chain(&error));
            }
        }
    }

    /// Brings the slots of one volume in line with the document: first what is
    /// missing, then what is too much.
    async fn settle(&self, volume: &Volume) -> Result<(), KeeperError> {
        let luks = self.luks(volume);
        let mut header = luks.header().await?;
        for key in self.known_keys() {
            self.enrol(luks, &mut header, &key).await?;
        }
        let records = self.document().key_slots;
        for record in records.into_iter().filter(|record| record.volume == volume.name && record.removing) {
            if header.slots.contains_key(&record.slot) && luks.typed_opens(record.slot, &record.key).await? {
                luks.kill(&header, record.slot).await?;
                header.slots.remove(&record.slot);
                tracing::info!("a recovery key was removed from key slot {} of volume {}", record.slot, volume.name);
            }
            // A slot that does not open with the key is somebody else's by now.
            self.save(move |document| document.key_slots.retain(|other| *other != record)).await?;
        }
        Ok(())
    }

    /// Makes sure that a key opens a volume.
    async fn enrol(&self, luks: Luks<'_>, header: &mut Header, key: &str) -> Result<(), KeeperError> {
        let volume = luks.volume.name;
        let records = self.document().key_slots;
        let record =
            records.into_iter().find(|record| record.volume == volume && record.key == key && !record.removing);
        let slot = match record {
            Some(record) if header.slots.contains_key(&record.slot) => {
                if record.enrolled {
                    return Ok(());
                }
                if luks.typed_opens(record.slot, key).await? {
                    return self.record(volume, record.slot, key, true).await;
                }
                // Somebody else took the slot.
                None
            }
            Some(record) => Some(record.slot),
            None => None,
        };
        let slot = slot.or_else(|| header.free_slot()).ok_or(LuksError::Full { volume })?;
        self.record(volume, slot, key, false).await?;
        let cost = if recovery::is_generated(key) { Cost::Little } else { Cost::Much };
        luks.add_typed(&self.machine.recovery_key(volume), slot, key, cost).await?;
        if !luks.typed_opens(slot, key).await? {
            return Err(KeeperError::NotOpened { volume });
        }
        header.slots.insert(slot, cost);
        self.record(volume, slot, key, true).await?;
        tracing::info!("a recovery key was enrolled in key slot {slot} of volume {volume}");
        Ok(())
    }

    /// Writes down where a key is, or is about to be.
    async fn record(&self, volume: &str, slot: u32, key: &str, enrolled: bool) -> Result<(), KeeperError> {
        let record = KeySlot { volume: volume.to_owned(), slot, key: key.to_owned(), enrolled, removing: false };
        self.save(move |document| {
            let same = |other: &KeySlot| other.volume == record.volume && other.key == record.key && !other.removing;
            document.key_slots.retain(|other| !same(other));
            document.key_slots.push(record);
        })
        .await
    }
}

/// The bindings to the TPM.
impl Keeper {
    /// Binds volumes that are not bound as they should be, and removes the bindings
    /// that a proven one replaces.
    async fn keep_bindings(&self, volumes: &[Volume], boot: &Boot) -> Result<(), KeeperError> {
        for volume in volumes {
            let luks = self.luks(volume);
            let header = self.clear_bindings(luks).await?;
            let required = boot.required();
            let is_bound = header.tokens_of(TPM_TOKEN).any(|(_, token)| {
                !token.slots.is_empty() && token.literal == required && token.signed == [tpm::Pcr::KERNEL.index()]
            });
            // What the TPM does not release is not bound anew without being asked:
            // the reason may be that somebody tampered with the machine.
            if boot.unlock != volumes::Unlock::Tpm {
                continue;
            }
            match boot.policy(&self.machine, Values::Predicted) {
                Ok(policy) if header.bound_by(&policy.digest().to_string()).is_some() => {
                    self.retire(luks, &header, &policy, boot).await?;
                }
                Ok(policy) => {
                    self.bind(luks, &policy).await?;
                    self.retire(luks, &luks.header().await?, &policy, boot).await?;
                }
                Err(_) if is_bound => {}
                Err(reason) => return Err(reason.into()),
            }
        }
        Ok(())
    }

    /// Adds a binding beside those that there are.
    async fn bind(&self, luks: Luks<'_>, policy: &Policy) -> Result<(), KeeperError> {
        let volume = luks.volume.name;
        let digest = policy.digest().to_string();
        let boot_id = self.boot_id()?;
        let before = luks.header().await?;
        let record = TpmBinding {
            volume: volume.to_owned(),
            policy: digest.clone(),
            boot_id,
            slots_before: before.slots.into_keys().collect(),
        };
        self.record_binding(record.clone()).await?;
        luks.enrol_tpm(&self.machine.recovery_key(volume), policy).await?;
        if luks.header().await?.bound_by(&digest).is_none() {
            return Err(KeeperError::OtherPolicy { volume });
        }
        self.record_binding(TpmBinding { slots_before: Vec::new(), ..record }).await?;
        tracing::info!("volume {volume} was bound to the TPM");
        Ok(())
    }

    /// Removes the bindings that a good one replaces: those that ask for less at once, for they are
    /// ways around it; those to other values once a later boot has proven this one.
    async fn retire(&self, luks: Luks<'_>, header: &Header, policy: &Policy, boot: &Boot) -> Result<(), KeeperError> {
        let volume = luks.volume.name;
        let digest = policy.digest().to_string();
        let Some((good, _)) = header.bound_by(&digest) else { return Ok(()) };
        let boot_id = self.boot_id()?;
        let known = self.document().tpm_bindings;
        let known = known.into_iter().find(|record| record.volume == volume && record.policy == digest);
        let record = match known {
            Some(record) => record,
            None => {
                // Made by somebody else, who knows when.
                let boot_id = boot_id.clone();
                let record =
                    TpmBinding { volume: volume.to_owned(), policy: digest, boot_id, slots_before: Vec::new() };
                self.record_binding(record.clone()).await?;
                record
            }
        };
        if !boot.proves(policy) {
            return Ok(());
        }
        let is_later_boot = record.boot_id != boot_id;
        let required = boot.required();
        let asks_for_less = |token: &Token| {
            token.signed != [tpm::Pcr::KERNEL.index()] || !required.iter().all(|pcr| token.literal.contains(pcr))
        };
        let mut left = Header { slots: header.slots.clone(), tokens: Default::default() };
        let others = header.tokens_of(TPM_TOKEN).filter(|(id, _)| *id != good);
        for (id, token) in others.filter(|(_, token)| is_later_boot || asks_for_less(token)) {
            for slot in &token.slots {
                luks.kill(&left, *slot).await?;
                left.slots.remove(slot);
            }
            luks.remove_token(id).await?;
            tracing::info!("volume {volume}: an older binding to the TPM was removed");
        }
        if !is_later_boot {
            return Ok(());
        }
        self.save(move |document| {
            document.tpm_bindings.retain(|other| other.volume != record.volume || other.policy == record.policy);
        })
        .await
    }

    /// Removes what an interrupted change of bindings left, and returns the header.
    async fn clear_bindings(&self, luks: Luks<'_>) -> Result<Header, KeeperError> {
        let volume = luks.volume.name;
        let mut header = luks.header().await?;
        let document = self.document();
        let is_a_person_s =
            |slot: u32| document.key_slots.iter().any(|record| record.volume == volume && record.slot == slot);
        for record in document.tpm_bindings.iter().filter(|record| record.volume == volume) {
            if record.slots_before.is_empty() {
                continue;
            }
            // The tool adds a slot first and its token then: between the two, the
            // slot has a key that nobody knows.
            let orphans: Vec<u32> = header
                .slots
                .iter()
                .filter(|(slot, cost)| {
                    **cost == Cost::Little
                        && !record.slots_before.contains(slot)
                        && !header.has_token(**slot)
                        && !is_a_person_s(**slot)
                })
                .map(|(slot, _)| *slot)
                .collect();
            for slot in orphans {
                luks.kill(&header, slot).await?;
                header.slots.remove(&slot);
            }
            let bound = header.bound_by(&record.policy).is_some();
            let record = record.clone();
            self.save(move |document| {
                document.tpm_bindings.retain(|other| *other != record);
                if bound {
                    document.tpm_bindings.push(TpmBinding { slots_before: Vec::new(), ..record });
                }
            })
            .await?;
        }
        // A slot is emptied first and its token removed then.
        let dangling: Vec<u32> =
            header.tokens_of(TPM_TOKEN).filter(|(_, token)| token.slots.is_empty()).map(|(id, _)| id).collect();
        for id in dangling {
            luks.remove_token(id).await?;
            header.tokens.remove(&id);
        }
        Ok(header)
    }

    async fn record_binding(&self, record: TpmBinding) -> Result<(), KeeperError> {
        self.save(move |document| {
            document.tpm_bindings.retain(|other| other.volume != record.volume || other.policy != record.policy);
            document.tpm_bindings.push(record);
        })
        .await
    }

    fn boot_id(&self) -> Result<String, KeeperError> {
        let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
        self.machine.boot_id().map_err(|source| KeeperError::File { action: "read", path, source })
    }
}

/// What could not be done, one sentence each.
#[derive(Debug, Default)]
struct Problems(Vec<String>);

impl Problems {
    fn note(&mut self, outcome: Result<(), KeeperError>) {
        if let Err(error) = outcome {
            self.0.push(sentence(&causes::chain(&error)));
        }
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The same in the same order, each once.
fn unique(keys: Vec<String>) -> Vec<String> {
    let mut seen = Vec::with_capacity(keys.len());
    for key in keys {
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen
}

async fn mark(luks: Luks<'_>, header: &Header, slot: u32) -> Result<(), LuksError> {
    let is_marked = header.tokens_of(RECOVERY_TOKEN).any(|(_, token)| token.slots.contains(&slot));
    if is_marked { Ok(()) } else { luks.mark_recovery(slot).await }
}

/// Whether a file holds a key as this service makes them.
fn is_key_file(path: &Path) -> bool {
    let text = read_at_most(path, KEY_LIMIT).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| recovery::is_generated(&text))
}

/// Makes a file with a new key, readable for root only.
fn make_key_file(path: &Path) -> Result<(), KeeperError> {
    let key = recovery::generate().map_err(KeeperError::Random)?;
    let failed = |source| KeeperError::File { action: "write", path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path).map_err(failed)?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    sync_folder(path)
}

fn rename(from: &Path, to: &Path) -> Result<(), KeeperError> {
    fs::rename(from, to).map_err(|source| KeeperError::File { action: "create", path: to.to_owned(), source })?;
    sync_folder(to)
}

fn sync_folder(path: &Path) -> Result<(), KeeperError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| KeeperError::File {
        action: "save",
        path: folder.to_owned(),
        source,
    })
}
