//! The menu of one terminal: which page is open, and what a key does to it.
//!
//! Nothing in here acts. A page makes a [`Request`], which [`crate::desk`]
//! answers; and whatever changes the machine asks twice: for a confirmation and
//! for a recovery key.

use std::fmt;

use modal::Severity;
use service::Identity;
use zeroize::{Zeroize as _, Zeroizing};

use crate::keys::Key;

/// Longest key that can be typed, in bytes.
const KEY_LIMIT: usize = 256;

/// How far a page of text moves with one key.
const PAGE_LINES: usize = 10;

/// What can be chosen in the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Logs,
    LastBoot,
    Tpm,
    Do(Action),
}

impl Entry {
    pub(crate) const ALL: [Self; 7] = [
        Self::Logs,
        Self::LastBoot,
        Self::Tpm,
        Self::Do(Action::NetworkBack),
        Self::Do(Action::OtherVersion),
        Self::Do(Action::Reboot),
        Self::Do(Action::PowerOff),
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Logs => "Logs of a service",
            Self::LastBoot => "Why the last start failed",
            Self::Tpm => "TPM and disk encryption",
            Self::Do(action) => action.title(),
        }
    }

    /// Why it cannot be chosen.
    pub(crate) fn unavailable(self) -> Option<&'static str> {
        match self {
            Self::Do(action) => action.unavailable(),
            _ => None,
        }
    }
}

/// What changes the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    NetworkBack,
    OtherVersion,
    Reboot,
    PowerOff,
}

impl Action {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::NetworkBack => "Network: back to the last good configuration",
            Self::OtherVersion => "Boot the other version",
            Self::Reboot => "Reboot",
            Self::PowerOff => "Power off",
        }
    }

    /// What is lost by it.
    pub(crate) fn consequence(self) -> &'static str {
        match self {
            Self::NetworkBack => "The last change of the network configuration is undone.",
            Self::OtherVersion => "The machine reboots into the other version. Everything that runs on it is stopped.",
            Self::Reboot => "The machine reboots. Everything that runs on it is stopped.",
            Self::PowerOff => "The machine is switched off. Everything that runs on it is stopped.",
        }
    }

    /// Why no service can do it.
    pub(crate) fn unavailable(self) -> Option<&'static str> {
        match self {
            Self::NetworkBack => Some("The network service does not keep earlier configurations yet."),
            Self::OtherVersion => Some("The update service cannot choose the version of the next start yet."),
            Self::Reboot | Self::PowerOff => None,
        }
    }
}

/// A log that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogOf {
    Service(Identity),
    Kernel,
    Problems,
}

impl LogOf {
    /// Every log, in the order of the page.
    pub(crate) fn all() -> Vec<Self> {
        Identity::ALL.into_iter().map(Self::Service).chain([Self::Kernel, Self::Problems]).collect()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Service(identity) => identity.unit(),
            Self::Kernel => "kernel",
            Self::Problems => "warnings and errors of everything",
        }
    }
}

/// A recovery key as it is typed: never printed, wiped when it is dropped.
#[derive(PartialEq, Eq)]
pub(crate) struct TypedKey(Zeroizing<String>);

impl TypedKey {
    /// An empty one. It never grows in memory, so no copy of a part is left behind.
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(String::with_capacity(KEY_LIMIT)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn push(&mut self, c: char) {
        if self.0.len() + c.len_utf8() <= KEY_LIMIT {
            self.0.push(c);
        }
    }
}

impl fmt::Debug for TypedKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a key of {} bytes", self.0.len())
    }
}

/// What a page wants to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Log(LogOf),
    LastBoot,
    Tpm,
    /// With the recovery key that was typed.
    Perform(Action, TypedKey),
}

/// What has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Plain text to read, and whether its end matters more than its beginning.
    Text { lines: Vec<String>, from_end: bool },
    /// The action was started.
    Done(String),
    /// The key was not taken; another may be tried.
    Refused(String),
    /// Nothing was done.
    Failed(String),
}

/// Names a request, so that an answer that comes late does not open a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What a terminal shows over the status screen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing: the status screen itself.
    #[default]
    Status,
    Menu {
        selected: usize,
    },
    Logs {
        selected: usize,
    },
    /// Text to read. `lines` are `None` while it is being fetched.
    Text {
        title: &'static str,
        lines: Option<Vec<String>>,
        /// Lines below the last one shown.
        below: usize,
    },
    Confirm {
        action: Action,
        agreed: bool,
    },
    Unlock {
        action: Action,
        key: TypedKey,
        /// Why an earlier key was not taken.
        note: String,
    },
    /// The action is under way.
    Busy {
        action: Action,
    },
    Outcome {
        title: &'static str,
        text: String,
        severity: Severity,
    },
}

