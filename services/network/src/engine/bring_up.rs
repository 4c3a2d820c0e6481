//! Bringing a configuration up: plan, apply what differs, verify.

use std::{fs, sync::Arc, time::Duration};

use api::v1::NetworkConfig;
use netplan::{ConfigError, Desired, Nic, OnlineRule, Plan, generate_keys, prepare};
use tokio::time::timeout;

use crate::machine::{Daemons, Kernel, KernelError, Roots, Snapshot, Synced, link_state, sync, write_file};

/// Patience during one bring-up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until udev has found and named the cards.
    pub cards: Duration,
    /// Until a card that is configured appears after that.
    pub late_cards: Duration,
    /// Until the kernel shows what was planned.
    pub topology: Duration,
    /// Until the devices that must be online are.
    pub online: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Twenty times what real hardware needs: an emulated machine is that slow.
        Self {
            cards: Duration::from_secs(60),
            late_cards: Duration::from_secs(5),
            topology: Duration::from_secs(40),
            online: Duration::from_secs(30),
        }
    }
}

/// Why nothing could be brought up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BringUpError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("the machine has no network card that can be used")]
    NoCards,
    /// The text is the one that clients know.
    #[error("unable to determine maximum MTU for {0}")]
    MissingCards(String),
}

/// The machine that is worked on.
pub(crate) struct BringUp<'a> {
    pub kernel: &'a dyn Kernel,
    pub daemons: &'a dyn Daemons,
    pub roots: &'a Roots,
    pub limits: Limits,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The configuration with names of cards replaced by addresses and missing
    /// keys made: what is to be stored.
    pub config: NetworkConfig,
    /// For the operator, one sentence each.
    pub warnings: Vec<String>,
}

