//! The thread of one connection in transmission.
//!
//! Invariants:
//! 1. Nothing else reads from the socket or writes to it. What JavaScript is handed is a part of the client's bytes, whole
//!    requests in their order; what it gives back is whole replies. So to its code this is a connection like any other.
//! 2. A request touches the device here only between `Way::enter` and `Way::leave`, and not after `Desk::cut`; and a write
//!    only once every live snapshot has what was there.
//! 3. A request that was not answered here for good is handed over, whatever the reason: nothing is refused here.
//! 4. Memory is bounded: an inbox, `OWN_BYTES` and one reply of replies made here, `HANDED_BYTES` and one write handed
//!    over and not consumed, and what JavaScript charges its requests for. Once one of them is full no further request is
//!    begun, and so no more is received than the inbox holds. While a snapshot is live, a run of old content on top.

use super::inbox::{Inbox, LONGEST_WRITE};
use super::orders::Desk;
use super::outbox::Outbox;
use super::socket::{Received, wait};
use super::wire::{FLAG_DF, Format, HEADER, LONGEST_READ_HEADER, Request, command};
use crate::batch::{Cached, Waiting, read_cached_onto};
use crate::file::OwnFile;
use crate::gate::{Entry, Wake, Way};
use crate::pre_images::Outcome;
use crate::sync::AtomicI32;
use crate::watch::Watchers;
use std::io::{self, IoSlice};
use std::ptr::NonNull;
use std::sync::Arc;

/// Longer reads are handed over to JavaScript.
const LONGEST_READ: u32 = 1024 * 1024;

/// Replies that are sent together: what is read now and sent next shall still be in the processor's cache then.
const TOGETHER_BYTES: usize = 192 * 1024;

const OWN_BYTES: usize = 1024 * 1024;
const HANDED_BYTES: usize = 1024 * 1024;

/// What JavaScript is told.
pub enum Event {
    /// Bytes of the client.
    Handed(Vec<u8>),
    /// All replies that it gave are sent; once it gives no more, all replies.
    Sent,
    /// The client sends no more.
    End,
    /// Nobody is past the gate any more, which is shut.
    Left,
    /// The thread has ended; nothing comes after it.
    Closed,
}

/// The words of the gate: `src/servers/native-gate.ts`.
#[derive(Clone, Copy)]
pub struct Gate {
    words: NonNull<AtomicI32>,
}

// SAFETY: the words are atomics.
unsafe impl Send for Gate {}

impl Gate {
    pub const WORDS: usize = 4;

    /// # Safety
    /// `words` are `Gate::WORDS` words that live for as long as the value.
    pub unsafe fn new(words: NonNull<AtomicI32>) -> Self {
        Gate { words }
    }

    fn word(&self, index: usize) -> &AtomicI32 {
        debug_assert!(index < Self::WORDS);
        // SAFETY: as promised to `new`.
        unsafe { self.words.add(index).as_ref() }
    }

    fn changes(&self) -> Way<'_> {
        Way {
            shut: self.word(0),
            inside: self.word(1),
        }
    }

    fn reads(&self) -> Way<'_> {
        Way {
            shut: self.word(2),
            inside: self.word(3),
        }
    }
}

/// What a connection is about.
pub struct Export {
    /// Its own, because nothing but this thread knows when it needs the device no more: while JavaScript ends in a
    /// hurry, the number of the original may come to belong to another file.
    pub file: OwnFile,
    pub size: u64,
    pub read_only: bool,
    pub format: Format,
    pub gate: Gate,
    /// Who has to see every change.
    pub watchers: Option<Arc<Watchers>>,
}

pub struct Connection<T: Fn(Event) + Clone> {
    export: Export,
    waiting: Waiting,
    desk: Arc<Desk>,
    tell: T,
    inbox: Inbox,
    outbox: Outbox,
    /// Replies that are not in the outbox yet.
    replies: Vec<u8>,
    /// How many bytes of the client go to JavaScript, whatever they are.
    passing: usize,
    /// What JavaScript is about to be handed.
    handed: Vec<u8>,
    /// How many bytes it was handed and has not consumed.
    unconsumed: usize,
    /// No further request is taken, once `passing` is 0.
    is_refusing: bool,
    /// The client sends no more.
    has_ended: bool,
    /// JavaScript gives no more replies.
    is_ending: bool,
    /// Nor is anything sent any more.
    is_ended: bool,
}