/// The menu of one terminal.
#[derive(Debug, Default)]
pub(crate) struct Menu {
    pub(crate) page: Page,
    ticket: Ticket,
}

impl Menu {
    /// Whether something lies over the status screen.
    pub(crate) fn is_open(&self) -> bool {
        self.page != Page::Status
    }

    /// Back to the status screen. A key that was typed is wiped.
    pub(crate) fn close(&mut self) {
        self.turn_to(Page::Status);
    }

    /// Keeps a page of text from being moved beyond its first line, of which the
    /// number of its lines on the screen decides.
    pub(crate) fn limit(&mut self, most: usize) {
        if let Page::Text { below, .. } = &mut self.page {
            *below = (*below).min(most);
        }
    }

    /// What the key does: to the page, and what it asks for.
    pub(crate) fn press(&mut self, key: Key) -> Option<(Ticket, Request)> {
        let request = match &mut self.page {
            Page::Status => {
                if matches!(key, Key::F2 | Key::Char('m' | 'M')) {
                    self.turn_to(Page::Menu { selected: 0 });
                }
                None
            }
            Page::Menu { selected } => match choose(key, selected, Entry::ALL.len()) {
                Choice::Moved => None,
                Choice::Left => {
                    self.close();
                    None
                }
                Choice::Made(index) => self.open(Entry::ALL[index]),
            },
            Page::Logs { selected } => {
                let logs = LogOf::all();
                match choose(key, selected, logs.len()) {
                    Choice::Moved => None,
                    Choice::Left => {
                        self.back_to_menu(Entry::Logs);
                        None
                    }
                    Choice::Made(index) => {
                        self.read(logs[index].title());
                        Some(Request::Log(logs[index]))
                    }
                }
            }
            Page::Text { below, .. } => {
                match key {
                    Key::Up | Key::Char('k') => *below = below.saturating_add(1),
                    Key::Down | Key::Char('j') => *below = below.saturating_sub(1),
                    Key::PageUp => *below = below.saturating_add(PAGE_LINES),
                    Key::PageDown | Key::Char(' ') => *below = below.saturating_sub(PAGE_LINES),
                    Key::Home => *below = usize::MAX,
                    Key::End => *below = 0,
                    Key::Enter | Key::Escape | Key::Char('q') | Key::F2 => self.turn_to(Page::Menu { selected: 0 }),
                    _ => {}
                }
                None
            }
            Page::Confirm { action, agreed } => {
                let action = *action;
                match key {
                    Key::Up | Key::Down => *agreed = !*agreed,
                    Key::Char('y') => *agreed = true,
                    Key::Char('n') => *agreed = false,
                    Key::Enter if *agreed => {
                        self.turn_to(Page::Unlock { action, key: TypedKey::new(), note: String::new() });
                    }
                    Key::Enter | Key::Escape | Key::Char('q') | Key::F2 => self.back_to_menu(Entry::Do(action)),
                    _ => {}
                }
                None
            }
            Page::Unlock { action, key: typed, .. } => {
                let action = *action;
                match key {
                    Key::Char(c) => typed.push(c),
                    Key::Backspace => drop(typed.0.pop()),
                    Key::Erase => typed.0.zeroize(),
                    Key::Escape | Key::F2 => self.back_to_menu(Entry::Do(action)),
                    Key::Enter if !typed.0.is_empty() => {
                        let typed = std::mem::replace(typed, TypedKey::new());
                        self.turn_to(Page::Busy { action });
                        return Some((self.ticket, Request::Perform(action, typed)));
                    }
                    _ => {}
                }
                None
            }
            // What has begun cannot be taken back.
            Page::Busy { .. } => None,
            Page::Outcome { .. } => {
                if matches!(key, Key::Enter | Key::Escape | Key::Char('q' | ' ') | Key::F2) {
                    self.turn_to(Page::Menu { selected: 0 });
                }
                None
            }
        };
        request.map(|request| (self.ticket, request))
    }

