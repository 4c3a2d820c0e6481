//! Drawing: from a [`View`] and the page that lies over it to the cells of one
//! terminal. No input or output, and no panic for any size.

mod page;

#[cfg(test)]
mod tests;

use modal::{Modal, Severity};
use ratatui_core::{
    buffer::Buffer,
    layout::{HorizontalAlignment, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Widget as _,
};
use ratatui_widgets::{block::Block, clear::Clear, gauge::Gauge, paragraph::Paragraph};

use crate::{
    menu::Page,
    text::{plain, plain_lines, shortened, wrap},
    view::{Fact, View},
};

const TEXT: Style = Style::new();
const LABEL: Style = Style::new().fg(Color::Green);
const HEADER: Style = Style::new().add_modifier(Modifier::BOLD);
const ATTRIBUTES: Style = Style::new().fg(Color::Magenta);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

/// Facts below the log that a small terminal does without, the first one first.
const LEAST_NEEDED: [&str; 3] = ["Machine", "Installed application(s)", "Network configuration"];

/// Smallest pane that still has a border.
const BORDER_ROWS: u16 = 4;
const BORDER_COLUMNS: u16 = 20;

/// Draws everything. `turn` counts seconds: of several messages each is shown
/// for one. Returns by how many lines a page of text could be moved at most.
pub(crate) fn render(view: &View, page: &Page, turn: usize, area: Rect, buffer: &mut Buffer) -> usize {
    let [header, rest] = cut(area, 1);
    render_header(view, header, buffer);
    if *page == Page::Status {
        render_status(view, rest, buffer);
        render_messages(view, turn, area, buffer);
        0
    } else {
        page::render(page, rest, buffer)
    }
}

/// Host name, system and time, as far as they fit.
fn render_header(view: &View, area: Rect, buffer: &mut Buffer) {
    let width = area.width;
    let columns = |text: &str| Span::raw(text.to_owned()).width();
    let (host, system, clock) = (columns(&view.hostname), columns(&view.system), columns(&view.clock));
    let wide = usize::from(width);
    let side = host.max(clock);
    if side * 2 + system + 4 <= wide {
        Line::styled(view.hostname.as_str(), HEADER).render(area, buffer);
        Line::styled(view.system.as_str(), HEADER).alignment(HorizontalAlignment::Center).render(area, buffer);
        Line::styled(view.clock.as_str(), HEADER).alignment(HorizontalAlignment::Right).render(area, buffer);
    } else if host + clock + 2 <= wide {
        Line::styled(view.hostname.as_str(), HEADER).render(area, buffer);
        Line::styled(view.clock.as_str(), HEADER).alignment(HorizontalAlignment::Right).render(area, buffer);
    } else {
        Line::styled(shortened(&view.hostname, width), HEADER).render(area, buffer);
    }
}

fn render_status(view: &View, area: Rect, buffer: &mut Buffer) {
    let is_calm = view.is_installing;
    let notices: Vec<Line<'_>> = if is_calm { Vec::new() } else { notice_lines(view, area.width) };
    // The log keeps at least half of what is left, whatever else there is to say.
    let [above, area] = cut(area, rows(notices.len()).min(area.height / 3));
    let footer: Vec<Line<'_>> =
        if is_calm { Vec::new() } else { footer_lines(view, area.width, usize::from(area.height / 2)) };
    let below_height = rows(footer.len()).min(area.height / 2);
    let [body, below] = cut(area, area.height - below_height);
    Paragraph::new(notices).alignment(HorizontalAlignment::Center).render(above, buffer);
    render_log(view, body, buffer);
    Paragraph::new(footer).render(below, buffer);
}

fn notice_lines(view: &View, width: u16) -> Vec<Line<'static>> {
    view.notices.iter().flat_map(|(severity, text)| wrap(&[Span::styled(text, color(*severity))], width)).collect()
}

/// The lines below the log. Where not all fit, what is needed least is left out.
fn footer_lines(view: &View, width: u16, height: usize) -> Vec<Line<'static>> {
    let lines_without = |left_out: &[&str]| -> Vec<Line<'static>> {
        view.footer
            .iter()
            .flat_map(|fact| match fact {
                Fact::Warning(severity, text) => wrap(&[Span::styled(text, color(*severity))], width),
                Fact::Named(name, _) if left_out.contains(name) => Vec::new(),
                Fact::Named(name, value) => {
                    wrap(&[Span::styled(format!("{name}: "), LABEL), Span::styled(value, TEXT)], width)
                }
            })
            .collect()
    };
    let mut choices = (0..=LEAST_NEEDED.len()).map(|count| lines_without(&LEAST_NEEDED[..count]));
    choices.find(|lines| lines.len() <= height).unwrap_or_else(|| lines_without(&LEAST_NEEDED))
}

