//! What JavaScript wants of the thread of a connection.

use super::socket::{Bell, Socket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Shared by the thread of a connection and JavaScript.
pub struct Desk {
    pub socket: Socket,
    pub bell: Bell,
    orders: Mutex<Orders>,
    has_orders: AtomicBool,
    is_cut: AtomicBool,
}

#[derive(Default)]
pub struct Orders {
    /// Whole replies to be sent.
    pub replies: Vec<Vec<u8>>,
    /// How many bytes of what was handed over JavaScript has taken since.
    pub consumed: usize,
    /// No further request is taken.
    pub refuse: bool,
    /// Nothing comes after these replies.
    pub end: bool,
}

impl Desk {
    pub fn new(socket: Socket, bell: Bell) -> Self {
        Desk {
            socket,
            bell,
            orders: Mutex::default(),
            has_orders: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
        }
    }

    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.has_orders.store(true, SeqCst);
        self.bell.ring();
    }

    /// The orders since the last call.
    pub fn take(&self) -> Option<Orders> {
        self.has_orders.swap(false, SeqCst).then(|| {
            std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }

    /// Ends the connection: once this has returned, no further request is let in by a gate that is opened after it.
    pub fn cut(&self) {
        self.is_cut.store(true, SeqCst);
        self.socket.cut();
        self.bell.ring();
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut.load(SeqCst)
    }
}
