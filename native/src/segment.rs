//! Blocks that are kept until they are worth a write, and where they go.

use crate::error::{Code, Failure};
use crate::file::OpenFile;
use crate::job::{Records, range_of, state};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

/// Segments in a file start at multiples of this many bytes.
const SEGMENT_ALIGNMENT: u64 = 4096;

/// Where stored blocks are put.
pub enum Sink<'a> {
    /// The image. `cursor` is its next free byte, shared with all other jobs; it never passes `capacity`.
    Image {
        file: OpenFile,
        cursor: &'a AtomicI64,
        capacity: u64,
        /// Whether to bring segments to the medium from the moment they are written. It brings forward the end of a
        /// backup, which syncs, but may make the job wait for the medium.
        write_back: bool,
    },
    /// Memory for all blocks of the job.
    Memory(Memory<'a>),
}

/// Memory that is filled from its start. It is written through a pointer, as JavaScript may look at it meanwhile.
pub struct Memory<'a> {
    start: *mut u8,
    length: usize,
    lifetime: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> Memory<'a> {
    /// # Safety
    /// `length` bytes from `start` on are writable for all of `'a`.
    pub unsafe fn new(start: *mut u8, length: usize) -> Self {
        Memory {
            start,
            length,
            lifetime: std::marker::PhantomData,
        }
    }

    pub fn length(&self) -> usize {
        self.length
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let range = range_of(offset, bytes.len() as u64);
        if range.end > self.length as u64 {
            return Err(Failure::new(
                Code::TargetFull,
                "the memory for stored blocks is too small",
            )
            .at(range));
        }
        // SAFETY: the range was just checked to be inside, and `copy` allows for the two to be the same memory.
        unsafe {
            std::ptr::copy(bytes.as_ptr(), self.start.add(offset as usize), bytes.len());
        }
        Ok(())
    }
}

/// Blocks kept from one run of reads, in the order of the device. A block has its state `Stored` only once it has been
/// written: what a job that ends early did not write stays `Skipped`.
#[derive(Default)]
pub struct Segment {
    kept: Vec<Kept>,
    length: u64,
    /// Bytes handed to the sink by all segments so far.
    pub stored: u64,
}

struct Kept {
    block: usize,
    /// Where its bytes are in the memory that is given to `write`.
    place: Range<usize>,
}

impl Segment {
    pub fn keep(&mut self, block: usize, place: Range<usize>) {
        self.length += place.len() as u64;
        self.kept.push(Kept { block, place });
    }

    /// Length of the blocks kept, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the last block that was kept ends.
    pub fn end(&self) -> usize {
        self.kept.last().map_or(0, |kept| kept.place.end)
    }

    /// Writes the blocks one after the other to the next free place, says where each is, and forgets them.
    pub fn write(
        &mut self,
        memory: &[u8],
        sink: &Sink<'_>,
        records: &Records<'_>,
    ) -> Result<(), Failure> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let start = match sink {
            Sink::Image {
                file,
                cursor,
                capacity,
                write_back,
            } => {
                let start = take_space(cursor, *capacity, self.length)?;
                let mut pieces: Vec<_> = self
                    .pieces()
                    .map(|place| IoSlice::new(&memory[place]))
                    .collect();
                let range = range_of(start, self.length);
                file.write(start, &mut pieces)
                    .map_err(|error| Failure::of_write(&error, range.clone()))?;
                if *write_back {
                    file.start_write_back(&range);
                }
                start
            }
            Sink::Memory(target) => {
                let mut offset = self.stored;
                for place in self.pieces() {
                    offset += place.len() as u64;
                    target.write(offset - place.len() as u64, &memory[place])?;
                }
                self.stored
            }
        };
        let mut offset = start;
        for kept in self.kept.drain(..) {
            records.set_offset(kept.block, offset);
            records.set_state(kept.block, state::STORED);
            offset += kept.place.len() as u64;
        }
        self.stored += self.length;
        self.length = 0;
        Ok(())
    }

    /// The kept bytes in as few pieces as they have gaps.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        self.kept
            .chunk_by(|one, next| one.place.end == next.place.start)
            .filter_map(|piece| Some(piece.first()?.place.start..piece.last()?.place.end))
    }
}

/// Takes room for `length` bytes off the cursor, in whole multiples of 4096 bytes, and answers where it starts.
fn take_space(cursor: &AtomicI64, capacity: u64, length: u64) -> Result<u64, Failure> {
    let padded = length.next_multiple_of(SEGMENT_ALIGNMENT);
    let taken = cursor.fetch_update(SeqCst, SeqCst, |start| {
        let end = start.checked_add_unsigned(padded)?;
        (start >= 0 && end as u64 <= capacity).then_some(end)
    });
    taken.map(|start| start as u64).map_err(|start| {
        let start = start.max(0) as u64;
        Failure::new(
            Code::TargetFull,
            format!("{padded} more bytes at {start} do not fit into the {capacity} bytes that the image may have"),
        )
        .at(start..start.saturating_add(padded))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_taken_in_whole_pages_up_to_the_capacity() {
        let cursor = AtomicI64::new(4096);
        assert_eq!(take_space(&cursor, 16384, 1), Ok(4096));
        assert_eq!(take_space(&cursor, 16384, 8192), Ok(8192));
        assert!(take_space(&cursor, 16384, 1).is_err());
        assert_eq!(cursor.load(SeqCst), 16384);
    }

    #[test]
    fn a_cursor_that_makes_no_sense_is_refused() {
        for start in [-1, i64::MIN, i64::MAX] {
            let cursor = AtomicI64::new(start);
            assert!(take_space(&cursor, u64::MAX, 4096).is_err(), "{start}");
            assert_eq!(cursor.load(SeqCst), start);
        }
    }

    #[test]
    fn neighbours_are_one_piece() {
        let mut segment = Segment::default();
        segment.keep(0, 0..10);
        segment.keep(1, 10..20);
        segment.keep(3, 30..40);
        assert_eq!(segment.pieces().collect::<Vec<_>>(), [0..20, 30..40]);
        assert_eq!(segment.length(), 30);
        assert_eq!(segment.end(), 40);
    }
}