    /// Shows what has become of a request, unless its page was left.
    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        if ticket != self.ticket {
            return;
        }
        match (&mut self.page, answer) {
            (Page::Text { lines, below, .. }, Answer::Text { lines: found, from_end }) => {
                *lines = Some(found);
                *below = if from_end { 0 } else { usize::MAX };
            }
            (Page::Text { title, .. }, Answer::Failed(text)) => {
                let title = *title;
                self.turn_to(Page::Outcome { title, text, severity: Severity::Error });
            }
            (Page::Busy { action }, Answer::Refused(note)) => {
                let action = *action;
                self.turn_to(Page::Unlock { action, key: TypedKey::new(), note });
            }
            (Page::Busy { action }, Answer::Failed(text)) => {
                let title = action.title();
                self.turn_to(Page::Outcome { title, text, severity: Severity::Error });
            }
            (Page::Busy { action }, Answer::Done(text)) => {
                let title = action.title();
                self.turn_to(Page::Outcome { title, text, severity: Severity::Info });
            }
            _ => {}
        }
    }

    fn open(&mut self, entry: Entry) -> Option<Request> {
        if let Some(reason) = entry.unavailable() {
            let text = format!("Not available: {reason}");
            self.turn_to(Page::Outcome { title: entry.title(), text, severity: Severity::Warning });
            return None;
        }
        match entry {
            Entry::Logs => {
                self.turn_to(Page::Logs { selected: 0 });
                None
            }
            Entry::LastBoot => {
                self.read(entry.title());
                Some(Request::LastBoot)
            }
            Entry::Tpm => {
                self.read(entry.title());
                Some(Request::Tpm)
            }
            Entry::Do(action) => {
                self.turn_to(Page::Confirm { action, agreed: false });
                None
            }
        }
    }

    fn read(&mut self, title: &'static str) {
        self.turn_to(Page::Text { title, lines: None, below: 0 });
    }

    fn back_to_menu(&mut self, from: Entry) {
        let selected = Entry::ALL.iter().position(|entry| *entry == from).unwrap_or_default();
        self.turn_to(Page::Menu { selected });
    }

    /// Every page has a ticket of its own, so that what was asked for on an
    /// earlier one is not answered here.
    fn turn_to(&mut self, page: Page) {
        self.page = page;
        self.ticket.0 += 1;
    }
}

/// What a key does to a list.
enum Choice {
    Moved,
    Made(usize),
    Left,
}

