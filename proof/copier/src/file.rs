//! Stands in for `native/src/file.rs`: a device of words that a copier and a writer share.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU8;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

pub const BLOCK: usize = 4096;

/// The two halves of each block, so that a read may find a write half done. Reads and writes of them are ordered by
/// nothing: the bytes of a file are not what threads agree by.
#[derive(Clone)]
pub struct OpenFile(Arc<Vec<[AtomicU8; 2]>>);

impl OpenFile {
    /// A device with blocks of one byte value each.
    pub fn of(values: &[u8]) -> Self {
        let block = |value: &u8| [AtomicU8::new(*value), AtomicU8::new(*value)];
        OpenFile(Arc::new(values.iter().map(block).collect()))
    }

    pub fn halves(&self, block: usize) -> [u8; 2] {
        let [first, second] = &self.0[block];
        [first.load(Relaxed), second.load(Relaxed)]
    }

    pub fn put(&self, block: usize, value: u8) {
        for half in &self.0[block] {
            half.store(value, Relaxed);
        }
    }

    pub fn half(&self, block: usize, half: usize) -> u8 {
        self.0[block][half].load(Relaxed)
    }

    pub fn put_half(&self, block: usize, half: usize, value: u8) {
        self.0[block][half].store(value, Relaxed);
    }

    pub fn read(&self, offset: u64, into: &mut [u8]) -> Read {
        let first = offset as usize / BLOCK;
        for (index, bytes) in into.chunks_mut(BLOCK).enumerate() {
            for (half, value) in bytes.chunks_mut(BLOCK / 2).zip(self.halves(first + index)) {
                half.fill(value);
            }
        }
        Read::Full
    }

    pub fn regular_size(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Jobs here store into memory.
    pub fn write(&self, _offset: u64, _pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn start_write_back(&self, _range: &Range<u64>) {}
}

pub enum Read {
    Full,
    End(u64),
    Failed(io::Error),
}
