//! Screens against golden ones. `UPDATE_GOLDEN=1 cargo test -p console` writes
//! them anew.

use std::{fs, path::Path};

use modal::{Category, Percent};
use ratatui_core::{backend::TestBackend, terminal::Terminal};

use super::*;
use crate::menu::{Action, TypedKey};

fn busy_view() -> View {
    let mut view = View {
        hostname: "node1.example.org".into(),
        system: "IncusOS 202611220101".into(),
        clock: "2026-11-28 02:40 UTC".into(),
        notices: vec![
            (Severity::Error, "Degraded security state: using swtpm".into()),
            (Severity::Error, "Degraded security state: Secure Boot is disabled".into()),
        ],
        footer: vec![
            Fact::Warning(
                Severity::Error,
                "The recovery keys were not retrieved yet: incus admin os system security show".into(),
            ),
            Fact::Named("Installed application(s)", "incus(7.0.2)".into()),
            Fact::Named(
                "Machine",
                "QEMU Virtual CPU version 2.5+ (numa=1, sockets=2, cores=2, threads=2) (x86_64) / 2GiB memory".into(),
            ),
            Fact::Named("Network configuration", "enp5s0(192.0.2.10, 2001:db8::5054:ff:fe12:3456)".into()),
            Fact::Named("API address", "https://192.0.2.10:9443, https://[2001:db8::5054:ff:fe12:3456]:9443".into()),
        ],
        ..View::default()
    };
    for line in [
        "2026-11-28 02:39:01 INFO System is starting up machine-id=0123456789abcdef0123456789abcdef mode=dev version=202611220101",
        "2026-11-28 02:39:02 WARN Degraded security state: using swtpm",
        "2026-11-28 02:39:03 INFO Bringing up the network",
        "2026-11-28 02:39:09 ERROR The seed has a mistake reason=network.yaml: interfaces: expected a list",
        "2026-11-28 02:39:10 INFO System is ready version=202611220101",
    ] {
        view.log(line);
    }
    view
}

fn installing() -> View {
    let mut view = View {
        is_installing: true,
        system: "IncusOS 202611220101".into(),
        clock: "2026-11-28 02:40 UTC".into(),
        installer: Some(Modal {
            category: Category::Install,
            title: "Installing IncusOS".into(),
            text: "From /dev/sda to /dev/disk/by-id/virtio-root.\nCopying partition 5 of 11 (2 GiB)".into(),
            severity: Severity::Info,
            progress: Some(Percent::of(42, 100)),
        }),
        ..busy_view()
    };
    view.hostname.clear();
    view.log("2026-11-28 02:39:55 INFO Starting the installation");
    view
}

fn drawn(view: &View, page: &Page, turn: usize, (width, height): (u16, u16)) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            render(view, page, turn, frame.area(), frame.buffer_mut());
        })
        .unwrap();
    terminal
}

fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let row = |cells: &[ratatui_core::buffer::Cell]| {
        let text: String = cells.iter().map(ratatui_core::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    };
    buffer.content().chunks(width).map(row).collect()
}

fn assert_golden(name: &str, view: &View, page: &Page, size: (u16, u16)) {
    let text = lines(&drawn(view, page, 0, size)).join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == golden, "{} differs from:\n{text}", path.display());
}

/// Foreground of the first cell of `text`.
fn color_of(terminal: &Terminal<TestBackend>, text: &str) -> Color {
    let buffer = terminal.backend().buffer();
    let (x, y) = (0..buffer.area.height)
        .find_map(|y| {
            let row: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
            let column = row.find(text).map(|byte| row[..byte].chars().count())?;
            Some((u16::try_from(column).unwrap(), y))
        })
        .unwrap_or_else(|| panic!("{text:?} is not on the screen"));
    buffer[(x, y)].fg
}

#[test]
fn status_screen_fits_common_terminals() {
    let view = busy_view();
    assert_golden("status-80x24", &view, &Page::Status, (80, 24));
    assert_golden("status-132x43", &view, &Page::Status, (132, 43));
    assert_golden("status-40x12", &view, &Page::Status, (40, 12));
    assert_golden("status-16x4", &view, &Page::Status, (16, 4));
}

#[test]
fn installation_has_the_screen_for_itself() {
    assert_golden("installing-80x24", &installing(), &Page::Status, (80, 24));
    assert_golden("installing-30x8", &installing(), &Page::Status, (30, 8));
}

