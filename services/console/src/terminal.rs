//! One terminal's life: shown what there is to see, listened to, lost and found
//! again. Nothing that happens here reaches another terminal.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use api::v1::operator_line::Level;
use ratatui_core::{buffer::Buffer, layout::Rect};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    Pace,
    desk::Desk,
    keys::{Key, Keys},
    machine::Wanted,
    menu::{Answer, Menu, Ticket},
    paint::Painter,
    screen,
    tty::Tty,
    view::View,
};

/// How long after its first byte a key of several bytes is complete, also on a
/// slow line.
const KEY_PATIENCE: Duration = Duration::from_millis(150);

/// How long a page lies over the status screen without a key.
const PAGE_PATIENCE: Duration = Duration::from_secs(180);

/// What every terminal works with.
#[derive(Debug, Clone)]
pub(crate) struct Station {
    pub(crate) view: watch::Receiver<View>,
    /// Counts how often something else wrote to the consoles.
    pub(crate) overwritten: watch::Receiver<u64>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) pace: Pace,
}

/// Keeps the screen on this terminal for as long as it is polled.
pub(crate) async fn keep(wanted: Wanted, station: Station) {
    let mut trouble = None;
    loop {
        let error = match Tty::open(&wanted.path, wanted.baud_rate) {
            Ok((tty, rate)) => {
                trouble = None;
                if let Err(error) = rate {
                    let attributes = [("device", wanted.name.as_str()), ("reason", &error.to_string())];
                    station
                        .desk
                        .tell(Level::Warn, "A console does not have the speed of the settings", &attributes)
                        .await;
                }
                match attend(&tty, &wanted.name, &station).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let text = error.to_string();
        if trouble.as_ref() != Some(&text) {
            tracing::info!("terminal {} shows no screen: {text}", wanted.name);
            trouble = Some(text);
        }
        sleep(station.pace.retry).await;
    }
}

/// Shows the screen until the terminal is lost.
async fn attend(tty: &Tty, name: &str, station: &Station) -> io::Result<Infallible> {
    let (mut view, mut overwritten) = (station.view.clone(), station.overwritten.clone());
    let (answers, mut answered) = mpsc::unbounded_channel::<(Ticket, Answer)>();
    let mut work = JoinSet::new();
    let (mut painter, mut menu, mut keys) = (Painter::default(), Menu::default(), Keys::default());
    let mut input = [0; 256];
    let started = Instant::now();
    let mut last_key = Instant::now();
    let mut second = interval(Duration::from_secs(1));
    let mut repaint = interval(station.pace.repaint);
    for timer in [&mut second, &mut repaint] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer.reset();
    }
    loop {
        let turn = usize::try_from(started.elapsed().as_secs()).unwrap_or_default();
        let screen = draw(&view.borrow_and_update(), &mut menu, turn, tty.size());
        tty.write_all(&painter.paint(screen)).await?;
        tokio::select! {
            // The sender outlives every terminal.
            _ = view.changed() => {}
            _ = overwritten.changed() => painter.distrust(),
            _ = repaint.tick() => painter.distrust(),
            // For a new size, and for the next of several messages.
            _ = second.tick() => {
                if menu.is_open() && last_key.elapsed() > PAGE_PATIENCE {
                    menu.close();
                }
            }
            Some((ticket, answer)) = answered.recv() => menu.answer(ticket, answer),
            // Finished work has sent its answer; this only forgets it.
            Some(_) = work.join_next() => {}
            read = tty.read(&mut input) => {
                last_key = Instant::now();
                let mut pressed = keys.read(&input[..read?]);
                while keys.is_undecided() {
                    match timeout(KEY_PATIENCE, tty.read(&mut input)).await {
                        Ok(read) => pressed.extend(keys.read(&input[..read?])),
                        Err(_) => pressed.extend(keys.decide()),
                    }
                }
                input.fill(0);
                let is_installing = view.borrow().is_installing;
                for key in pressed {
                    if key == Key::Redraw {
                        painter.distrust();
                    } else if !is_installing && let Some((ticket, request)) = menu.press(key) {
                        let (desk, answers, name) = (station.desk.clone(), answers.clone(), name.to_owned());
                        work.spawn(async move {
                            // The terminal may be gone meanwhile.
                            let _ = answers.send((ticket, desk.answer(&name, request).await));
                        });
                    }
                }
            }
        }
    }
}

fn draw(view: &View, menu: &mut Menu, turn: usize, (width, height): (u16, u16)) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let most = screen::render(view, &menu.page, turn, area, &mut buffer);
    menu.limit(most);
    buffer
}
