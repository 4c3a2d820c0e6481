//! What the console is told, over real sockets.

use std::io::Write as _;

use crate::bench::{Bench, PATIENCE, SECRET, write};
use api::v1::{Empty, KernelConsole, Modal, ModalCategory, Modals, PowerRequest, power_request::Action};
use tokio::net::UnixListener;
use tonic::{Code, Streaming};

fn modal(category: &str, title: &str) -> Modal {
    Modal { category: category.into(), title: title.into(), severity: "info".into(), ..Modal::default() }
}

async fn titles(stream: &mut Streaming<Modals>) -> Vec<String> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the messages are told");
    next.unwrap().expect("the stream goes on").modals.into_iter().map(|modal| modal.title).collect()
}

#[tokio::test]
async fn overview_has_all_parts_and_no_secret() {
    let bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    let overview = bench.peers().supervisor().get_overview(Empty {}).await.unwrap().into_inner();
    assert_eq!(overview.environment.as_ref().unwrap().hostname, "host.example.org");
    assert_eq!(overview.security.as_ref().unwrap().tpm_status, "swtpm");
    assert!(overview.network.as_ref().unwrap().interfaces.contains_key("eth0"));
    assert_eq!((overview.update.as_ref(), overview.listen_address.as_str()), (None, ""), "{overview:?}");
    let text = serde_json::to_string(&overview).unwrap();
    assert!(!text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn overview_is_answered_when_every_other_service_is_down() {
    let bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    let overview = bench.peers().supervisor().get_overview(Empty {}).await.unwrap().into_inner();
    assert!(overview.environment.is_some());
    assert_eq!((overview.security, overview.network), (None, None));
}

#[tokio::test]
async fn consoles_of_the_seed_are_told() {
    let bench = Bench::new();
    let files = [seed::File {
        name: "kernel.yaml".into(),
        content: b"console: [{device: /dev/ttyS1, baud_rate: 9600}]".to_vec(),
    }];
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&seed::write(&files)).unwrap();
    let mut machine = bench.machine();
    machine.seed = Some(file);
    let _supervisor = bench.supervisor(machine);
    let expected = [KernelConsole { device: "/dev/ttyS1".into(), baud_rate: 9600 }];
    let told = async {
        loop {
            let overview = bench.peers().supervisor().get_overview(Empty {}).await.unwrap().into_inner();
            if !overview.consoles.is_empty() {
                return overview.consoles;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.expect("the seed is taken over"), expected);
    let kernel = bench.peers().supervisor().get_kernel(Empty {}).await.unwrap().into_inner();
    assert_eq!(kernel.config.unwrap().console, expected);
}

#[tokio::test]
async fn messages_are_one_of_each_category() {
    let bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    let mut supervisor = bench.peers().supervisor();
    let mut stream = supervisor.watch_modals(Empty {}).await.unwrap().into_inner();
    assert_eq!(titles(&mut stream).await, [""; 0]);
    supervisor.show_modal(modal("update", "first")).await.unwrap();
    assert_eq!(titles(&mut stream).await, ["first"]);
    supervisor.show_modal(modal("update", "second")).await.unwrap();
    assert_eq!(titles(&mut stream).await, ["second"]);
    supervisor.show_modal(modal("system-check", "third")).await.unwrap();
    assert_eq!(titles(&mut stream).await, ["second", "third"]);
    supervisor.hide_modal(ModalCategory { category: "update".into() }).await.unwrap();
    assert_eq!(titles(&mut stream).await, ["third"]);
    for bad in [
        modal("gossip", "x"),
        Modal { severity: "loud".into(), ..modal("update", "x") },
        Modal { progress: 101, ..modal("update", "x") },
    ] {
        assert_eq!(supervisor.show_modal(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = supervisor.hide_modal(ModalCategory { category: "gossip".into() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn endless_message_is_cut() {
    let bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    let mut supervisor = bench.peers().supervisor();
    let endless = Modal { text: "ä".repeat(1 << 18), ..modal("update", &"ö".repeat(1 << 18)) };
    supervisor.show_modal(endless).await.unwrap();
    let mut stream = supervisor.watch_modals(Empty {}).await.unwrap().into_inner();
    let shown = stream.message().await.unwrap().unwrap().modals.remove(0);
    assert!(shown.title.len() <= 256 && shown.text.len() <= 8 << 10);
}

#[tokio::test]
async fn shutdown_is_a_message() {
    let mut bench = Bench::new();
    write(&bench.root().join("run/incus-os/power/.keep"), "");
    let _poweroff = UnixListener::bind(bench.root().join("run/incus-os/power/poweroff")).unwrap();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    let mut supervisor = bench.peers().supervisor();
    let mut stream = supervisor.watch_modals(Empty {}).await.unwrap().into_inner();
    assert_eq!(titles(&mut stream).await, [""; 0]);
    supervisor.power(PowerRequest { action: Action::Poweroff.into() }).await.unwrap();
    assert_eq!(titles(&mut stream).await, ["Shutdown"]);
}

#[tokio::test]
async fn message_of_a_shutdown_that_fails_goes_away() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    let mut supervisor = bench.peers().supervisor();
    supervisor.power(PowerRequest { action: Action::Reboot.into() }).await.unwrap();
    bench.lines_until("Cannot reboot the system").await;
    let mut stream = supervisor.watch_modals(Empty {}).await.unwrap().into_inner();
    while !titles(&mut stream).await.is_empty() {}
}