/// Why no further request is begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The next one has not come, not as a whole.
    BytesNeeded,
    /// Too much is on its way.
    Full,
}

/// Whether a request was answered here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    Yes,
    No,
}

impl<T: Fn(Event) + Clone> Connection<T> {
    pub fn new(export: Export, received: &[u8], desk: Arc<Desk>, tell: T) -> Self {
        Connection {
            waiting: Waiting::of(&export.file),
            export,
            desk,
            tell,
            inbox: Inbox::new(received),
            outbox: Outbox::new(),
            replies: Vec::new(),
            passing: 0,
            handed: Vec::new(),
            unconsumed: 0,
            is_refusing: false,
            has_ended: false,
            is_ending: false,
            is_ended: false,
        }
    }

    /// Serves the connection until both sides have ended it, or it is cut or lost.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.desk.is_cut() {
            self.take_orders();
            let stop = self.begin_requests();
            self.hand_over();
            self.send()?;
            if self.is_over() {
                return Ok(());
            }
            // What was full may have room again, now that something was sent.
            if stop == Stop::Full && !self.is_full() {
                continue;
            }
            let to_receive = stop == Stop::BytesNeeded && !self.has_ended;
            if to_receive && self.receive()? {
                continue;
            }
            wait(
                &self.desk.socket,
                &self.desk.bell,
                to_receive && !self.has_ended,
                !self.outbox.is_empty(),
            )?;
        }
        Ok(())
    }

    fn take_orders(&mut self) {
        let Some(orders) = self.desk.take() else {
            return;
        };
        for reply in orders.replies {
            self.outbox.add_theirs(reply);
        }
        self.unconsumed -= orders.consumed;
        self.is_refusing |= orders.refuse;
        self.is_ending |= orders.end;
    }

    fn begin_requests(&mut self) -> Stop {
        while !self.is_full() && !self.desk.is_cut() {
            if self.passing > 0 {
                if !self.pass() {
                    return Stop::BytesNeeded;
                }
            } else if self.is_refusing {
                self.inbox.clear();
                return Stop::BytesNeeded;
            } else if !self.begin_next() {
                return Stop::BytesNeeded;
            }
        }
        Stop::Full
    }

    /// Begins the next request, if there is enough of it.
    fn begin_next(&mut self) -> bool {
        let Some(header) = self.inbox.bytes().first_chunk() else {
            return false;
        };
        let Some(request) = Request::parse(header) else {
            // JavaScript finds the same and ends the connection. What comes after it means nothing.
            self.passing = HEADER;
            self.is_refusing = true;
            return true;
        };
        let length = HEADER + request.payload();
        if self.is_plain(&request) {
            if self.inbox.bytes().len() < length {
                return false;
            }
            if self.answer(&request) == Answered::Yes {
                self.inbox.take(length);
                return true;
            }
        }
        self.passing = length;
        self.is_refusing |= request.command == command::DISCONNECT;
        true
    }

    /// Whether it is a valid read or write with nothing special about it.
    fn is_plain(&self, request: &Request) -> bool {
        let length = u64::from(request.length);
        let is_inside = length <= self.export.size && request.offset <= self.export.size - length;
        is_inside
            && length > 0
            && match request.command {
                command::READ => {
                    let is_df =
                        request.flags == FLAG_DF && self.export.format == Format::Structured;
                    (request.flags == 0 || is_df) && request.length <= LONGEST_READ
                }
                command::WRITE => {
                    let fits = request.payload() <= LONGEST_WRITE;
                    request.flags == 0 && fits && !self.export.read_only
                }
                _ => false,
            }
    }

    fn answer(&mut self, request: &Request) -> Answered {
        let gate = self.export.gate;
        let is_write = request.command == command::WRITE;
        let way = if is_write {
            gate.changes()
        } else {
            gate.reads()
        };
        let tell = self.tell.clone();
        let _inside = match way.enter() {
            Entry::In => Inside { way, tell },
            Entry::Shut(wake) => {
                report(&tell, wake);
                return Answered::No;
            }
        };
        // After the gate: one that was opened again after a power cut was opened after the connection was cut.
        if self.desk.is_cut() {
            Answered::No
        } else if is_write {
            self.write(request)
        } else {
            self.read(request)
        }
    }

    /// A write that fails is tried again by JavaScript, which tells the client why.
    fn write(&mut self, request: &Request) -> Answered {
        // The old content is safe before the device changes.
        let range = request.offset..request.offset + u64::from(request.length);
        if let Some(watchers) = &self.export.watchers
            && watchers.preserve(&range, &self.export.file, self.waiting) == Outcome::NotNow
        {
            return Answered::No;
        }
        let payload = &self.inbox.bytes()[HEADER..HEADER + request.payload()];
        let written = self
            .export
            .file
            .write(request.offset, &mut [IoSlice::new(payload)]);
        if written.is_err() {
            return Answered::No;
        }
        self.make_room(LONGEST_READ_HEADER);
        self.export.format.put_success(request, &mut self.replies);
        Answered::Yes
    }

    /// A read that would wait for a medium, or fails, is left to JavaScript.
    fn read(&mut self, request: &Request) -> Answered {
        let Export { file, format, .. } = &self.export;
        let (format, length) = (*format, request.length as usize);
        let needed = format.read_header() + length;
        if self.replies.len() + needed > self.replies.capacity() {
            let full = std::mem::take(&mut self.replies);
            self.outbox.add_own(full);
            self.replies = self.outbox.buffer();
            self.replies.reserve(needed.max(TOGETHER_BYTES));
        }
        let start = self.replies.len();
        format.put_read_header(request, &mut self.replies);
        match read_cached_onto(
            file,
            self.waiting,
            request.offset,
            length,
            &mut self.replies,
        ) {
            Cached::Yes => {}
            Cached::No | Cached::Unsupported => {
                self.replies.truncate(start);
                return Answered::No;
            }
        }
        let data = &self.replies[start + format.read_header()..];
        if let Some(parts) = format.with_holes(request, data) {
            self.replies.truncate(start);
            self.replies.extend_from_slice(&parts);
        }
        Answered::Yes
    }

    fn make_room(&mut self, needed: usize) {
        if self.replies.capacity() == 0 {
            self.replies = self.outbox.buffer();
        }
        self.replies.reserve(needed);
    }

    /// Hands over what is passing, as far as it has come.
    fn pass(&mut self) -> bool {
        let bytes = self.inbox.bytes();
        let count = bytes.len().min(self.passing);
        self.handed.extend_from_slice(&bytes[..count]);
        self.inbox.take(count);
        self.passing -= count;
        count > 0
    }

    fn hand_over(&mut self) {
        if !self.handed.is_empty() {
            self.unconsumed += self.handed.len();
            (self.tell)(Event::Handed(std::mem::take(&mut self.handed)));
        }
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.replies.is_empty() {
            let replies = std::mem::take(&mut self.replies);
            self.outbox.add_own(replies);
        }
        let had_theirs = self.outbox.has_theirs();
        self.outbox.send(&self.desk.socket)?;
        if had_theirs && !self.outbox.has_theirs() {
            (self.tell)(Event::Sent);
        }
        Ok(())
    }

    /// Whether more has come.
    fn receive(&mut self) -> io::Result<bool> {
        match self.inbox.receive(&self.desk.socket)? {
            Received::Bytes(_) => Ok(true),
            Received::Nothing => Ok(false),
            Received::End => {
                self.has_ended = true;
                (self.tell)(Event::End);
                Ok(false)
            }
        }
    }

    fn is_full(&self) -> bool {
        // What is enough to be sent at once is sent before more is read.
        self.replies.len() >= TOGETHER_BYTES
            || self.outbox.own_bytes() + self.replies.len() >= OWN_BYTES
            || self.unconsumed + self.handed.len() >= HANDED_BYTES
    }

    /// Whether all was said on both sides.
    fn is_over(&mut self) -> bool {
        if self.is_ending && !self.is_ended && self.outbox.is_empty() {
            self.is_ended = true;
            self.desk.socket.end();
            (self.tell)(Event::Sent);
        }
        self.is_ended && self.has_ended
    }
}

/// A request past the gate, which it leaves whatever happens.
struct Inside<'w, T: Fn(Event)> {
    way: Way<'w>,
    tell: T,
}

impl<T: Fn(Event)> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        report(&self.tell, self.way.leave());
    }
}

fn report(tell: &impl Fn(Event), wake: Wake) {
    if wake == Wake::Needed {
        tell(Event::Left);
    }
}