/// The latest lines that fit, the newest one at the bottom.
fn render_log(view: &View, area: Rect, buffer: &mut Buffer) {
    let mut block = Block::bordered();
    if !view.is_installing {
        block = block.title_bottom(Line::styled(" F2 or m: menu ", FAINT).alignment(HorizontalAlignment::Right));
    }
    let inside = framed(block, area, buffer);
    let mut lines = Vec::new();
    for line in view.log.iter().rev() {
        if lines.len() >= usize::from(inside.height) {
            break;
        }
        lines.extend(wrap(&log_spans(line), inside.width).into_iter().rev());
    }
    lines.truncate(usize::from(inside.height));
    lines.reverse();
    Paragraph::new(lines).render(inside, buffer);
}

/// `YYYY-MM-DD hh:mm:ss LEVEL message key=value …` in its colours.
fn log_spans(line: &str) -> Vec<Span<'_>> {
    let level = [("INFO", Color::Green), ("WARN", Color::Yellow), ("ERROR", Color::Red)];
    let Some((time, rest)) = line.split_at_checked(20).filter(|(time, _)| time.ends_with(' ')) else {
        return vec![Span::raw(line)];
    };
    let Some((word, color)) =
        level.into_iter().find(|(word, _)| rest.strip_prefix(word).is_some_and(|message| message.starts_with(' ')))
    else {
        return vec![Span::raw(line)];
    };
    let message = &rest[word.len()..];
    let attributes = first_attribute(message).unwrap_or(message.len());
    vec![
        Span::raw(time),
        Span::styled(word, color),
        Span::raw(&message[..attributes]),
        Span::styled(&message[attributes..], ATTRIBUTES),
    ]
}

/// Where ` key=value` begins.
fn first_attribute(message: &str) -> Option<usize> {
    message.match_indices(' ').map(|(space, _)| space + 1).find(|start| {
        let word = message[*start..].split(' ').next().unwrap_or_default();
        word.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        })
    })
}

/// The messages over everything else, one at a time.
fn render_messages(view: &View, turn: usize, area: Rect, buffer: &mut Buffer) {
    let count = view.messages().count();
    if count == 0 {
        return;
    }
    let index = turn % count;
    let modal = view.messages().nth(index).expect("the index is below the count");
    let mark = if count > 1 { format!("[{}/{count}] ", index + 1) } else { String::new() };
    render_modal(modal, &mark, area, buffer);
}

fn render_modal(modal: &Modal, mark: &str, area: Rect, buffer: &mut Buffer) {
    let inside = popup(
        &format!("{mark}{}", plain(&modal.title)),
        modal.severity,
        3 * area.width / 4,
        area.height / 2,
        area,
        buffer,
    );
    let bar_height = u16::from(modal.progress.is_some());
    let [text, bar] = cut(inside, inside.height.saturating_sub(bar_height));
    let lines: Vec<Line<'_>> = plain_lines(&modal.text)
        .flat_map(|line| wrap(&[Span::styled(line, color(modal.severity))], text.width))
        .collect();
    Paragraph::new(lines).render(text, buffer);
    if let Some(progress) = modal.progress {
        let style = Style::new().fg(Color::Green).bg(Color::Black);
        Gauge::default().percent(progress.get().into()).gauge_style(style).render(bar, buffer);
    }
}

/// An empty box in the middle, of about this size. Returns its inside.
fn popup(title: &str, severity: Severity, width: u16, height: u16, area: Rect, buffer: &mut Buffer) -> Rect {
    let width = width.max(BORDER_COLUMNS).min(area.width);
    let height = height.max(BORDER_ROWS).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(place, buffer);
    let title = shortened(&format!(" {title} "), width.saturating_sub(2));
    framed(Block::bordered().border_style(color(severity)).title(Line::styled(title, HEADER)), place, buffer)
}

/// Draws a border where there is room for one. Returns what is inside.
fn framed(block: Block<'_>, area: Rect, buffer: &mut Buffer) -> Rect {
    if area.height < BORDER_ROWS || area.width < BORDER_COLUMNS {
        return area;
    }
    let inside = block.inner(area);
    block.render(area, buffer);
    inside
}

fn color(severity: Severity) -> Style {
    match severity {
        Severity::Info => TEXT,
        Severity::Warning => Style::new().fg(Color::Yellow),
        Severity::Error => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

/// The first `height` rows, and the others.
fn cut(area: Rect, height: u16) -> [Rect; 2] {
    let height = height.min(area.height);
    let above = Rect { height, ..area };
    [above, Rect { y: area.y + height, height: area.height - height, ..area }]
}

fn rows(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX)
}
