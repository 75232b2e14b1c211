//! What a client has sent and nobody has looked at yet.

use super::socket::{Received, Socket};
use super::wire::HEADER;
use std::io;

/// Longer writes are handed over to JavaScript, piece by piece.
pub const LONGEST_WRITE: usize = 1024 * 1024;

/// Room for the longest write and for what comes after it, so that bytes are seldom moved.
const CAPACITY: usize = 2 * (HEADER + LONGEST_WRITE);

/// So few bytes are moved to where the processor's cache has room for what comes next.
const SMALL: usize = 8 * 1024;

/// What is received at once is used while it is in the processor's cache.
const AT_ONCE: usize = 512 * 1024;

pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// What was received already by someone else comes first; it must be shorter than the longest write.
    pub fn new(received: &[u8]) -> Self {
        // What is not used of it takes no memory.
        let mut bytes = vec![0; CAPACITY.max(received.len() + HEADER + LONGEST_WRITE)];
        bytes[..received.len()].copy_from_slice(received);
        Inbox {
            bytes,
            start: 0,
            end: received.len(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn take(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    pub fn clear(&mut self) {
        self.take(self.end - self.start);
    }

    /// Receives what there is. There is room for it unless more than the longest write is kept.
    pub fn receive(&mut self, socket: &Socket) -> io::Result<Received> {
        let kept = self.end - self.start;
        let is_worth_it = kept < SMALL && self.start > kept;
        if is_worth_it
            || self.bytes.len() - self.start < HEADER + LONGEST_WRITE
            || self.end == self.bytes.len()
        {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let limit = self.bytes.len().min(self.end + AT_ONCE);
        let received = socket.receive(&mut self.bytes[self.end..limit])?;
        if let Received::Bytes(count) = received {
            self.end += count;
        }
        Ok(received)
    }
}
