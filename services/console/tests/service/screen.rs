//! What is shown.

use api::v1::Modals;
use modal::{Category, Modal, Percent, Severity};
use serde_json::json;

use crate::bench::{Bench, PATIENCE, write};

fn message(category: Category, title: &str) -> Modal {
    Modal {
        category,
        title: title.into(),
        text: "some text".into(),
        severity: Severity::Info,
        progress: Some(Percent::of(1, 2)),
    }
}

#[tokio::test]
async fn every_terminal_shows_the_machine() {
    let bench = Bench::new();
    bench.journal.line("2026-11-28 02:39:10 INFO System is ready version=202611220101").await;
    let mut first = bench.terminal("tty1", Some((100, 30)));
    let mut serial = bench.terminal("ttyS0", None);
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    for (terminal, last_row) in [(&mut first, 29), (&mut serial, 23)] {
        let screen = terminal.shows("https://192.0.2.10:9443").await;
        let rows: Vec<_> = screen.lines().collect();
        assert!(rows[0].starts_with("node1 ") && rows[0].contains("IncusOS 202611220101"), "{screen}");
        assert!(rows[0].ends_with(" UTC"), "{screen}");
        assert_eq!(rows[1].trim(), "Degraded security state: using swtpm");
        assert!(rows[last_row].starts_with("API address: "), "{screen}");
        for text in ["The recovery keys were not retrieved", "(x86_64)", "Network configuration: eth0(192.0.2.10)"] {
            assert!(screen.contains(text), "{text}: {screen}");
        }
        terminal.shows("INFO System is ready version=202611220101").await;
        assert!(terminal.hides_cursor());
    }
}

#[tokio::test]
async fn new_lines_appear_at_once_and_hostile_ones_drive_no_terminal() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let _console = bench.console();
    bench.journal.is_followed().await;
    bench.journal.line("first").await;
    terminal.shows("first").await;
    let cleared = terminal.count_sent(b"\x1b[2J");
    bench.journal.line("a\x1b[2J\x1b]0;owned\x07\x1b[31mred\u{9b}2Jb\r\n\x1bcc\u{202e}reversed").await;
    bench.journal.write(&json!({ "MESSAGE": [27, 99, 255, 104, 105], "_TRANSPORT": "journal" })).await;
    bench.journal.write(&json!({ "MESSAGE": null, "_TRANSPORT": "journal" })).await;
    bench.journal.line("last").await;
    let screen = terminal.shows("last").await;
    assert!(screen.contains("a [2J ]0;owned  [31mred 2Jb"), "{screen}");
    assert_eq!(terminal.count_sent("c\u{fffd}".as_bytes()), 1, "{screen}");
    for part in [&b"\x1b]"[..], b"\x1bc", b"\x1b[31m", b"\x07", "\u{202e}".as_bytes(), "\u{9b}".as_bytes()] {
        assert_eq!(terminal.count_sent(part), 0, "{part:?}");
    }
    assert_eq!(terminal.count_sent(b"\x1b[2J"), cleared);
}

#[tokio::test]
async fn journal_that_breaks_off_is_read_again() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let _console = bench.console();
    bench.journal.is_followed().await;
    bench.journal.line("before").await;
    terminal.shows("before").await;
    bench.journal.break_off();
    bench.journal.is_followed().await;
    bench.journal.line("after").await;
    let screen = terminal.shows("after").await;
    assert_eq!(screen.matches("before").count(), 1, "{screen}");
}

#[tokio::test]
async fn messages_of_the_services_come_and_go() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    let update = message(Category::Update, "Update");
    bench.services.modals.send_replace(Modals { modals: vec![update.clone().into()] });
    let screen = terminal.shows(" Update ").await;
    assert!(screen.contains("some text") && screen.contains("50%"), "{screen}");
    let shutdown = message(Category::Shutdown, "Shutdown");
    bench.services.modals.send_replace(Modals { modals: vec![update.into(), shutdown.into()] });
    terminal.shows("[1/2] Update").await;
    terminal.shows("[2/2] Shutdown").await;
    bench.services.modals.send_replace(Modals::default());
    terminal.until("the messages to be gone", |screen| !screen.contains("/2]") && screen.contains("API address")).await;
}

#[tokio::test]
async fn installer_is_shown_without_any_other_service() {
    let bench = Bench::new();
    write(&bench.root().join("run/incus-os/install"), "");
    let status = bench.root().join("run/incus-os/console/status.json");
    message(Category::Install, "Installing").write(&status).unwrap();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let _console = bench.console();
    bench.journal.line("2026-11-28 02:39:10 INFO Starting the installation").await;
    let screen = terminal.shows(" Installing ").await;
    assert!(screen.contains("50%") && screen.contains("IncusOS 202611220101"), "{screen}");
    assert!(!screen.contains("API address") && !screen.contains("menu"), "{screen}");
    // Replaced, damaged (which changes nothing), and taken away.
    let done = Modal { progress: Some(Percent::of(1, 1)), ..message(Category::Install, "Installed") };
    done.write(&status).unwrap();
    terminal.shows("100%").await;
    write(&status, "{");
    terminal.press(b"m\x1bOQ").await;
    Modal::clear(&status).unwrap();
    terminal.until("the message to be gone", |screen| !screen.contains("Installed")).await;
    terminal.shows("INFO Starting the installation").await;
    assert!(!terminal.screen().contains("Reboot"), "no menu: {}", terminal.screen());
}

#[tokio::test]
async fn silent_supervisor_is_told_and_what_it_said_stays() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let supervisor = bench.supervisor();
    let _console = bench.console();
    terminal.shows("https://192.0.2.10:9443").await;
    supervisor.stop().await;
    let screen = terminal.shows("The supervisor does not answer").await;
    assert!(screen.contains("node1") && screen.contains("eth0(192.0.2.10)"), "{screen}");
    let _supervisor = bench.supervisor();
    terminal.until("the note to be gone", |screen| !screen.contains("does not answer")).await;
}

#[tokio::test]
async fn what_the_kernel_wrote_is_painted_over_without_flicker() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    terminal.shows("https://192.0.2.10:9443").await;
    let cleared = terminal.count_sent(b"\x1b[2J");
    rustix::io::write(&terminal.device, b"\x1b[5;5HOops: 0000 [#1]").unwrap();
    terminal.shows("Oops: 0000").await;
    bench.journal.write(&json!({ "MESSAGE": "Oops: 0000 [#1]", "_TRANSPORT": "kernel" })).await;
    terminal.until("the oops to be gone", |screen| !screen.contains("Oops")).await;
    assert_eq!(terminal.count_sent(b"\x1b[2J"), cleared);
    assert!(bench.journal.calls()[0].contains("+ _TRANSPORT=kernel PRIORITY=0"), "{:?}", bench.journal.calls());
}

#[tokio::test]
async fn everything_is_drawn_again_from_time_to_time() {
    let mut bench = Bench::new();
    bench.pace.repaint = std::time::Duration::from_millis(50);
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let _console = bench.console();
    terminal.shows("IncusOS 202611220101").await;
    rustix::io::write(&terminal.device, b"\x1b[1;30Hxxxxxxxxxxxxxxxx").unwrap();
    let wait = terminal.until("the foreign text to be gone", |screen| {
        !screen.contains("xxx") && screen.contains("IncusOS 202611220101")
    });
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}
