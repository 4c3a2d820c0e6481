//! Keys, from the bytes that terminals send for them.

/// Longest sequence of bytes that stands for one key.
const SEQUENCE_LIMIT: usize = 16;

const ESCAPE: u8 = 0x1b;

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Enter,
    Backspace,
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    F2,
    /// Ctrl-L: draw everything again.
    Redraw,
    /// Ctrl-U: empty the line.
    Erase,
}

/// Puts keys together, also when their bytes arrive one by one, as they do on a
/// slow line.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pending: Vec<u8>,
}

impl Keys {
    /// Adds what was read, and takes the keys that are complete. What stands for
    /// no key here is dropped.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        for byte in bytes {
            self.pending.push(*byte);
            while !self.pending.is_empty() {
                match parse(&self.pending) {
                    Parsed::Incomplete if self.pending.len() < SEQUENCE_LIMIT => break,
                    Parsed::Incomplete => self.forget(),
                    Parsed::Key(key, length) => {
                        keys.extend(key);
                        self.pending.drain(..length);
                    }
                }
            }
        }
        keys
    }

    /// Whether the key Escape was pressed, or another one begins with its byte.
    pub(crate) fn is_undecided(&self) -> bool {
        self.pending.first() == Some(&ESCAPE)
    }

    /// Decides that no more bytes belong to the last key.
    pub(crate) fn decide(&mut self) -> Option<Key> {
        let is_escape = self.pending == [ESCAPE];
        self.forget();
        is_escape.then_some(Key::Escape)
    }

    /// Drops what was read, which may be a part of a secret.
    fn forget(&mut self) {
        self.pending.fill(0);
        self.pending.clear();
    }
}

enum Parsed {
    /// A key, if the bytes stand for one, and their number.
    Key(Option<Key>, usize),
    Incomplete,
}

fn parse(bytes: &[u8]) -> Parsed {
    match bytes {
        [ESCAPE, rest @ ..] => match rest {
            [] => Parsed::Incomplete,
            [b'[' | b'O', ..] => sequence(bytes),
            // The key Escape, and then another one.
            _ => Parsed::Key(Some(Key::Escape), 1),
        },
        [b'\r' | b'\n', ..] => Parsed::Key(Some(Key::Enter), 1),
        [0x08 | 0x7f, ..] => Parsed::Key(Some(Key::Backspace), 1),
        [0x0c, ..] => Parsed::Key(Some(Key::Redraw), 1),
        [0x15, ..] => Parsed::Key(Some(Key::Erase), 1),
        [control, ..] if *control < 0x20 => Parsed::Key(None, 1),
        [first, ..] => letter(*first, bytes),
        [] => Parsed::Incomplete,
    }
}

/// `ESC [ parameters final`, `ESC O final`, and the Linux console's `ESC [ [ final`.
fn sequence(bytes: &[u8]) -> Parsed {
    let (introducer, rest) = match bytes {
        [_, b'[', b'[', rest @ ..] => ("[[", rest),
        [_, b'[', rest @ ..] => ("[", rest),
        [_, _, rest @ ..] => ("O", rest),
        _ => return Parsed::Incomplete,
    };
    let before = bytes.len() - rest.len();
    let end = match introducer {
        "[" => rest.iter().position(|byte| !(0x20..0x40).contains(byte)),
        _ => (!rest.is_empty()).then_some(0),
    };
    let Some(end) = end else {
        return Parsed::Incomplete;
    };
    if rest[end] < 0x20 {
        // Not a part of the sequence, which is broken off: another key begins here.
        return Parsed::Key(None, before + end);
    }
    let key = match (introducer, &rest[..end], rest[end]) {
        ("[" | "O", b"", b'A') => Some(Key::Up),
        ("[" | "O", b"", b'B') => Some(Key::Down),
        ("[" | "O", b"", b'H') | ("[", b"1" | b"7", b'~') => Some(Key::Home),
        ("[" | "O", b"", b'F') | ("[", b"4" | b"8", b'~') => Some(Key::End),
        ("[", b"5", b'~') => Some(Key::PageUp),
        ("[", b"6", b'~') => Some(Key::PageDown),
        ("[", b"12", b'~') | ("O", b"", b'Q') | ("[[", b"", b'B') => Some(Key::F2),
        ("O", b"", b'M') => Some(Key::Enter),
        _ => None,
    };
    Parsed::Key(key, before + end + 1)
}

