//! Which blocks a job is about, and where they are on the device.

use crate::error::Failure;
use std::ops::Range;

const SMALLEST_BLOCK: u64 = 4 << 10;
pub const LARGEST_BLOCK: u64 = 4 << 20;

/// Blocks `first..end` of a device. `first <= end <=` the number of blocks of the device, so every block here has a
/// range of at least one byte.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    pub device_size: u64,
    pub block_size: u64,
    pub first: usize,
    pub end: usize,
}

impl Blocks {
    pub fn new(device_size: u64, block_size: u64, first: u64, count: u64) -> Result<Self, Failure> {
        if !block_size.is_power_of_two() || !(SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&block_size)
        {
            return Err(Failure::bad_argument(format!(
                "blockSizeBytes: {block_size} is not a power of two from 4 KiB to 4 MiB"
            )));
        }
        let on_device = device_size.div_ceil(block_size);
        if first > on_device || count > on_device - first {
            return Err(Failure::bad_argument(format!(
                "blocks {first} to {} reach past the {on_device} blocks of a device of {device_size} bytes",
                first.saturating_add(count)
            )));
        }
        Ok(Blocks {
            device_size,
            block_size,
            first: first as usize,
            end: (first + count) as usize,
        })
    }

    pub fn count(&self) -> usize {
        self.end - self.first
    }

    /// How many blocks the whole device has.
    pub fn on_device(&self) -> usize {
        self.device_size.div_ceil(self.block_size) as usize
    }

    /// Where blocks [from, to) are on the device; the device's last block may be shorter than the others.
    pub fn span(&self, from: usize, to: usize) -> Range<u64> {
        let start = from as u64 * self.block_size;
        start..self.device_size.min(to as u64 * self.block_size)
    }

    pub fn range(&self, block: usize) -> Range<u64> {
        self.span(block, block + 1)
    }

    /// The block after the last one that ends at or before `offset`, or that the device ends.
    pub fn block_at(&self, offset: u64) -> usize {
        if offset >= self.device_size {
            self.on_device()
        } else {
            (offset / self.block_size) as usize
        }
    }

    /// Length of blocks [from, to) in bytes.
    pub fn length(&self, from: usize, to: usize) -> usize {
        let span = self.span(from, to);
        (span.end - span.start) as usize
    }

    /// Length of all blocks of the job in bytes.
    pub fn total(&self) -> usize {
        if self.count() == 0 {
            return 0;
        }
        self.length(self.first, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_is_as_short_as_the_device_makes_it() -> Result<(), Failure> {
        let blocks = Blocks::new(4096 * 2 + 1, 4096, 1, 2)?;
        assert_eq!(blocks.range(1), 4096..8192);
        assert_eq!(blocks.range(2), 8192..8193);
        assert_eq!(blocks.total(), 4097);
        assert_eq!(Blocks::new(8193, 4096, 3, 0)?.total(), 0);
        Ok(())
    }

    #[test]
    fn blocks_past_the_device_are_refused() {
        assert!(Blocks::new(8192, 4096, 0, 3).is_err());
        assert!(Blocks::new(8192, 4096, 3, 0).is_err());
        assert!(Blocks::new(8192, 4096, 1, u64::MAX).is_err());
        assert!(Blocks::new(8192, 4096, u64::MAX, 2).is_err());
    }

    #[test]
    fn odd_block_sizes_are_refused() {
        for size in [0, 1, 2048, 4095, 5000, 8 << 20] {
            assert!(Blocks::new(1 << 30, size, 0, 1).is_err(), "{size}");
        }
    }
}
