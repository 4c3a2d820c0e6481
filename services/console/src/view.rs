//! What a terminal shows, as values: made from what the services say, drawn by
//! [`crate::screen`]. All text in here is plain.

use std::collections::VecDeque;

use api::v1::{NetworkState, Overview, Resources, SecurityState};
use modal::{Modal, Severity};

use crate::text::plain;

/// Log lines that are kept: more than any terminal shows.
const LOG_LIMIT: usize = 200;

/// Addresses of the API that are listed; the others differ in nothing.
const API_ADDRESSES: usize = 3;

/// Everything that all terminals show alike.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    /// The system is being installed: there are no other services.
    pub(crate) is_installing: bool,
    pub(crate) hostname: String,
    /// Name and version of the system.
    pub(crate) system: String,
    /// Local time.
    pub(crate) clock: String,
    /// States that somebody should know of, worst first.
    pub(crate) notices: Vec<(Severity, String)>,
    /// Lines of the operator's log, oldest first.
    pub(crate) log: VecDeque<String>,
    pub(crate) footer: Vec<Fact>,
    /// What the services have to say over everything else.
    pub(crate) modals: Vec<Modal>,
    /// What the installer has to say.
    pub(crate) installer: Option<Modal>,
}

/// A line below the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// Something to do.
    Warning(Severity, String),
    /// A name and its value.
    Named(&'static str, String),
}

impl View {
    /// Adds a line to the log.
    pub(crate) fn log(&mut self, line: &str) {
        if self.log.len() == LOG_LIMIT {
            self.log.pop_front();
        }
        self.log.push_back(plain(line));
    }

    /// The messages over everything else.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Modal> {
        self.installer.iter().chain(&self.modals)
    }

    /// Takes over what the supervisor says. A weak state stays on the screen until
    /// the security service says otherwise.
    pub(crate) fn describe(&mut self, overview: &Overview, machine: Option<&str>) {
        if let Some(environment) = &overview.environment {
            self.hostname = plain(&environment.hostname);
            self.system = plain(&format!("{} {}", environment.os_name, environment.os_version));
        }
        if let Some(security) = &overview.security {
            self.notices = notices(security);
        }
        self.footer = footer(overview, machine);
    }
}

/// What is wrong with the security of the machine. The red ones are worded as in
/// the operator's log.
fn notices(state: &SecurityState) -> Vec<(Severity, String)> {
    let mut notices = Vec::new();
    if state.tpm_status == "swtpm" {
        notices.push((Severity::Error, "Degraded security state: using swtpm".to_owned()));
    }
    if !state.secure_boot_enabled {
        notices.push((Severity::Error, "Degraded security state: Secure Boot is disabled".to_owned()));
    }
    let warning = |text: &str| (Severity::Warning, text.to_owned());
    match state.tpm_status.as_str() {
        "unavailable" => notices.push(warning("There is no TPM 2.0 that works")),
        "pcr mismatch" => {
            notices
                .push(warning("The TPM has measured an unexpected state: the next start may ask for a recovery key"));
        }
        _ => {}
    }
    if !state.system_state_is_trusted && notices.is_empty() {
        notices.push((Severity::Warning, plain(&state.system_state_status)));
    }
    notices
}

fn footer(overview: &Overview, machine: Option<&str>) -> Vec<Fact> {
    let mut facts = Vec::new();
    if overview.security.as_ref().is_some_and(|state| !state.encryption_recovery_keys_retrieved) {
        let text = "The recovery keys were not retrieved yet: incus admin os system security show";
        facts.push(Fact::Warning(Severity::Error, text.to_owned()));
    }
    if overview.update.as_ref().is_some_and(|state| state.needs_reboot) {
        facts.push(Fact::Warning(Severity::Warning, "An update takes effect with the next reboot".to_owned()));
    }
    let mut applications: Vec<_> = overview
        .applications
        .iter()
        .map(|application| plain(&format!("{}({})", application.name, application.version)))
        .collect();
    applications.sort();
    if !applications.is_empty() {
        facts.push(Fact::Named("Installed application(s)", applications.join(", ")));
    }
    if let Some(machine) = machine {
        facts.push(Fact::Named("Machine", machine.to_owned()));
    }
    let addresses = overview.network.as_ref().map(addresses).unwrap_or_default();
    if overview.network.is_some() {
        facts.push(Fact::Named("Network configuration", network_line(&addresses)));
    }
    facts.push(Fact::Named("API address", api_line(&overview.listen_address, &addresses)));
    facts
}