/// A character in UTF-8.
fn letter(first: u8, bytes: &[u8]) -> Parsed {
    let length = match first {
        0x20..0x80 => 1,
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => return Parsed::Key(None, 1),
    };
    let Some(encoded) = bytes.get(..length) else {
        // A byte that cannot follow begins something new.
        let follows = bytes[1..].iter().all(|byte| (0x80..0xc0).contains(byte));
        return if follows { Parsed::Incomplete } else { Parsed::Key(None, 1) };
    };
    match std::str::from_utf8(encoded) {
        Ok(text) => Parsed::Key(text.chars().next().filter(|c| !c.is_control()).map(Key::Char), length),
        Err(_) => Parsed::Key(None, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Key> {
        let whole = Keys::default().read(bytes);
        let mut keys = Keys::default();
        let split: Vec<_> = bytes.iter().flat_map(|byte| keys.read(&[*byte])).collect();
        assert_eq!(whole, split, "however they arrive: {bytes:?}");
        whole
    }

    #[test]
    fn terminals_of_all_kinds_are_understood() {
        let table: [(&[u8], Key); 20] = [
            (b"\x1bOQ", Key::F2),
            (b"\x1b[12~", Key::F2),
            (b"\x1b[[B", Key::F2),
            (b"m", Key::Char('m')),
            (b"\r", Key::Enter),
            (b"\n", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x08", Key::Backspace),
            (b"\x1b[A", Key::Up),
            (b"\x1bOA", Key::Up),
            (b"\x1b[B", Key::Down),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[H", Key::Home),
            (b"\x1b[1~", Key::Home),
            (b"\x1b[4~", Key::End),
            (b"\x0c", Key::Redraw),
            (b"\x15", Key::Erase),
            ("ä".as_bytes(), Key::Char('ä')),
            ("🔑".as_bytes(), Key::Char('🔑')),
        ];
        for (bytes, key) in table {
            assert_eq!(read(bytes), [key], "{bytes:?}");
        }
    }

    #[test]
    fn what_means_nothing_here_is_dropped() {
        for bytes in [
            &b"\x03"[..],
            b"\x1a",
            b"\x1c",
            b"\x1b[200~",
            b"\x1b[1;5A",
            b"\x1b[?1;2c",
            b"\x1b[24;80R",
            b"\xff",
            b"\x80",
        ] {
            assert_eq!(read(bytes), [], "{bytes:?}");
        }
        assert_eq!(read(b"\xc3m"), [Key::Char('m')], "a letter that was broken off");
        assert_eq!(read(b"\x1b[1\rm"), [Key::Enter, Key::Char('m')], "a sequence that was broken off");
    }

    #[test]
    fn endless_sequence_ends() {
        let mut bytes = b"\x1b[".to_vec();
        bytes.extend([b'1'; 100]);
        let mut keys = Keys::default();
        keys.read(&bytes);
        assert!(keys.pending.len() < SEQUENCE_LIMIT);
    }

    #[test]
    fn escape_is_told_from_what_begins_with_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b"), []);
        assert!(keys.is_undecided());
        assert_eq!(keys.decide(), Some(Key::Escape));
        assert!(!keys.is_undecided());
        assert_eq!(read(b"\x1bm"), [Key::Escape, Key::Char('m')]);
        assert_eq!(keys.read(b"\x1b["), []);
        assert_eq!(keys.decide(), None, "half a sequence is no Escape");
        assert_eq!(keys.read(b"A"), [Key::Char('A')]);
    }
}
