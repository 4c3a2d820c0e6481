//! The promises of start-up, over real sockets.

use crate::bench::{Answer, Bench, PATIENCE};
use api::v1::{Empty, OperatorLine, operator_line::Level};

async fn is_ready(bench: &Bench) -> bool {
    let reply = bench.peers().supervisor().get_environment(Empty {}).await.unwrap();
    reply.into_inner().system_is_ready
}

async fn becomes_ready(bench: &Bench) {
    let ready = async {
        while !is_ready(bench).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the system becomes ready");
}

const STARTING: &str =
    "INFO System is starting up machine-id=0123456789abcdef0123456789abcdef mode=dev version=202611220000";
const READY: &str = "INFO System is ready version=202611220000";

#[tokio::test]
async fn services_start_in_order_and_the_system_is_ready_once() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    assert_eq!(bench.lines_until("System is ready").await, [STARTING, "INFO Bringing up the network", READY]);
    assert_eq!(bench.starts(), ["security", "network", "storage", "update"]);
    becomes_ready(&bench).await;
    for _ in 0..20 {
        is_ready(&bench).await;
    }
    assert_eq!(bench.further_lines(), []);
}

#[tokio::test]
async fn line_of_the_journal_has_time_level_and_origin() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    let entry = bench.entry().await;
    let (time, rest) = entry.message.split_at(20);
    assert_eq!(rest, STARTING);
    assert!(time.chars().zip("0000-00-00 00:00:00 ".chars()).all(|(c, form)| match form {
        '0' => c.is_ascii_digit(),
        _ => c == form,
    }));
    assert_eq!((entry.priority.as_str(), entry.component.as_str()), ("6", "supervisor"));
}

#[tokio::test]
async fn warnings_of_a_service_become_operator_lines() {
    let mut bench = Bench::new();
    let _security = bench.security([Answer::Warn("Secure Boot is disabled")]);
    let _network = bench.network([Answer::Warn("eth0 has no link")]);
    let _storage = bench.storage([]);
    let _update = bench.update();
    let _supervisor = bench.supervisor(bench.machine());
    assert_eq!(
        bench.lines_until("System is ready").await,
        [STARTING, "WARN Secure Boot is disabled", "INFO Bringing up the network", "WARN eth0 has no link", READY]
    );
}

#[tokio::test]
async fn failing_network_is_tried_again_and_nothing_is_ready_before() {
    let mut bench = Bench::new();
    let _security = bench.security([]);
    let _network = bench.network([Answer::Fail("no link"), Answer::Fail("no link"), Answer::Fail("no lease")]);
    let _storage = bench.storage([]);
    let _update = bench.update();
    let _supervisor = bench.supervisor(bench.machine());
    assert_eq!(
        bench.lines_until("System is ready").await,
        [
            STARTING,
            "INFO Bringing up the network",
            "WARN The network service did not start, trying again error=no link",
            "WARN The network service did not start, trying again error=no lease",
            READY
        ]
    );
    assert_eq!(bench.starts(), ["security", "network", "network", "network", "network", "storage", "update"]);
}

#[tokio::test]
async fn broken_service_does_not_keep_the_others_down() {
    let mut bench = Bench::new();
    let _security = bench.security(vec![Answer::Fail("no TPM"); 1_000_000]);
    let _network = bench.network([]);
    let _storage = bench.storage([]);
    let _update = bench.update();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("Bringing up the network").await;
    while !bench.starts().contains(&"storage") {
        tokio::task::yield_now().await;
    }
    assert!(!is_ready(&bench).await);
    assert_eq!(bench.further_lines(), [], "a known problem is not repeated");
}

#[tokio::test]
async fn absent_services_are_waited_for() {
    let mut bench = Bench::new();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("The storage service did not start").await;
    assert!(!is_ready(&bench).await);
    let _services = bench.willing_services();
    bench.lines_until(READY).await;
    becomes_ready(&bench).await;
}

#[tokio::test]
async fn restart_on_a_running_machine_starts_nothing_and_says_nothing() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let first = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    becomes_ready(&bench).await;
    first.stop().await;
    let starts = bench.starts();

    let _second = bench.supervisor(bench.machine());
    assert!(is_ready(&bench).await, "ready with the first answer");
    assert_eq!(bench.starts(), starts);
    assert_eq!(bench.further_lines(), []);
}

#[tokio::test]
async fn crash_during_start_up_repeats_it() {
    let mut bench = Bench::new();
    let first = bench.supervisor(bench.machine());
    bench.lines_until("The security service did not start").await;
    first.stop().await;
    let _services = bench.willing_services();
    let _second = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    becomes_ready(&bench).await;
}

#[tokio::test]
async fn environment_is_answered_when_every_other_service_is_down() {
    let bench = Bench::new();
    let mut machine = bench.machine();
    let uuid = "4c4c4544-0042-4a10-8053-b8c04f4d5231";
    machine.firmware_facts.insert("product_uuid".into(), uuid.into());
    let supervisor = bench.supervisor(machine);
    let environment = bench.peers().supervisor().get_environment(Empty {}).await.unwrap().into_inner();
    assert_eq!(environment.hostname, uuid);
    assert_eq!(environment.machine_id, "0123456789abcdef0123456789abcdef");
    assert_eq!((environment.os_name.as_str(), environment.os_version.as_str()), ("IncusOS", "202611220000"));
    assert_eq!((environment.os_version_next.as_str(), environment.uptime), ("", 1234));
    supervisor.stop().await;

    let _supervisor = bench.supervisor(bench.machine());
    let environment = bench.peers().supervisor().get_environment(Empty {}).await.unwrap().into_inner();
    assert_eq!(environment.hostname, "0123456789abcdef0123456789abcdef");
}

#[tokio::test]
async fn environment_quotes_the_other_services() {
    let bench = Bench::new();
    let _network = bench.network([]);
    let _update = bench.update();
    let _supervisor = bench.supervisor(bench.machine());
    let environment = bench.peers().supervisor().get_environment(Empty {}).await.unwrap().into_inner();
    assert_eq!(environment.hostname, "host.example.org");
    assert_eq!(environment.os_version_next, "202611230000");
    assert_eq!(environment.os_version_alternate, "202611210000");
}

#[tokio::test]
async fn operator_lines_of_others_carry_their_name() {
    let mut bench = Bench::new();
    let _services = bench.willing_services();
    let _supervisor = bench.supervisor(bench.machine());
    bench.lines_until("System is ready").await;
    let line = OperatorLine {
        level: Level::Warn.into(),
        message: "two\nlines".into(),
        attributes: [("b", "2"), ("a", "1")].map(|(key, value)| (key.into(), value.into())).into(),
    };
    let mut client = bench.peers().supervisor();
    client.write_operator_line(line.clone()).await.unwrap();
    let entry = bench.entry().await;
    assert_eq!(&entry.message[20..], "WARN two lines a=1 b=2");
    assert_eq!((entry.priority.as_str(), entry.component.as_str()), ("4", "gateway"));

    let refused = client.write_operator_line(OperatorLine { message: " \n".into(), ..line }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}
