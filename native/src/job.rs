//! What a job is given and what it reports, apart from where bytes come from and go to. All of it is memory that other
//! threads may look at, so every access is atomic.

use crate::blocks::Blocks;
use crate::error::Failure;
use crate::hash::{Algorithm, Hash};
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU64};

/// What became of a block; the numbers of `BlockState` in `src/core/core.ts`.
pub mod state {
    pub const SKIPPED: u8 = 0;
    pub const ZERO: u8 = 1;
    pub const STORED: u8 = 2;
    pub const PRESERVED: u8 = 3;
}

/// Why a job ended. Failures are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Done,
    Cancelled,
    BarrierLost,
}

impl JobEnd {
    pub fn name(self) -> &'static str {
        match self {
            JobEnd::Done => "done",
            JobEnd::Cancelled => "cancelled",
            JobEnd::BarrierLost => "barrier-lost",
        }
    }
}

/// A word that tells whether the job shall stop.
#[derive(Clone, Copy)]
pub struct Cancel<'a>(pub &'a AtomicI32);

impl Cancel<'_> {
    pub fn requested(&self) -> bool {
        self.0.load(SeqCst) != 0
    }
}

/// Counts of the bytes of blocks dealt with, and of bytes read.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    pub dealt_with: &'a AtomicI64,
    pub read: &'a AtomicI64,
}

impl Progress<'_> {
    pub fn dealt_with(&self, bytes: usize) {
        self.dealt_with.fetch_add(bytes as i64, Relaxed);
    }

    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as i64, Relaxed);
    }
}

/// One state, offset and hash per block of the job.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    first: usize,
    hash_length: usize,
    states: &'a [AtomicU8],
    /// The bits of 64-bit floats.
    offsets: &'a [AtomicU64],
    hashes: &'a [AtomicU8],
}

impl<'a> Records<'a> {
    pub fn new(
        blocks: &Blocks,
        algorithm: Algorithm,
        states: &'a [AtomicU8],
        offsets: &'a [AtomicU64],
        hashes: &'a [AtomicU8],
    ) -> Result<Self, Failure> {
        let count = blocks.count();
        expect_length("states", states.len(), count)?;
        expect_length("offsets", offsets.len(), count)?;
        expect_length("hashes", hashes.len(), count * algorithm.length())?;
        Ok(Records {
            first: blocks.first,
            hash_length: algorithm.length(),
            states,
            offsets,
            hashes,
        })
    }

    pub fn state(&self, block: usize) -> u8 {
        self.states[block - self.first].load(Relaxed)
    }

    pub fn set_state(&self, block: usize, state: u8) {
        self.states[block - self.first].store(state, Relaxed);
    }

    /// The offset of a stored block, if it is a whole number that a file can have a byte at.
    pub fn offset(&self, block: usize) -> Option<u64> {
        let offset = f64::from_bits(self.offsets[block - self.first].load(Relaxed));
        whole_number(offset)
    }

    pub fn set_offset(&self, block: usize, offset: u64) {
        self.offsets[block - self.first].store((offset as f64).to_bits(), Relaxed);
    }

    pub fn set_hash(&self, block: usize, hash: &Hash) {
        for (place, byte) in self.hash_of(block).iter().zip(hash.as_bytes()) {
            place.store(*byte, Relaxed);
        }
    }

    pub fn has_hash(&self, block: usize, hash: &Hash) -> bool {
        let known = self.hash_of(block).iter().map(|byte| byte.load(Relaxed));
        known.eq(hash.as_bytes().iter().copied())
    }

    fn hash_of(&self, block: usize) -> &[AtomicU8] {
        let start = (block - self.first) * self.hash_length;
        &self.hashes[start..start + self.hash_length]
    }
}

pub fn expect_length(name: &str, actual: usize, expected: usize) -> Result<(), Failure> {
    if actual != expected {
        return Err(Failure::bad_argument(format!(
            "{name}: {actual} entries where the job needs {expected}"
        )));
    }
    Ok(())
}

/// A JavaScript number as a whole number from 0 to 2^53-1.
pub fn whole_number(value: f64) -> Option<u64> {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    ((0.0..=LARGEST).contains(&value) && value.fract() == 0.0).then_some(value as u64)
}

/// The range `length` bytes long from `offset` on.
pub fn range_of(offset: u64, length: u64) -> Range<u64> {
    offset..offset + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_whole_numbers_pass() {
        assert_eq!(whole_number(0.0), Some(0));
        assert_eq!(
            whole_number(9_007_199_254_740_991.0),
            Some(9_007_199_254_740_991)
        );
        for bad in [
            -1.0,
            0.5,
            f64::NAN,
            f64::INFINITY,
            9_007_199_254_740_992.0,
            -0.5,
        ] {
            assert_eq!(whole_number(bad), None, "{bad}");
        }
    }
}
