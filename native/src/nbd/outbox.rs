//! Replies on their way to a client.

use super::socket::Socket;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// How many pieces are sent in one call.
const TOGETHER: usize = 16;

/// Buffers that are kept to be used again.
const KEPT: usize = 2;

/// Whole replies, in the order in which they are sent: none is ever cut apart by another.
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// How much of the first piece was sent.
    sent: usize,
    own_bytes: usize,
    free: Vec<Vec<u8>>,
}

struct Piece {
    bytes: Vec<u8>,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Here,
    JavaScript,
}

impl Outbox {
    pub fn new() -> Self {
        Outbox {
            pieces: VecDeque::new(),
            sent: 0,
            own_bytes: 0,
            free: Vec::new(),
        }
    }

    /// An empty buffer with room for replies.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    pub fn add_own(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            self.keep(bytes);
            return;
        }
        // All of the buffer is kept, however little is in it.
        self.own_bytes += bytes.capacity();
        self.add(bytes, Origin::Here);
    }

    pub fn add_theirs(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.add(bytes, Origin::JavaScript);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How much memory replies made here take.
    pub fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    pub fn has_theirs(&self) -> bool {
        self.pieces
            .iter()
            .any(|piece| piece.origin == Origin::JavaScript)
    }

    /// Sends as much as there is room for.
    pub fn send(&mut self, socket: &Socket) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); TOGETHER];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                let from = if count == 0 { self.sent } else { 0 };
                *slice = IoSlice::new(&piece.bytes[from..]);
                count += 1;
            }
            let sent = socket.send(&slices[..count])?;
            if sent == 0 {
                return Ok(());
            }
            self.take(sent);
        }
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.sent += count;
        while let Some(piece) = self.pieces.front() {
            if self.sent < piece.bytes.len() {
                return;
            }
            self.sent -= piece.bytes.len();
            let Some(piece) = self.pieces.pop_front() else {
                return;
            };
            if piece.origin == Origin::Here {
                self.own_bytes -= piece.bytes.capacity();
                self.keep(piece.bytes);
            }
        }
    }

    fn add(&mut self, bytes: Vec<u8>, origin: Origin) {
        self.pieces.push_back(Piece { bytes, origin });
    }

    fn keep(&mut self, mut bytes: Vec<u8>) {
        if self.free.len() < KEPT {
            bytes.clear();
            self.free.push(bytes);
        }
    }
}