#[test]
fn pages_of_the_menu() {
    let view = busy_view();
    assert_golden("menu-80x24", &view, &Page::Menu { selected: 5 }, (80, 24));
    assert_golden("logs-80x24", &view, &Page::Logs { selected: 0 }, (80, 24));
    let confirm = Page::Confirm { action: Action::Reboot, agreed: false };
    assert_golden("confirm-80x24", &view, &confirm, (80, 24));
    let mut key = TypedKey::new();
    key.push('x');
    key.push('y');
    let unlock = Page::Unlock { action: Action::PowerOff, key, note: "Wrong recovery key (2 so far).".into() };
    assert_golden("unlock-80x24", &view, &unlock, (80, 24));
    let text: Vec<_> = (1..=60).map(|n| format!("line {n}")).collect();
    let text = Page::Text { title: "incus-osd", lines: Some(text), below: 3 };
    assert_golden("text-40x10", &view, &text, (40, 10));
}

#[test]
fn every_size_is_drawn() {
    let mut key = TypedKey::new();
    key.push('x');
    let pages = [
        Page::Status,
        Page::Menu { selected: 6 },
        Page::Logs { selected: 3 },
        Page::Text { title: "t", lines: None, below: 0 },
        Page::Text { title: "t", lines: Some(vec!["中文 text".into(); 40]), below: usize::MAX },
        Page::Confirm { action: Action::Reboot, agreed: true },
        Page::Unlock { action: Action::Reboot, key, note: "no".into() },
        Page::Busy { action: Action::Reboot },
        Page::Outcome { title: "t", text: "中文".into(), severity: Severity::Error },
    ];
    for view in [busy_view(), installing(), View::default()] {
        for page in &pages {
            for width in (0..12).chain([40, 80, 300]) {
                for height in (0..12).chain([24, 100]) {
                    let area = Rect::new(0, 0, width, height);
                    render(&view, page, 7, area, &mut Buffer::empty(area));
                }
            }
        }
    }
}

#[test]
fn colours_tell_how_bad_it_is() {
    let screen = drawn(&busy_view(), &Page::Status, 0, (132, 43));
    assert_eq!(color_of(&screen, "Degraded security state: using swtpm"), Color::Red);
    assert_eq!(color_of(&screen, "The recovery keys"), Color::Red);
    assert_eq!(color_of(&screen, "Machine:"), Color::Green);
    assert_eq!(color_of(&screen, "INFO System is starting"), Color::Green);
    assert_eq!(color_of(&screen, "WARN Degraded"), Color::Yellow);
    assert_eq!(color_of(&screen, "ERROR The seed"), Color::Red);
    assert_eq!(color_of(&screen, "version=202611220101"), Color::Magenta);
    assert_eq!(color_of(&screen, "System is ready"), Color::Reset);
}

#[test]
fn several_messages_take_turns() {
    let message = |category, title: &str| Modal {
        category,
        title: title.into(),
        text: "\x1b[31mtext".into(),
        severity: Severity::Warning,
        progress: None,
    };
    let mut view = busy_view();
    view.modals = vec![message(Category::Update, "Update"), message(Category::Shutdown, "Shut\x1b[2Jdown")];
    let titles = |turn| lines(&drawn(&view, &Page::Status, turn, (80, 24))).join("\n");
    assert!(titles(0).contains(" [1/2] Update ") && titles(2).contains(" [1/2] Update "));
    assert!(titles(1).contains(" [2/2] Shut [2Jdown "));
    view.modals.pop();
    let alone = lines(&drawn(&view, &Page::Status, 5, (80, 24))).join("\n");
    assert!(alone.contains(" Update ") && !alone.contains("[1/"), "{alone}");
}

#[test]
fn newest_line_is_at_the_bottom_however_long_the_others_are() {
    let mut view = busy_view();
    for n in 0..50 {
        view.log(&format!("2026-11-28 02:41:00 INFO {n} {}", "long ".repeat(60)));
    }
    view.log("2026-11-28 02:41:01 INFO the newest");
    let screen = lines(&drawn(&view, &Page::Status, 0, (80, 24)));
    let newest = screen.iter().position(|line| line.contains("the newest")).unwrap();
    assert!(screen[newest + 1].starts_with('└'), "{screen:#?}");
}

#[test]
fn lines_of_other_forms_have_no_colours() {
    for line in ["", "short", "2026-11-28 02:41:00 NOTICE text", "2026-11-28 02:41:00 INFOtext", "ééééééééééééé a=b"]
    {
        assert_eq!(log_spans(line), [Span::raw(line)], "{line:?}");
    }
    assert_eq!(first_attribute(" a=b"), Some(1));
    assert_eq!(first_attribute(" see https://host/?a=b now"), None);
    assert_eq!(first_attribute(" two words machine-id=1 x=2"), Some(11));
}
