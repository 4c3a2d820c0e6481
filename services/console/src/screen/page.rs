//! The pages of the menu.

use modal::Severity;
use ratatui_core::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
    widgets::Widget as _,
};
use ratatui_widgets::{block::Block, paragraph::Paragraph};

use crate::{
    menu::{Entry, LogOf, Page},
    screen::{CHOSEN, FAINT, TEXT, color, cut, framed, popup, rows},
    text::wrap,
};

/// Columns of a box with a list or a question.
const WIDTH: u16 = 72;

/// Draws the page below the header. Returns how far it can be moved.
pub(crate) fn render(page: &Page, area: Rect, buffer: &mut Buffer) -> usize {
    match page {
        Page::Status => {}
        Page::Menu { selected } => {
            let entries = Entry::ALL.map(|entry| (entry.title(), entry.unavailable().is_some()));
            list("Menu", &entries, *selected, area, buffer);
        }
        Page::Logs { selected } => {
            let logs: Vec<_> = LogOf::all().into_iter().map(|log| (log.title(), false)).collect();
            list("Logs", &logs, *selected, area, buffer);
        }
        Page::Text { title, lines, below } => return text(title, lines.as_deref(), *below, area, buffer),
        Page::Confirm { action, agreed } => {
            let answers = [("No, go back", !*agreed), ("Yes, go on", *agreed)];
            let mut lines = vec![(action.consequence().to_owned(), TEXT), (String::new(), TEXT)];
            lines.extend(answers.map(|(text, chosen)| (format!(" {text} "), if chosen { CHOSEN } else { TEXT })));
            question(action.title(), Severity::Warning, &lines, "Up, Down: choose   Enter: answer", area, buffer);
        }
        Page::Unlock { action, key, note } => {
            let stars = "*".repeat(key.as_str().chars().count());
            let mut lines = vec![
                ("This needs one of the recovery keys of the machine.".to_owned(), TEXT),
                (String::new(), TEXT),
                (format!("Recovery key: {stars}_"), TEXT),
            ];
            if !note.is_empty() {
                lines.push((note.clone(), color(Severity::Error)));
            }
            question(action.title(), Severity::Warning, &lines, "Enter: go on   Esc: back", area, buffer);
        }
        Page::Busy { action } => {
            question(action.title(), Severity::Warning, &[("One moment ...".to_owned(), TEXT)], "", area, buffer);
        }
        Page::Outcome { title, text, severity } => {
            question(title, *severity, &[(text.clone(), color(*severity))], "Enter: back", area, buffer);
        }
    }
    0
}

/// Something to choose from, each with a number, and whether it is not available.
fn list(title: &str, entries: &[(&str, bool)], selected: usize, area: Rect, buffer: &mut Buffer) {
    let inside = popup(title, Severity::Info, WIDTH, rows(entries.len()) + 4, area, buffer);
    let [place, hint] = cut(inside, inside.height.saturating_sub(1));
    // The chosen one stays visible where not all fit.
    let first = (selected + 1).saturating_sub(usize::from(place.height));
    let lines: Vec<_> = entries
        .iter()
        .enumerate()
        .skip(first)
        .map(|(index, (title, is_absent))| {
            let style = if *is_absent { FAINT } else { TEXT };
            let style = if index == selected { style.patch(CHOSEN) } else { style };
            let suffix = if *is_absent { " (not available)" } else { "" };
            Line::styled(format!(" {}  {title}{suffix} ", index + 1), style)
        })
        .collect();
    Paragraph::new(lines).render(place, buffer);
    Line::styled("Up, Down or number: choose   Enter: open   Esc: back", FAINT).render(hint, buffer);
}

/// A box with a few lines and what the keys do.
fn question(
    title: &str,
    severity: Severity,
    lines: &[(String, ratatui_core::style::Style)],
    hint: &str,
    area: Rect,
    buffer: &mut Buffer,
) {
    let columns = WIDTH.min(area.width).saturating_sub(2);
    let wrapped: Vec<_> = lines.iter().flat_map(|(text, style)| wrap(&[Span::styled(text, *style)], columns)).collect();
    let inside = popup(title, severity, WIDTH, rows(wrapped.len()) + 4, area, buffer);
    let [place, below] = cut(inside, inside.height.saturating_sub(1));
    Paragraph::new(wrapped).render(place, buffer);
    Line::styled(hint, FAINT).render(below, buffer);
}

/// Text that fills the screen; `below` lines at its end are out of sight.
fn text(title: &str, lines: Option<&[String]>, below: usize, area: Rect, buffer: &mut Buffer) -> usize {
    let hint = Line::styled(" Up, Down, PageUp, PageDown: move   Esc: back ", FAINT);
    let inside = framed(Block::bordered().title(format!(" {title} ")).title_bottom(hint), area, buffer);
    let Some(lines) = lines else {
        Line::raw("One moment ...").render(inside, buffer);
        return 0;
    };
    let mut wrapped: Vec<_> = lines.iter().flat_map(|line| wrap(&[Span::raw(line)], inside.width)).collect();
    let height = usize::from(inside.height);
    let most = wrapped.len().saturating_sub(height);
    let end = wrapped.len() - below.min(most);
    wrapped.truncate(end);
    wrapped.drain(..end.saturating_sub(height));
    Paragraph::new(wrapped).render(inside, buffer);
    most
}
