//! Requests and replies as they lie on the wire (doc/proto.md of the NBD project). Only what plain reads and writes need.

use crate::zero::is_zero;

pub const HEADER: usize = 28;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_OFFSET_HOLE: u16 = 2;

const CHUNK_HEADER: usize = 20;
const SIMPLE_REPLY: usize = 16;

/// No reply has more than this before its data.
pub const LONGEST_READ_HEADER: usize = CHUNK_HEADER + 8;

/// Zeros of whole pieces of this length are sent as holes; the same as in `src/nbd/server/read-batch.ts`.
const HOLE: usize = 64 * 1024;

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
}

pub const FLAG_DF: u16 = 1 << 2;

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    /// `None` for what is not a request.
    pub fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let [m0, m1, m2, m3, f0, f1, c0, c1, rest @ ..] = *bytes;
        let [
            k0,
            k1,
            k2,
            k3,
            k4,
            k5,
            k6,
            k7,
            o0,
            o1,
            o2,
            o3,
            o4,
            o5,
            o6,
            o7,
            l0,
            l1,
            l2,
            l3,
        ] = rest;
        (u32::from_be_bytes([m0, m1, m2, m3]) == REQUEST_MAGIC).then_some(Request {
            flags: u16::from_be_bytes([f0, f1]),
            command: u16::from_be_bytes([c0, c1]),
            cookie: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// How many bytes follow the header, whether or not the request is valid.
    pub fn payload(&self) -> usize {
        if self.command == command::WRITE {
            self.length as usize
        } else {
            0
        }
    }
}

/// How the replies of a connection are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Simple,
    Structured,
}

impl Format {
    /// The reply to a write that succeeded.
    pub fn put_success(self, request: &Request, into: &mut Vec<u8>) {
        match self {
            Format::Simple => put_simple(request, into),
            Format::Structured => put_chunk(request, CHUNK_NONE, 0, CHUNK_DONE, into),
        }
    }

    /// How many bytes stand before the data of a read that is answered in one part.
    pub fn read_header(self) -> usize {
        match self {
            Format::Simple => SIMPLE_REPLY,
            Format::Structured => LONGEST_READ_HEADER,
        }
    }

    /// Writes them.
    pub fn put_read_header(self, request: &Request, into: &mut Vec<u8>) {
        match self {
            Format::Simple => put_simple(request, into),
            Format::Structured => {
                put_data_header(request, request.offset, request.length, CHUNK_DONE, into);
            }
        }
    }

    /// The reply to a read in parts, if pieces of its data are zeros and may be left out.
    pub fn with_holes(self, request: &Request, data: &[u8]) -> Option<Vec<u8>> {
        let may_fragment = self == Format::Structured && request.flags & FLAG_DF == 0;
        if !may_fragment || data.len() < HOLE || !data.chunks(HOLE).any(is_zero) {
            return None;
        }
        let mut reply = Vec::with_capacity(data.len());
        let mut rest = data;
        while !rest.is_empty() {
            let zero = is_zero(&rest[..rest.len().min(HOLE)]);
            let like_it = rest.chunks(HOLE).take_while(|piece| is_zero(piece) == zero);
            let (run, after) = rest.split_at(like_it.map(<[u8]>::len).sum());
            let offset = request.offset + (data.len() - rest.len()) as u64;
            let done = if after.is_empty() { CHUNK_DONE } else { 0 };
            if zero {
                put_chunk(request, CHUNK_OFFSET_HOLE, 12, done, &mut reply);
                reply.extend_from_slice(&offset.to_be_bytes());
                reply.extend_from_slice(&(run.len() as u32).to_be_bytes());
            } else {
                put_data_header(request, offset, run.len() as u32, done, &mut reply);
                reply.extend_from_slice(run);
            }
            rest = after;
        }
        Some(reply)
    }
}

fn put_simple(request: &Request, into: &mut Vec<u8>) {
    into.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    into.extend_from_slice(&0u32.to_be_bytes());
    into.extend_from_slice(&request.cookie.to_be_bytes());
}

fn put_data_header(request: &Request, offset: u64, length: u32, done: u16, into: &mut Vec<u8>) {
    put_chunk(request, CHUNK_OFFSET_DATA, 8 + length, done, into);
    into.extend_from_slice(&offset.to_be_bytes());
}

fn put_chunk(request: &Request, kind: u16, payload: u32, flags: u16, into: &mut Vec<u8>) {
    into.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    into.extend_from_slice(&flags.to_be_bytes());
    into.extend_from_slice(&kind.to_be_bytes());
    into.extend_from_slice(&request.cookie.to_be_bytes());
    into.extend_from_slice(&payload.to_be_bytes());
}
