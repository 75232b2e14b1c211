//! Where a copy job's blocks come from.

use crate::blocks::Blocks;
use crate::error::{Code, Failure, Span};
use crate::extents::{Extent, Extents};
use crate::file::{OpenFile, Read};
use crate::segment::Segment;
use std::io;
use std::ops::Range;

/// Bytes that are read at once. They are hashed while they are in the processor's cache.
const RUN_LENGTH: u64 = 256 << 10;

/// Bytes that are written at once, unless one block is longer. Measured: four times as many do not stay in the cache
/// until they are written, which makes the whole copy a tenth slower.
const SEGMENT_LENGTH: usize = 1 << 20;

pub enum Source<'a> {
    /// The device: byte n of the file is byte n of the device.
    Device(OpenFile),
    /// The content of exactly the blocks of the job.
    Content(&'a [u8]),
}

/// A source with the memory that its blocks are in after `fetch`.
pub enum Supply<'a> {
    Device {
        file: &'a OpenFile,
        extents: Extents<'a>,
        buffer: &'a mut [u8],
    },
    Content(&'a [u8]),
}

/// Blocks from the one asked for up to `end`.
pub enum Fetched {
    Hole { end: usize },
    Bytes { end: usize, place: Range<usize> },
}

impl Fetched {
    pub fn end(&self) -> usize {
        match self {
            Fetched::Hole { end } | Fetched::Bytes { end, .. } => *end,
        }
    }
}

impl Supply<'_> {
    pub fn memory(&self) -> &[u8] {
        match self {
            Supply::Device { buffer, .. } => buffer,
            Supply::Content(content) => content,
        }
    }

    /// Whether the segment must be written before the next `fetch`.
    pub fn is_full(&self, blocks: &Blocks, segment: &Segment) -> bool {
        let taken = match self {
            Supply::Device { .. } => segment.end(),
            Supply::Content(_) => segment.length() as usize,
        };
        taken > 0 && taken + longest_run(blocks) > SEGMENT_LENGTH
    }

    /// Gets blocks from `wanted.start` on: all that are in one hole, or a run of data put behind the segment.
    pub fn fetch(
        &mut self,
        blocks: &Blocks,
        wanted: Range<usize>,
        segment: &Segment,
    ) -> Result<Fetched, Failure> {
        let fitting = longest_run(blocks) / blocks.block_size as usize;
        let end = wanted.end.min(wanted.start + fitting);
        match self {
            Supply::Content(content) => {
                let start = blocks.length(blocks.first, wanted.start);
                let place = start..start + blocks.length(wanted.start, end);
                debug_assert!(place.end <= content.len());
                Ok(Fetched::Bytes { end, place })
            }
            Supply::Device {
                file,
                extents,
                buffer,
            } => {
                let span = blocks.span(wanted.start, end);
                let end = match extents.at(span.start, span.end) {
                    Extent::Hole { end } => {
                        let end = wanted.end.min(blocks.block_at(end));
                        return Ok(Fetched::Hole { end });
                    }
                    Extent::Data { end: data_end } => end.min(blocks.block_at(data_end)),
                };
                let start = segment.end();
                let place = start..start + blocks.length(wanted.start, end);
                let read = |offset, into: &mut [u8]| file.read(offset, into);
                read_blocks(read, blocks, wanted.start, &mut buffer[place.clone()])?;
                Ok(Fetched::Bytes { end, place })
            }
        }
    }
}

/// Length of the longest run in bytes: whole blocks, at least one.
fn longest_run(blocks: &Blocks) -> usize {
    RUN_LENGTH.max(blocks.block_size) as usize
}

/// Fails if the source is a regular file that is shorter than the device. Past the end of a file everything looks like
/// a hole, so this is asked again after the last read.
pub fn check_size(file: &OpenFile, blocks: &Blocks) -> Result<(), Failure> {
    let size = file.regular_size().map_err(|error| {
        Failure::new(Code::SourceReadFailed, format!("stat failed: {error}"))
            .at(blocks.span(blocks.first, blocks.end))
    })?;
    match size {
        Some(size) if size < blocks.device_size => Err(shrunk(size, blocks)),
        _ => Ok(()),
    }
}

