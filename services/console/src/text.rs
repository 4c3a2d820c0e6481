//! Text from elsewhere, made fit for a terminal.

use ratatui_core::{
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthChar as _;

/// Longest text that is looked at; what comes after it is cut off.
const LENGTH_LIMIT: usize = 4 << 10;

/// Marks that one letter may carry. More of them would climb over the lines above.
const MARKS_LIMIT: usize = 4;

/// `text` in one line that cannot drive a terminal, nor show letters in another
/// order than they have.
pub(crate) fn plain(text: &str) -> String {
    let mut marks = 0;
    let text = &text[..text.floor_char_boundary(LENGTH_LIMIT)];
    text.chars()
        .filter_map(|c| match c {
            // C0 and C1 controls and DEL, tabs and line breaks among them.
            c if c.is_control() => Some(' '),
            c if is_format(c) => None,
            c if c.width() == Some(0) => {
                marks += 1;
                (marks <= MARKS_LIMIT).then_some(c)
            }
            c => {
                marks = 0;
                Some(c)
            }
        })
        .collect()
}

/// Several lines of [`plain`] text.
pub(crate) fn plain_lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| plain(line).trim_end().to_owned())
}

/// Invisible characters that change the order, the joining or the place of others.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Breaks styled text into lines of at most `width` columns, at spaces where
/// there are any. A width of zero gives no line.
pub(crate) fn wrap(spans: &[Span<'_>], width: u16) -> Vec<Line<'static>> {
    let width = usize::from(width);
    if width == 0 {
        return Vec::new();
    }
    let letters: Vec<(char, Style)> =
        spans.iter().flat_map(|span| span.content.chars().map(|c| (c, span.style))).collect();
    let mut lines = Vec::new();
    let mut rest = letters.as_slice();
    loop {
        let end = fitting(rest, width);
        let (line, next) = if end == rest.len() {
            (rest, &rest[end..])
        } else {
            // The space at which a line is broken belongs to neither part.
            match rest[..=end].iter().rposition(|(c, _)| *c == ' ').filter(|space| *space > 0) {
                Some(space) => (&rest[..space], &rest[space + 1..]),
                None => (&rest[..end], &rest[end..]),
            }
        };
        lines.push(joined(line));
        if next.is_empty() {
            return lines;
        }
        rest = next;
    }
}

/// How many letters fit into `width` columns; at least one, so that a letter
/// that is too wide does not hold up the others.
fn fitting(letters: &[(char, Style)], width: usize) -> usize {
    let mut used = 0;
    for (index, (c, _)) in letters.iter().enumerate() {
        used += c.width().unwrap_or(0);
        if used > width {
            return index.max(1);
        }
    }
    letters.len()
}

fn joined(letters: &[(char, Style)]) -> Line<'static> {
    let same = letters.chunk_by(|(_, left), (_, right)| left == right);
    Line::from_iter(same.map(|part| Span::styled(part.iter().map(|(c, _)| *c).collect::<String>(), part[0].1)))
}

/// `text` in at most `width` columns, with a mark where something was cut off.
pub(crate) fn shortened(text: &str, width: u16) -> String {
    let width = usize::from(width);
    let columns: usize = text.chars().map(|c| c.width().unwrap_or(0)).sum();
    if columns <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(c);
    }
    if width > 0 {
        short.push('~');
    }
    short
}

#[cfg(test)]
mod tests {
    use ratatui_core::style::{Color, Stylize as _};

    use super::*;

    fn wrapped(text: &str, width: u16) -> Vec<String> {
        wrap(&[text.to_owned().into()], width).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_that_drives_a_terminal_stays() {
        let table = [
            ("a\x1b[2Jb", "a [2Jb"),
            ("a\u{9b}2Jb", "a 2Jb"),
            ("a\r\nb\tc\x7f", "a  b c "),
            ("\x1b]0;title\x07", " ]0;title "),
            ("\u{202e}gnp.exe", "gnp.exe"),
            ("a\u{200b}b\u{feff}\u{2066}c", "abc"),
            ("é ü 中", "é ü 中"),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), expected, "{text:?}");
        }
        assert_eq!(plain(&format!("a{}b", "\u{301}".repeat(1000))).chars().count(), 2 + MARKS_LIMIT);
        assert!(plain(&"ä".repeat(10_000)).len() <= LENGTH_LIMIT);
        assert!((0..=u32::from(char::MAX)).filter_map(char::from_u32).all(|c| {
            let shown = plain(&c.to_string());
            !shown.contains(char::is_control)
        }));
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrapped("ab cdefgh i", 4), ["ab", "cdef", "gh i"]);
        assert_eq!(wrapped("中文字", 4), ["中文", "字"]);
        assert_eq!(wrapped("中", 1), ["中"]);
        assert_eq!(wrapped("", 4), [""]);
        assert_eq!(wrapped("x", 0), Vec::<String>::new());
        assert_eq!(wrapped(" a", 1), [" ", "a"]);
    }

    #[test]
    fn style_follows_its_letters_over_a_break() {
        let lines = wrap(&["ab ".into(), "cd ef".fg(Color::Red)], 5);
        assert_eq!(lines, [Line::from(vec!["ab ".into(), "cd".fg(Color::Red)]), Line::from("ef".fg(Color::Red))]);
    }

    #[test]
    fn cut_text_says_so() {
        assert_eq!(shortened("host", 4), "host");
        assert_eq!(shortened("hostname", 4), "hos~");
        assert_eq!(shortened("中文", 3), "中~");
        assert_eq!(shortened("中文", 2), "~");
        assert_eq!(shortened("x", 0), "");
    }
}