impl BringUp<'_> {
    /// Waits until udev has worked off the devices of the boot, so that the
    /// cards are all there and have their final names.
    pub(crate) async fn cards(&self) -> Result<Arc<Snapshot>, BringUpError> {
        let udev = self.roots.run.join("udev");
        let uses_udev = self.uses_udev();
        let settled = |snapshot: &Snapshot| {
            // The file exists while events wait, which `udevadm settle` looks at as well.
            let idle = || !udev.join("queue").exists();
            let named = |index: u32| udev.join("data").join(format!("n{index}")).exists();
            !uses_udev || (idle() && snapshot.nics().iter().all(|nic| named(nic.index)))
        };
        match timeout(self.limits.cards, self.until(settled, Duration::from_millis(100))).await {
            Ok(snapshot) => Ok(snapshot?),
            Err(_) => {
                tracing::warn!("udev has not settled; going on with the network cards that are there");
                Ok(self.kernel.snapshot().await?)
            }
        }
    }

    /// Without udev, as in a container, no card is on its way.
    fn uses_udev(&self) -> bool {
        self.roots.run.join("udev/control").exists()
    }

    /// The cards, after a moment of patience for configured ones whose driver
    /// is slow.
    async fn cards_for(
        &self,
        config: &NetworkConfig,
        stored: Option<&NetworkConfig>,
    ) -> Result<Vec<Nic>, BringUpError> {
        let complete = |snapshot: &Snapshot| {
            let nics = snapshot.nics();
            match prepare(&mut config.clone(), &nics, stored) {
                Ok(desired) => netplan::plan(&desired, &nics).missing.is_empty(),
                Err(ConfigError::Resolve(_)) => false,
                // Waiting does not make it right.
                Err(_) => true,
            }
        };
        let settled = self.cards().await?;
        if !self.uses_udev() {
            return Ok(settled.nics());
        }
        match timeout(self.limits.late_cards, self.until(complete, self.limits.late_cards)).await {
            Ok(snapshot) => Ok(snapshot?.nics()),
            Err(_) => Ok(settled.nics()),
        }
    }

    /// Makes the machine's network the configured one. What is right already is
    /// not touched.
    pub(crate) async fn apply(
        &self,
        mut config: NetworkConfig,
        stored: Option<&NetworkConfig>,
    ) -> Result<Outcome, BringUpError> {
        let nics = self.cards_for(&config, stored).await?;
        let desired = prepare(&mut config, &nics, stored)?;
        let desired = self.with_keys(&mut config, desired)?;
        let plan = netplan::plan(&desired, &nics);
        if plan.links.is_empty() {
            let missing: Vec<_> = plan.missing.iter().map(ToString::to_string).collect();
            return Err(if missing.is_empty() {
                BringUpError::NoCards
            } else {
                BringUpError::MissingCards(missing.join(", "))
            });
        }
        let mut warnings: Vec<String> = plan.unsupported.iter().map(|found| found.text().to_owned()).collect();
        warnings.extend(plan.missing.iter().map(|card| format!("unable to determine maximum MTU for {card}")));

        // The daemons for names and time take a while to start, and neither needs the other.
        let (names, topology) = tokio::join!(self.set_names_and_time(&desired), self.build(&plan));
        warnings.extend(names);
        warnings.extend(topology?);
        self.wait_online(&plan, &mut warnings).await?;
        Ok(Outcome { config, warnings })
    }

    async fn build(&self, plan: &Plan) -> Result<Vec<String>, BringUpError> {
        let mut warnings = Vec::new();
        let files = match sync(&self.roots.network_files(), &plan.files) {
            Ok(synced) => synced,
            Err(error) => {
                warnings.push(causes::chain(&error));
                Synced::Changed
            }
        };
        let cards = self.set_up_cards(plan, &mut warnings).await?;
        if files == Synced::Changed || cards == Synced::Changed || !self.differences(plan).await?.is_empty() {
            if let Err(error) = self.daemons.reload_networkd().await {
                warnings.push(causes::chain(&error));
            }
            self.verify(plan, &mut warnings).await?;
        }
        Ok(warnings)
    }

    fn with_keys(&self, config: &mut NetworkConfig, desired: Desired) -> Result<Desired, BringUpError> {
        if desired.wireguard.iter().all(|tunnel| tunnel.private_key.is_some()) {
            return Ok(desired);
        }
        let mut failed = None;
        generate_keys(config, || {
            let mut key = [0; 32];
            if let Err(error) = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()) {
                failed = Some(error);
            }
            key
        });
        match failed {
            Some(error) => Err(KernelError::Socket(error.into()).into()),
            None => Ok(Desired::new(config)?),
        }
    }

    async fn set_names_and_time(&self, desired: &Desired) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(zone) = &desired.time.timezone {
            let set = if self.roots.zoneinfo.join(zone).is_file() {
                self.daemons.set_timezone(zone).await.map_err(|error| causes::chain(&error))
            } else {
                Err(format!("time zone '{zone}' does not exist"))
            };
            warnings.extend(set.err());
        }
        let hostname = match &desired.dns.hostname {
            Some(name) => name.clone(),
            None => self.identity().await,
        };
        if let Err(error) = self.daemons.set_hostname(&hostname).await {
            warnings.push(causes::chain(&error));
        }
        if let Err(error) = write_file(&self.roots.hosts(), &hosts(&hostname), 0o644) {
            warnings.push(causes::chain(&error));
        }
        let servers = desired.time.ntp_servers.join(" ");
        let text = if servers.is_empty() { String::new() } else { format!("[Time]\nFallbackNTP={servers}\n") };
        let synced = write_file(&self.roots.time_servers(), &text, 0o644);
        let changed = matches!(synced, Ok(Synced::Changed));
        warnings.extend(synced.err().map(|error| causes::chain(&error)));
        if let Err(error) = self.daemons.start_time_sync(changed).await {
            warnings.push(causes::chain(&error));
        }
        warnings
    }

    /// What a machine without a configured name is called.
    async fn identity(&self) -> String {
        match self.daemons.product_uuid().await {
            Ok(uuid) if uuid.len() == 36 => return uuid,
            Ok(_) => {}
            Err(error) => tracing::info!("{error}"),
        }
        let machine_id = fs::read_to_string(self.roots.etc.join("machine-id")).unwrap_or_default();
        let machine_id = machine_id.trim();
        if machine_id.len() == 32 { machine_id.to_owned() } else { "localhost".to_owned() }
    }

    /// The names come after the files: a new name makes udev look at the files,
    /// and apply what only it can, such as offloads and ring sizes.
    async fn set_up_cards(&self, plan: &Plan, warnings: &mut Vec<String>) -> Result<Synced, BringUpError> {
        let nics = self.kernel.snapshot().await?.nics();
        let mut synced = Synced::Unchanged;
        for card in plan.cards.iter().filter(|card| card.is_pending(&nics)) {
            let Some(nic) = nics.iter().find(|nic| nic.index == card.index) else { continue };
            tracing::info!("network card {} becomes {}", nic.name, card.name);
            synced = Synced::Changed;
            if let Err(error) = self.kernel.set_up_card(card, nic.hwaddr).await {
                warnings.push(causes::chain(&error));
            }
        }
        Ok(synced)
    }

    async fn differences(&self, plan: &Plan) -> Result<Vec<String>, KernelError> {
        let snapshot = self.kernel.snapshot().await?;
        let vlans = self.kernel.bridge_vlans().await?;
        Ok(netplan::unmet(&plan.links, &snapshot.observed(&vlans)))
    }

    async fn verify(&self, plan: &Plan, warnings: &mut Vec<String>) -> Result<(), BringUpError> {
        let met = async {
            let mut changes = self.kernel.changes();
            loop {
                changes.mark_unchanged();
                if self.differences(plan).await?.is_empty() {
                    return Ok(());
                }
                // VLANs of a port change without an event of the kinds we follow.
                let _ = timeout(Duration::from_millis(500), changes.changed()).await;
            }
        };
        match timeout(self.limits.topology, met).await {
            Ok(met) => met,
            Err(_) => {
                warnings.extend(self.differences(plan).await?);
                Ok(())
            }
        }
    }

    async fn wait_online(&self, plan: &Plan, warnings: &mut Vec<String>) -> Result<(), BringUpError> {
        if plan.online.is_empty() {
            return Ok(());
        }
        let offline = |snapshot: &Snapshot| -> Vec<String> {
            let is_offline =
                |device: &&netplan::OnlineDevice| !self.is_online(snapshot, device.device.as_str(), device.rule);
            plan.online.iter().filter(is_offline).map(|device| device.device.to_string()).collect()
        };
        // networkd writes its state a moment after the kernel's event.
        let wait = self.until(|snapshot| offline(snapshot).is_empty(), Duration::from_millis(250));
        match timeout(self.limits.online, wait).await {
            Ok(online) => online.map(drop)?,
            Err(_) => {
                let devices = offline(&*self.kernel.snapshot().await?).join(", ");
                warnings.push(format!("timed out waiting for network to come online: {devices}"));
            }
        }
        Ok(())
    }

    fn is_online(&self, snapshot: &Snapshot, device: &str, rule: OnlineRule) -> bool {
        let Some(link) = snapshot.link(device) else { return false };
        let addresses = snapshot.addresses_of(link.index);
        let has_v4 = addresses.iter().any(std::net::IpAddr::is_ipv4);
        let has_v6 = addresses.iter().any(std::net::IpAddr::is_ipv6);
        let has_addresses = match rule {
            OnlineRule::No => true,
            OnlineRule::Any => has_v4 || has_v6,
            OnlineRule::Ipv4 => has_v4,
            OnlineRule::Ipv6 => has_v6,
            OnlineRule::Both => has_v4 && has_v6,
        };
        has_addresses && link_state(self.roots, link.index).is_some_and(|state| state.is_online)
    }

    /// Resolves when the condition holds; looked at after each change of the
    /// network, and every `pace` for what changes without an event.
    async fn until(
        &self,
        holds: impl Fn(&Snapshot) -> bool + Send,
        pace: Duration,
    ) -> Result<Arc<Snapshot>, KernelError> {
        let mut changes = self.kernel.changes();
        loop {
            changes.mark_unchanged();
            let snapshot = self.kernel.snapshot().await?;
            if holds(&snapshot) {
                return Ok(snapshot);
            }
            let _ = timeout(pace, changes.changed()).await;
        }
    }
}

/// hosts(5): the names that must resolve without any server.
fn hosts(hostname: &str) -> String {
    format!(
        "127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
    )
}