/// Reads whole blocks at once. If that fails, reads them one by one, so that the error names the block that is bad.
fn read_blocks(
    read: impl Fn(u64, &mut [u8]) -> Read,
    blocks: &Blocks,
    first: usize,
    into: &mut [u8],
) -> Result<(), Failure> {
    let start = blocks.range(first).start;
    match read(start, into) {
        Read::Full => return Ok(()),
        Read::End(at) => return Err(shrunk(at, blocks)),
        Read::Failed(_) => {}
    }
    for (index, block) in into.chunks_mut(blocks.block_size as usize).enumerate() {
        let range = blocks.range(first + index);
        match read(range.start, block) {
            Read::Full => {}
            Read::End(at) => return Err(shrunk(at, blocks)),
            Read::Failed(error) => return Err(unreadable(&error, range)),
        }
    }
    Ok(())
}

fn unreadable(error: &io::Error, range: Range<u64>) -> Failure {
    let message = format!("reading {} failed: {error}", Span(&range));
    Failure::new(Code::SourceReadFailed, message).at(range)
}

fn shrunk(size: u64, blocks: &Blocks) -> Failure {
    let expected = blocks.device_size;
    let message = format!(
        "the source ends at {size} but has to be {expected} bytes long; it shrank or was replaced"
    );
    Failure::new(Code::SourceShrunk, message).at(size..expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    /// A device of which `bad` cannot be read. As with many drivers, a request that touches it fails as a whole.
    fn read_around(bad: Range<u64>) -> impl Fn(u64, &mut [u8]) -> Read {
        move |offset, into| {
            if offset < bad.end && bad.start < offset + into.len() as u64 {
                return Read::Failed(io::Error::from_raw_os_error(libc::EIO));
            }
            into.fill(offset as u8 + 1);
            Read::Full
        }
    }

    #[test]
    fn a_read_error_names_its_block() -> Result<(), Failure> {
        let blocks = Blocks::new(BLOCK * 8 + 100, BLOCK, 0, 9)?;
        let mut into = vec![0; blocks.length(2, 9)];
        for (bad, expected) in [
            (5 * BLOCK + 7..5 * BLOCK + 8, 5 * BLOCK..6 * BLOCK),
            (2 * BLOCK..9 * BLOCK, 2 * BLOCK..3 * BLOCK),
            (8 * BLOCK + 1..8 * BLOCK + 2, 8 * BLOCK..8 * BLOCK + 100),
        ] {
            let failure = read_blocks(read_around(bad), &blocks, 2, &mut into).err();
            assert_eq!(failure.and_then(|failure| failure.range), Some(expected));
        }
        Ok(())
    }

    #[test]
    fn an_error_that_goes_away_is_none() -> Result<(), Failure> {
        let blocks = Blocks::new(BLOCK * 2, BLOCK, 0, 2)?;
        let mut into = vec![0; blocks.total()];
        let read = |_: u64, into: &mut [u8]| {
            if into.len() > BLOCK as usize {
                return Read::Failed(io::Error::from_raw_os_error(libc::EIO));
            }
            into.fill(7);
            Read::Full
        };
        read_blocks(read, &blocks, 0, &mut into)?;
        assert!(into.iter().all(|byte| *byte == 7));
        Ok(())
    }

    #[test]
    fn an_early_end_is_a_shrunk_source() -> Result<(), Failure> {
        let blocks = Blocks::new(BLOCK * 2, BLOCK, 0, 2)?;
        let mut into = vec![0; blocks.total()];
        let failure = read_blocks(|_, _: &mut [u8]| Read::End(5000), &blocks, 0, &mut into).err();
        assert_eq!(
            failure.map(|failure| failure.code),
            Some(Code::SourceShrunk)
        );
        Ok(())
    }
}
