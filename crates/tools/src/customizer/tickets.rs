//! Downloads that were ordered and not yet fetched.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long an order waits to be fetched.
pub(crate) const LIFETIME: Duration = Duration::from_mins(10);

/// Bytes of seeds that may wait in all.
pub(crate) const ROOM: usize = 16 << 20;

/// What a waiting order counts at least, so that their number is limited too.
const LEAST: usize = 4 << 10;

/// The orders, each known to nobody but who made it.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    waiting: Arc<Mutex<Waiting<T>>>,
}

#[derive(Debug)]
struct Waiting<T> {
    orders: HashMap<String, (T, usize)>,
    room: usize,
}

impl<T> Waiting<T> {
    fn take(&mut self, ticket: &str) -> Option<T> {
        let (order, size) = self.orders.remove(ticket)?;
        self.room += size;
        Some(order)
    }
}

impl<T: Send + 'static> Tickets<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: Arc::new(Mutex::new(Waiting { orders: HashMap::new(), room: ROOM })) }
    }

    /// Keeps an order of `size` bytes for [`LIFETIME`] and returns its ticket, unless too much is
    /// waiting already.
    pub(crate) fn add(&self, order: T, size: usize) -> Option<String> {
        let size = size.max(LEAST);
        let ticket = media::Guid::random().to_string();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.room = waiting.room.checked_sub(size)?;
        waiting.orders.insert(ticket.clone(), (order, size));
        drop(waiting);
        let (waiting, expired) = (Arc::downgrade(&self.waiting), ticket.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LIFETIME).await;
            if let Some(waiting) = waiting.upgrade() {
                waiting.lock().unwrap_or_else(PoisonError::into_inner).take(&expired);
            }
        });
        Some(ticket)
    }

    /// The order of a ticket, which is worth nothing afterwards.
    pub(crate) fn take(&self, ticket: &str) -> Option<T> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tickets_are_good_once_and_for_ten_minutes() {
        let tickets = Tickets::new();
        let (one, two) = (tickets.add(1, 0).unwrap(), tickets.add(2, 0).unwrap());
        assert_eq!((tickets.take(&one), tickets.take(&one)), (Some(1), None));
        tokio::time::sleep(LIFETIME + Duration::from_secs(1)).await;
        assert_eq!(tickets.take(&two), None);
        assert_eq!(tickets.waiting.lock().unwrap().room, ROOM);
    }

    #[tokio::test]
    async fn room_is_limited_and_given_back() {
        let tickets = Tickets::new();
        let first = tickets.add((), ROOM - LEAST).unwrap();
        assert!(tickets.add((), 0).is_some());
        assert!(tickets.add((), 0).is_none());
        tickets.take(&first);
        assert!(tickets.add((), ROOM / 2).is_some());
    }
}
