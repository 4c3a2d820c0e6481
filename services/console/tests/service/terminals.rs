//! Terminals that come, go, hang and differ.

use std::os::fd::OwnedFd;

use rustix::termios::{LocalModes, tcgetattr};

use crate::bench::Bench;

#[tokio::test]
async fn new_size_is_taken_over() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    terminal.resize(132, 43);
    let screen = terminal.until("a larger screen", |screen| screen.lines().count() == 43).await;
    let first = screen.lines().next().unwrap();
    assert_eq!((first.len(), first.ends_with(" UTC")), (132, true), "{screen}");
    terminal.resize(40, 12);
    terminal
        .until("a smaller screen", |screen| {
            screen.lines().count() == 12 && screen.lines().next().is_some_and(|line| line.ends_with("UTC"))
        })
        .await;
}

#[tokio::test]
async fn dead_terminal_disturbs_no_other_and_comes_back() {
    let bench = Bench::new();
    let mut first = bench.terminal("tty1", Some((80, 24)));
    let mut second = bench.terminal("ttyS0", None);
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    first.shows("API address").await;
    second.shows("API address").await;
    drop(second);
    bench.journal.line("still here").await;
    first.shows("still here").await;
    let mut again = bench.terminal("ttyS0", None);
    again.shows("still here").await;
}

#[tokio::test]
async fn stuck_terminal_disturbs_no_other() {
    let bench = Bench::new();
    let mut first = bench.terminal("tty1", Some((80, 24)));
    // Nobody reads it, and it takes a few kilobytes at most.
    let _stuck = bench.terminal("ttyS0", Some((250, 100)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    for n in 0..100 {
        bench.journal.line(&format!("line {n} {}", "x".repeat(300))).await;
        if n % 20 == 0 {
            first.shows(&format!("line {n} ")).await;
        }
    }
    bench.journal.line("the last line").await;
    first.shows("the last line").await;
}

#[tokio::test]
async fn machine_without_any_terminal_is_no_failure() {
    let bench = Bench::new();
    let (_supervisor, console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    // One that is no terminal at all, and later a real one.
    std::fs::write(bench.root().join("dev/ttyS0"), "").unwrap();
    let mut late = bench.terminal("tty1", Some((80, 24)));
    late.shows("API address").await;
    console.stop().await;
}

#[tokio::test]
async fn two_names_of_one_terminal_are_one() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("ttyS0", None);
    std::os::unix::fs::symlink(&terminal.path, bench.root().join("dev/ttyS7")).unwrap();
    bench.services.configure("/dev/ttyS7", 0);
    bench.services.configure("/dev/console", 0);
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    terminal.shows("API address").await;
    bench.journal.line("only-once").await;
    terminal.shows("only-once").await;
    assert_eq!(terminal.count_sent(b"only-once"), 1);
}

#[tokio::test]
async fn missing_console_of_the_settings_is_one_warning() {
    let bench = Bench::new();
    bench.services.configure("/dev/ttyS9", 115_200);
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, _console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    let told = bench.services.until("a warning", |state| (!state.lines.is_empty()).then(|| state.lines.clone())).await;
    assert_eq!(told.len(), 1);
    assert_eq!(bench.services.lines(), ["A console of the settings does not exist device=/dev/ttyS9"]);
    let mut late = bench.terminal("ttyS9", None);
    late.shows("API address").await;
    assert_eq!(bench.services.lines().len(), 1, "{:?}", bench.services.lines());
}

#[tokio::test]
async fn speed_of_the_settings_is_set() {
    let bench = Bench::new();
    bench.services.configure("/dev/ttyS0", 9600);
    let mut terminal = bench.terminal("ttyS0", None);
    assert_ne!(tcgetattr(&terminal.device).unwrap().output_speed(), 9600);
    let (_supervisor, console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    let speed = || tcgetattr(&terminal.device).unwrap().output_speed();
    bench.services.until("the speed", |_| (speed() == 9600).then_some(())).await;
    console.stop().await;
    assert_eq!(tcgetattr(&terminal.device).unwrap().output_speed(), 9600, "it stays for the kernel");
}

fn modes(device: &OwnedFd) -> LocalModes {
    tcgetattr(device).unwrap().local_modes
}

#[tokio::test]
async fn terminals_are_given_back() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let before = modes(&terminal.device);
    assert!(before.contains(LocalModes::ECHO | LocalModes::ISIG));
    let (_supervisor, console) = (bench.supervisor(), bench.console());
    terminal.shows("API address").await;
    assert!(!modes(&terminal.device).intersects(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
    console.stop().await;
    assert_eq!(modes(&terminal.device), before);
    terminal.drain();
    assert_eq!((terminal.screen().trim(), terminal.hides_cursor()), ("", false));
}

#[tokio::test]
async fn killed_console_takes_up_where_it_was() {
    let bench = Bench::new();
    let mut terminal = bench.terminal("tty1", Some((80, 24)));
    let (_supervisor, console) = (bench.supervisor(), bench.console());
    bench.journal.is_followed().await;
    bench.journal.line("before").await;
    terminal.shows("before").await;
    terminal.press(b"m").await;
    terminal.shows("Power off").await;
    console.kill().await;
    let _again = bench.console();
    let screen =
        terminal.until("the status screen", |screen| screen.contains("before") && screen.contains("API address")).await;
    assert!(!screen.contains("Power off"), "{screen}");
}
