//! From one screen to the next, in the bytes that terminals understand.
//!
//! What is sent is what any terminal since the VT100 knows, with sixteen
//! colours. This is the last place that text passes on its way to a terminal,
//! and no control character of a text gets past it.

use std::io::Write as _;

use ratatui_core::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

/// Brings a terminal to a known state: plain style, no cursor, no wrapping at
/// the right edge (a letter in the last corner would scroll), ASCII and UTF-8.
const PREPARE: &[u8] = b"\x1b[0m\x1b[?25l\x1b[?7l\x1b(B\x1b%G";
const CLEAR: &[u8] = b"\x1b[2J";
/// Undoes [`PREPARE`] and leaves an empty screen.
const LEAVE: &[u8] = b"\x1b[0m\x1b[2J\x1b[H\x1b[?7h\x1b[?25h";

/// Longest text of one cell: a letter with its marks.
const CELL_LIMIT: usize = 32;

/// Knows what one terminal shows.
#[derive(Debug, Default)]
pub(crate) struct Painter {
    shown: Option<Buffer>,
    /// Something else has written to the terminal.
    is_stale: bool,
}

impl Painter {
    /// Draws everything at the next opportunity. Nothing is cleared before, so
    /// what is right already does not flicker.
    pub(crate) fn distrust(&mut self) {
        self.is_stale = true;
    }

    /// What has to be sent for the terminal to show `next`.
    pub(crate) fn paint(&mut self, next: Buffer) -> Vec<u8> {
        let mut out = Vec::new();
        match self.shown.take().filter(|shown| shown.area == next.area) {
            Some(shown) if !self.is_stale => write_cells(&mut out, &shown.diff(&next)),
            Some(_) => {
                out.extend_from_slice(PREPARE);
                write_all(&mut out, &next);
            }
            None => {
                out.extend_from_slice(PREPARE);
                out.extend_from_slice(CLEAR);
                write_all(&mut out, &next);
            }
        }
        self.is_stale = false;
        self.shown = Some(next);
        out
    }

    /// What has to be sent when the terminal is given back.
    pub(crate) fn leave() -> &'static [u8] {
        LEAVE
    }
}

fn write_all(out: &mut Vec<u8>, next: &Buffer) {
    // No screen uses this colour, so every cell differs.
    let mut nothing = Cell::EMPTY;
    nothing.set_fg(Color::Indexed(u8::MAX));
    write_cells(out, &Buffer::filled(next.area, nothing).diff(next));
}

fn write_cells(out: &mut Vec<u8>, cells: &[(u16, u16, &Cell)]) {
    let mut style = None;
    let mut cursor = None;
    for (x, y, cell) in cells {
        if cursor != Some((*x, *y)) {
            // Writing to memory does not fail.
            let _ = write!(out, "\x1b[{};{}H", y + 1, x + 1);
        }
        let wanted = (cell.fg, cell.bg, cell.modifier);
        if style != Some(wanted) {
            write_style(out, wanted);
            style = Some(wanted);
        }
        let symbol = cell.symbol();
        let is_fit = symbol.len() <= CELL_LIMIT && !symbol.contains(char::is_control);
        out.extend_from_slice(if is_fit { symbol.as_bytes() } else { b"?" });
        // After other letters terminals disagree on where the cursor is.
        let is_narrow = symbol.len() == 1 || symbol.chars().all(|c| ('\u{2500}'..'\u{25a0}').contains(&c));
        cursor = is_narrow.then_some((x + 1, *y));
    }
    if style.is_some() {
        out.extend_from_slice(b"\x1b[0m");
    }
}

fn write_style(out: &mut Vec<u8>, (fg, bg, modifier): (Color, Color, Modifier)) {
    out.extend_from_slice(b"\x1b[0");
    for (flag, code) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)] {
        if modifier.contains(flag) {
            let _ = write!(out, ";{code}");
        }
    }
    for (color, base) in [(fg, 30), (bg, 40)] {
        if let Some(number) = number(color) {
            let _ = write!(out, ";{}", base + number);
        }
    }
    out.push(b'm');
}

/// Distance from the code of black; `None` is the terminal's own colour.
fn number(color: Color) -> Option<u8> {
    Some(match color {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 60,
        Color::LightRed => 61,
        Color::LightGreen => 62,
        Color::LightYellow => 63,
        Color::LightBlue => 64,
        Color::LightMagenta => 65,
        Color::LightCyan => 66,
        Color::White => 67,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ratatui_core::{layout::Rect, style::Style};

    use super::*;

    fn screen(lines: [&str; 2]) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 8, 2));
        for (y, line) in (0..).zip(lines) {
            buffer.set_string(0, y, line, Style::new());
        }
        buffer
    }

    /// What a terminal shows after all that was sent.
    fn shown(sent: &[u8]) -> String {
        let mut terminal = vt100::Parser::default();
        terminal.process(sent);
        terminal.screen().contents().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut painter = Painter::default();
        let mut sent = painter.paint(screen(["clock 1", "log"]));
        assert_eq!(shown(&sent), "clock 1\nlog");
        let change = painter.paint(screen(["clock 2", "log"]));
        assert_eq!(String::from_utf8_lossy(&change), "\x1b[1;7H\x1b[0m2\x1b[0m");
        sent.extend(change);
        assert_eq!(shown(&sent), "clock 2\nlog");
        assert_eq!(painter.paint(screen(["clock 2", "log"])), b"");
    }

    #[test]
    fn foreign_text_is_painted_over_without_clearing() {
        let mut painter = Painter::default();
        let mut sent = painter.paint(screen(["a", ""]));
        sent.extend(b"\x1b[1;1Hoops: kernel");
        painter.distrust();
        let again = painter.paint(screen(["a", ""]));
        assert!(!again.windows(CLEAR.len()).any(|part| part == CLEAR));
        sent.extend(again);
        assert_eq!(shown(&sent).chars().take(8).collect::<String>().trim_end(), "a");
    }

    #[test]
    fn another_size_starts_over() {
        let mut painter = Painter::default();
        painter.paint(screen(["a", "b"]));
        let sent = painter.paint(Buffer::empty(Rect::new(0, 0, 4, 1)));
        assert!(sent.starts_with(&[PREPARE, CLEAR].concat()));
    }

    #[test]
    fn no_control_character_gets_past() {
        let long = "a\u{301}".repeat(100);
        let cells = ["\x1b", "\u{9b}", "a\x1b[2J", "\u{7}", &long].map(|symbol| {
            let mut cell = Cell::EMPTY;
            cell.set_symbol(symbol);
            cell
        });
        let cells: Vec<_> = (0..).zip(&cells).map(|(x, cell)| (x, 0, cell)).collect();
        let mut sent = Vec::new();
        write_cells(&mut sent, &cells);
        assert_eq!(shown(&sent), "?????");
        assert!(!sent.windows(CLEAR.len()).any(|part| part == CLEAR));
    }

    #[test]
    fn wide_letters_keep_their_neighbours_in_place() {
        let mut painter = Painter::default();
        let sent = painter.paint(screen(["中a文b", ""]));
        assert_eq!(shown(&sent).trim_end(), "中a文b");
    }

    #[test]
    fn styles_are_sent_once_for_all_that_share_them() {
        let mut buffer = screen(["", ""]);
        buffer.set_string(0, 0, "ab", Style::new().add_modifier(Modifier::BOLD).fg(Color::Red).bg(Color::Blue));
        let sent = Painter::default().paint(buffer);
        let sent = String::from_utf8_lossy(&sent);
        assert_eq!(sent.matches("\x1b[0;1;31;44m").count(), 1, "{sent:?}");
    }
}