fn choose(key: Key, selected: &mut usize, count: usize) -> Choice {
    match key {
        Key::Up | Key::Char('k') => *selected = selected.checked_sub(1).unwrap_or(count - 1),
        Key::Down | Key::Char('j') => *selected = (*selected + 1) % count,
        Key::Home | Key::PageUp => *selected = 0,
        Key::End | Key::PageDown => *selected = count - 1,
        Key::Enter => return Choice::Made(*selected),
        Key::Escape | Key::F2 | Key::Char('q') => return Choice::Left,
        Key::Char(c) => {
            // Numbered from 1, for terminals whose arrow keys do not arrive.
            let number = c.to_digit(10).and_then(|digit| usize::try_from(digit).ok()?.checked_sub(1));
            if let Some(index) = number.filter(|index| *index < count) {
                *selected = index;
                return Choice::Made(index);
            }
        }
        _ => {}
    }
    Choice::Moved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(menu: &mut Menu, keys: &[Key]) -> Vec<Request> {
        keys.iter().filter_map(|key| menu.press(*key)).map(|(_, request)| request).collect()
    }

    fn typed(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    fn at_reboot() -> Menu {
        let mut menu = Menu::default();
        assert_eq!(press(&mut menu, &[Key::F2, Key::Char('6')]), []);
        assert_eq!(menu.page, Page::Confirm { action: Action::Reboot, agreed: false });
        menu
    }

    #[test]
    fn other_keys_leave_the_status_screen_alone() {
        let mut menu = Menu::default();
        let keys = [Key::Enter, Key::Escape, Key::Char('q'), Key::Char('6'), Key::Up, Key::Backspace];
        assert_eq!(press(&mut menu, &keys), []);
        assert!(!menu.is_open());
        press(&mut menu, &[Key::Char('m')]);
        assert_eq!(menu.page, Page::Menu { selected: 0 });
    }

    #[test]
    fn enter_alone_changes_nothing() {
        let mut menu = Menu::default();
        press(&mut menu, &[Key::F2]);
        for entry in 0..Entry::ALL.len() {
            menu.turn_to(Page::Menu { selected: entry });
            for request in press(&mut menu, &[Key::Enter; 20]) {
                assert!(!matches!(request, Request::Perform(..)), "{request:?}");
            }
        }
    }

    #[test]
    fn action_needs_a_confirmation_and_a_key() {
        let mut menu = at_reboot();
        assert_eq!(press(&mut menu, &[Key::Down, Key::Enter]), []);
        assert_eq!(press(&mut menu, &[Key::Enter]), [], "no key was typed");
        let mut keys = typed("secret keyx");
        keys.extend([Key::Backspace, Key::Enter]);
        let asked = press(&mut menu, &keys);
        assert!(matches!(&asked[..], [Request::Perform(Action::Reboot, key)] if key.as_str() == "secret key"));
        assert!(!format!("{asked:?}").contains("secret"), "{asked:?}");
        assert_eq!(menu.page, Page::Busy { action: Action::Reboot });
    }

    #[test]
    fn refused_key_can_be_typed_again_and_failure_is_told() {
        let mut menu = at_reboot();
        press(&mut menu, &[Key::Char('y'), Key::Enter]);
        let ask = |menu: &mut Menu| {
            menu.press(Key::Char('k'));
            menu.press(Key::Enter).unwrap().0
        };
        let ticket = ask(&mut menu);
        menu.answer(ticket, Answer::Refused("wrong".into()));
        let note = "wrong".to_owned();
        assert_eq!(menu.page, Page::Unlock { action: Action::Reboot, key: TypedKey::new(), note });
        let ticket = ask(&mut menu);
        menu.answer(ticket, Answer::Failed("no TPM".into()));
        assert!(matches!(&menu.page, Page::Outcome { text, severity: Severity::Error, .. } if text == "no TPM"));
    }

    #[test]
    fn what_has_no_backend_says_why() {
        let mut menu = Menu::default();
        press(&mut menu, &[Key::F2, Key::Char('4')]);
        assert!(matches!(&menu.page, Page::Outcome { text, .. } if text.starts_with("Not available: ")), "{menu:?}");
    }

    #[test]
    fn late_answer_opens_no_page() {
        let mut menu = Menu::default();
        press(&mut menu, &[Key::F2]);
        let (ticket, request) = menu.press(Key::Char('2')).unwrap();
        assert_eq!(request, Request::LastBoot);
        menu.press(Key::Escape);
        let (_, _) = menu.press(Key::Char('3')).unwrap();
        menu.answer(ticket, Answer::Text { lines: vec!["old".into()], from_end: true });
        assert!(matches!(menu.page, Page::Text { lines: None, .. }));
    }

    #[test]
    fn text_moves_within_its_limits() {
        let mut menu = Menu::default();
        press(&mut menu, &[Key::F2, Key::Char('1')]);
        let (ticket, request) = menu.press(Key::Char('2')).unwrap();
        assert_eq!(request, Request::Log(LogOf::Service(Identity::Gateway)));
        menu.answer(ticket, Answer::Text { lines: vec![String::new(); 50], from_end: true });
        let below = |menu: &Menu| match menu.page {
            Page::Text { below, .. } => below,
            _ => panic!("{menu:?}"),
        };
        press(&mut menu, &[Key::Up, Key::PageUp]);
        assert_eq!(below(&menu), 11);
        menu.press(Key::Home);
        menu.limit(30);
        assert_eq!(below(&menu), 30);
        press(&mut menu, &[Key::PageDown, Key::Down]);
        assert_eq!(below(&menu), 19);
        menu.press(Key::End);
        assert_eq!(below(&menu), 0);
    }

    #[test]
    fn lists_go_round_and_have_numbers() {
        let mut menu = Menu::default();
        press(&mut menu, &[Key::F2, Key::Up]);
        assert_eq!(menu.page, Page::Menu { selected: Entry::ALL.len() - 1 });
        press(&mut menu, &[Key::Down]);
        assert_eq!(menu.page, Page::Menu { selected: 0 });
        press(&mut menu, &[Key::Char('0'), Key::Char('9')]);
        assert_eq!(menu.page, Page::Menu { selected: 0 });
        press(&mut menu, &[Key::Escape]);
        assert!(!menu.is_open());
    }

    #[test]
    fn typed_key_has_a_limit_and_is_never_printed() {
        let mut menu = at_reboot();
        press(&mut menu, &[Key::Char('y'), Key::Enter]);
        press(&mut menu, &vec![Key::Char('ä'); 1000]);
        assert!(matches!(&menu.page, Page::Unlock { key, .. } if key.as_str().len() == KEY_LIMIT));
        assert!(!format!("{menu:?}").contains('ä'), "{menu:?}");
        menu.press(Key::Erase);
        assert!(matches!(&menu.page, Page::Unlock { key, .. } if key.as_str().is_empty()));
    }
}
