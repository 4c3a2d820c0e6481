//! What can be done at a terminal, and what cannot.

use api::v1::{PowerRequest, power_request::Action};
use tonic::Code;

use crate::bench::{Bench, KEY, Running, Terminal};

const F2: &[u8] = b"\x1bOQ";
const DOWN: &[u8] = b"\x1b[B";

async fn started(bench: &Bench, name: &str) -> (Terminal, [Running; 3]) {
    let size = (name == "tty1").then_some((80, 24));
    let mut terminal = bench.terminal(name, size);
    let services = [bench.supervisor(), bench.security(), bench.console()];
    terminal.shows("API address").await;
    (terminal, services)
}

/// Up to the question for a recovery key.
async fn ask_for_reboot(terminal: &mut Terminal) {
    terminal.press(F2).await;
    terminal.shows("6  Reboot").await;
    terminal.press(b"6").await;
    terminal.shows("Everything that runs on it is stopped.").await;
    terminal.press(DOWN).await;
    terminal.press(b"\r").await;
    terminal.shows("Recovery key: _").await;
}

#[tokio::test]
async fn reboot_takes_a_confirmation_and_a_recovery_key() {
    let bench = Bench::new();
    let (mut terminal, _services) = started(&bench, "tty1").await;
    ask_for_reboot(&mut terminal).await;
    terminal.press(KEY.as_bytes()).await;
    let screen = terminal.shows(&format!("Recovery key: {}_", "*".repeat(KEY.len()))).await;
    assert!(!screen.contains("horse"), "{screen}");
    terminal.press(b"\r").await;
    terminal.shows("It is under way.").await;
    let state = bench.services.state.lock().unwrap();
    assert_eq!(state.power, [PowerRequest { action: Action::Reboot.into() }]);
    drop(state);
    assert_eq!(bench.services.lines(), ["An action was chosen at a console action=Reboot terminal=tty1"]);
    assert_eq!(terminal.count_sent(b"horse"), 0);
}

#[tokio::test]
async fn wrong_key_is_counted_and_the_next_one_has_to_wait() {
    let bench = Bench::new();
    let (mut terminal, _services) = started(&bench, "ttyS0").await;
    ask_for_reboot(&mut terminal).await;
    terminal.press(b"wrong\r").await;
    terminal.shows("Wrong recovery key (1 so far). The next try is in 2 s.").await;
    // The right one, but too early: it is not even looked at.
    terminal.press(KEY.as_bytes()).await;
    terminal.press(b"\r").await;
    terminal.shows("Not tried. The next try is in ").await;
    let state = bench.services.state.lock().unwrap();
    assert_eq!((&state.keys[..], state.power.len()), (&["wrong".to_owned()][..], 0));
    drop(state);
    assert_eq!(bench.services.lines(), ["Wrong recovery key at a console terminal=ttyS0 wrong=1"]);
}

#[tokio::test]
async fn wrong_keys_of_all_terminals_count_together() {
    let bench = Bench::new();
    let mut other = bench.terminal("ttyS0", None);
    let (mut first, _services) = started(&bench, "tty1").await;
    other.shows("API address").await;
    ask_for_reboot(&mut first).await;
    first.press(b"wrong\r").await;
    first.shows("(1 so far)").await;
    ask_for_reboot(&mut other).await;
    other.press(KEY.as_bytes()).await;
    other.press(b"\r").await;
    other.shows("Not tried.").await;
    assert!(bench.services.state.lock().unwrap().power.is_empty());
}

#[tokio::test]
async fn keys_that_cannot_be_checked_open_nothing() {
    let bench = Bench::new();
    for (code, text) in
        [(Code::Unimplemented, "not supported yet"), (Code::Internal, "no volume"), (Code::NotFound, "?")]
    {
        bench.services.state.lock().unwrap().verdict = Some((code, text));
        let (mut terminal, services) = started(&bench, "tty1").await;
        ask_for_reboot(&mut terminal).await;
        terminal.press(KEY.as_bytes()).await;
        terminal.press(b"\r").await;
        terminal.shows(&format!("The recovery key cannot be checked: {text}")).await;
        for service in services {
            service.stop().await;
        }
    }
    assert!(bench.services.state.lock().unwrap().power.is_empty());
}