/// Devices with the addresses by which the machine can be reached.
fn addresses(state: &NetworkState) -> Vec<(String, Vec<String>)> {
    let is_own = |kind: &str| !matches!(kind, "bond_member" | "physical");
    state
        .interfaces
        .iter()
        .filter(|(_, device)| is_own(&device.r#type))
        .map(|(name, device)| (plain(name), device.addresses.iter().map(|address| plain(address)).collect::<Vec<_>>()))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect()
}

fn network_line(devices: &[(String, Vec<String>)]) -> String {
    if devices.is_empty() {
        return "no address yet".to_owned();
    }
    devices.iter().map(|(name, addresses)| format!("{name}({})", addresses.join(", "))).collect::<Vec<_>>().join(", ")
}

/// The URLs of the API. `listen` is `IP:port`, or `:port` for every address.
fn api_line(listen: &str, devices: &[(String, Vec<String>)]) -> String {
    let Some(port) = listen.strip_prefix(':') else {
        return match listen {
            "" => "off, as no client is trusted".to_owned(),
            address => plain(&format!("https://{address}")),
        };
    };
    let mut urls = devices.iter().flat_map(|(_, addresses)| addresses).map(|address| match address.contains(':') {
        true => format!("https://[{address}]:{port}"),
        false => format!("https://{address}:{port}"),
    });
    let mut listed: Vec<_> = urls.by_ref().take(API_ADDRESSES).collect();
    if listed.is_empty() {
        return format!("port {port}, no address yet");
    }
    if urls.next().is_some() {
        listed.push("...".to_owned());
    }
    listed.join(", ")
}

/// `<cpu> (numa=n, sockets=n, cores=n, threads=n) (<arch>) / <memory> memory`.
pub(crate) fn machine_line(resources: &Resources) -> Option<String> {
    let cpu = resources.cpu.as_ref()?;
    let cores = || cpu.sockets.iter().flat_map(|socket| &socket.cores);
    let nodes: std::collections::BTreeSet<_> =
        cores().flat_map(|core| &core.threads).map(|thread| thread.numa_node).collect();
    let name = cpu.sockets.first().map(|socket| socket.name.as_str()).filter(|name| !name.is_empty());
    let memory = resources.memory.as_ref().map_or(0, |memory| memory.total);
    Some(plain(&format!(
        "{} (numa={}, sockets={}, cores={}, threads={}) ({}) / {} memory",
        name.unwrap_or("unknown processor"),
        nodes.len().max(1),
        cpu.sockets.len(),
        cores().count(),
        cpu.total,
        cpu.architecture,
        iec(memory)
    )))
}

/// A size in the largest unit in which it is at least one, without decimals.
fn iec(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (bytes.checked_ilog2().unwrap_or(0) / 10).min(4);
    let unit = 1_u64 << (10 * step);
    let whole = bytes / unit + u64::from(bytes % unit >= unit.div_ceil(2) && step > 0);
    format!("{whole}{}", units[step as usize])
}

#[cfg(test)]
mod tests {
    use api::v1::{
        CpuCore, CpuSocket, CpuThread, InstalledApplication, NetworkInterfaceState, ResourcesCpu, ResourcesMemory,
        UpdateState,
    };

    use super::*;

    fn device(kind: &str, addresses: &[&str]) -> NetworkInterfaceState {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        NetworkInterfaceState { r#type: kind.into(), addresses, ..NetworkInterfaceState::default() }
    }

    fn healthy() -> SecurityState {
        SecurityState {
            secure_boot_enabled: true,
            system_state_is_trusted: true,
            tpm_status: "ok".into(),
            encryption_recovery_keys_retrieved: true,
            ..SecurityState::default()
        }
    }

    #[test]
    fn degraded_states_are_worded_as_in_the_log_and_worst_first() {
        assert_eq!(notices(&healthy()), []);
        let both = SecurityState { tpm_status: "swtpm".into(), secure_boot_enabled: false, ..healthy() };
        let texts: Vec<_> = notices(&both).into_iter().collect();
        assert_eq!(
            texts,
            [
                (Severity::Error, "Degraded security state: using swtpm".to_owned()),
                (Severity::Error, "Degraded security state: Secure Boot is disabled".to_owned())
            ]
        );
        let once =
            SecurityState { system_state_is_trusted: false, system_state_status: "was\x1b weak".into(), ..healthy() };
        assert_eq!(notices(&once), [(Severity::Warning, "was  weak".to_owned())]);
        for status in ["unavailable", "pcr mismatch"] {
            let state = SecurityState { tpm_status: status.into(), ..healthy() };
            assert_eq!(notices(&state)[0].0, Severity::Warning, "{status}");
        }
    }

    #[test]
    fn footer_names_what_an_operator_needs_first() {
        let interfaces = [
            ("eth0".to_owned(), device("interface", &["192.0.2.10", "2001:db8::10"])),
            ("eth1".to_owned(), device("physical", &["192.0.2.99"])),
            ("eth2".to_owned(), device("interface", &[])),
            ("wg0".to_owned(), device("wireguard", &["10.0.0.1"])),
        ];
        let application = |name: &str| InstalledApplication { name: name.into(), version: "1".into() };
        let overview = Overview {
            security: Some(SecurityState { encryption_recovery_keys_retrieved: false, ..healthy() }),
            network: Some(NetworkState { interfaces: interfaces.into(), ..NetworkState::default() }),
            update: Some(UpdateState { needs_reboot: true, ..UpdateState::default() }),
            listen_address: ":9443".into(),
            applications: vec![application("openfga"), application("incus")],
            ..Overview::default()
        };
        let facts = footer(&overview, Some("a machine"));
        let texts: Vec<_> = facts
            .iter()
            .map(|fact| match fact {
                Fact::Warning(_, text) => text.clone(),
                Fact::Named(name, value) => format!("{name}: {value}"),
            })
            .collect();
        assert_eq!(
            texts,
            [
                "The recovery keys were not retrieved yet: incus admin os system security show",
                "An update takes effect with the next reboot",
                "Installed application(s): incus(1), openfga(1)",
                "Machine: a machine",
                "Network configuration: eth0(192.0.2.10, 2001:db8::10), wg0(10.0.0.1)",
                "API address: https://192.0.2.10:9443, https://[2001:db8::10]:9443, https://10.0.0.1:9443",
            ]
        );
    }

    #[test]
    fn api_address_is_one_that_can_be_opened() {
        let many = [("a".to_owned(), (1..6).map(|n| format!("192.0.2.{n}")).collect())];
        assert_eq!(api_line("", &many), "off, as no client is trusted");
        assert_eq!(api_line("[::1]:1", &many), "https://[::1]:1");
        assert_eq!(api_line(":1", &[]), "port 1, no address yet");
        assert_eq!(api_line(":1", &many), "https://192.0.2.1:1, https://192.0.2.2:1, https://192.0.2.3:1, ...");
    }

    #[test]
    fn machine_is_summed_up() {
        let thread = |numa_node| CpuThread { numa_node, ..CpuThread::default() };
        let core = |node| CpuCore { threads: vec![thread(node), thread(node)], ..CpuCore::default() };
        let socket = |node| CpuSocket {
            name: "Fast\x1b CPU".into(),
            cores: vec![core(node), core(node)],
            ..CpuSocket::default()
        };
        let resources = Resources {
            cpu: Some(ResourcesCpu { architecture: "x86_64".into(), sockets: vec![socket(0), socket(1)], total: 8 }),
            memory: Some(ResourcesMemory { total: 16 << 30, ..ResourcesMemory::default() }),
            ..Resources::default()
        };
        assert_eq!(
            machine_line(&resources).unwrap(),
            "Fast  CPU (numa=2, sockets=2, cores=4, threads=8) (x86_64) / 16GiB memory"
        );
        assert_eq!(machine_line(&Resources::default()), None);
    }

    #[test]
    fn sizes_have_no_decimals() {
        let table = [
            (0, "0B"),
            (1023, "1023B"),
            (1536, "2KiB"),
            (2_040_109_465, "2GiB"),
            (16 << 30, "16GiB"),
            (3 << 50, "3072TiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(iec(bytes), text);
        }
    }

    #[test]
    fn log_keeps_the_latest_lines_and_nothing_hostile() {
        let mut view = View::default();
        for n in 0..500 {
            view.log(&format!("\x1b[2J{n}"));
        }
        assert_eq!((view.log.len(), view.log.back().unwrap().as_str()), (LOG_LIMIT, " [2J499"));
    }
}