#[tokio::test]
async fn absent_security_service_opens_nothing() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    ask_for_reboot(&mut terminal).await;
    terminal.press(KEY.as_bytes()).await;
    terminal.press(b"\r").await;
    terminal.shows("cannot be checked: the security service").await;
    assert!(bench.services.state.lock().unwrap().power.is_empty());
}

#[tokio::test]
async fn interrupts_and_stray_bytes_neither_end_nor_do_anything() {
    let bench = Bench::new();
    let (mut terminal, _services) = started(&bench, "tty1").await;
    terminal.press(b"\x03\x04\x1a\x1c\x13\x00\xff\xfe\x1b[999~\x1b[200~reboot\x1b[201~").await;
    // No sequence opened the menu by itself; this does, and all still works.
    terminal.press(b"\x1b[12~").await;
    terminal.shows("6  Reboot").await;
    terminal.press(b"\x03").await;
    terminal.press(b"\x1b").await;
    terminal.shows("API address").await;
    let state = bench.services.state.lock().unwrap();
    assert!(state.power.is_empty() && state.keys.is_empty() && state.lines.is_empty());
}

#[tokio::test]
async fn logs_are_read_and_hostile_ones_drive_no_terminal() {
    let bench = Bench::new();
    let log: String = (1..=100).map(|n| format!("Nov 28 02:40:00 incus-osd[1]: line {n}\x1b[2J\x1bc\n")).collect();
    bench.journal.text("--unit=incus-osd.service", &log);
    let (mut terminal, _services) = started(&bench, "ttyS0").await;
    terminal.press(b"m1").await;
    terminal.shows("7  incus-osd-console").await;
    let cleared = terminal.count_sent(b"\x1b[2J");
    terminal.press(b"1").await;
    terminal.shows("line 100").await;
    terminal.press(b"\x1b[1~").await;
    let screen = terminal.until("the first line", |screen| screen.contains("line 1 ")).await;
    assert!(!screen.contains("line 100"), "{screen}");
    terminal.press(b"\x1b[5~\x1b[5~\x1b[4~").await;
    terminal.shows("line 100").await;
    assert_eq!((terminal.count_sent(b"\x1b[2J"), terminal.count_sent(b"\x1bc")), (cleared, 0));
    let call =
        "journalctl --no-pager --quiet --no-hostname --output=short --lines=300 --boot=0 --unit=incus-osd.service";
    assert!(bench.journal.calls().iter().any(|known| known == call), "{:?}", bench.journal.calls());
}

#[tokio::test]
async fn reasons_of_a_failed_start_and_of_the_tpm_are_told() {
    let bench = Bench::new();
    bench.journal.text("--boot=-1", "Nov 28 02:00:00 kernel: EXT4-fs error\n");
    bench.journal.text("--unit=systemd-cryptsetup@root.service", "Nov 28 02:00:00 systemd-cryptsetup: no TPM token\n");
    bench.services.state.lock().unwrap().overview.environment.as_mut().unwrap().os_version_alternate =
        "202610010101".into();
    let (mut terminal, _services) = started(&bench, "tty1").await;
    terminal.press(b"m2").await;
    let screen = terminal.shows("EXT4-fs error").await;
    assert!(screen.contains("202611220101") && screen.contains("202610010101"), "{screen}");
    terminal.press(b"q").await;
    terminal.shows("3  TPM").await;
    terminal.press(b"3").await;
    let screen = terminal.shows("no TPM token").await;
    for text in ["swtpm: a program", "Secure Boot: enabled", "Volume root: unlocked (TPM)"] {
        assert!(screen.contains(text), "{text}: {screen}");
    }
}

#[tokio::test]
async fn what_no_service_can_do_says_so() {
    let bench = Bench::new();
    let (mut terminal, _services) = started(&bench, "tty1").await;
    terminal.press(b"m").await;
    let screen = terminal.shows("(not available)").await;
    assert_eq!(screen.matches("(not available)").count(), 2, "{screen}");
    terminal.press(b"5").await;
    terminal.shows("Not available: The update service").await;
}

#[tokio::test]
async fn menu_of_one_terminal_is_not_on_the_other() {
    let bench = Bench::new();
    let mut other = bench.terminal("ttyS0", None);
    let (mut first, _services) = started(&bench, "tty1").await;
    first.press(b"m").await;
    first.shows("7  Power off").await;
    bench.journal.line("something new").await;
    let screen = other.shows("something new").await;
    assert!(!screen.contains("Power off"), "{screen}");
    assert!(first.screen().contains("Power off"));
}
