//! The restore loop: stored blocks are checked against their hashes and, with a target, written to it.
//!
//! Invariants:
//!
//! - A block reaches the target only after its bytes, as they are in memory then, matched their hash.
//! - A block that cannot be had is reported in `faults`, and the job goes on. A target that cannot be written ends it.

use crate::blocks::Blocks;
use crate::buffer::with_buffer;
use crate::error::Failure;
use crate::file::{OpenFile, PIECES_PER_WRITE, Read};
use crate::hash::Algorithm;
use crate::job::{Cancel, JobEnd, Progress, Records, state};
use crate::space;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// What a check found; the numbers of `BlockFault` in `src/core/core.ts`.
mod fault {
    pub const NONE: u8 = 0;
    pub const MISMATCH: u8 = 1;
    pub const UNREADABLE: u8 = 2;
}

/// Bytes that are read, checked and written before the next look at `cancel`.
const BATCH_LENGTH: usize = 1 << 20;

/// What a batch spans at most, however little of it is stored, in blocks and in bytes.
const BLOCKS_PER_BATCH: usize = 1 << 14;
const SPAN_LENGTH: u64 = 1 << 30;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

pub struct RestoreJob<'a> {
    pub blocks: Blocks,
    pub algorithm: Algorithm,
    pub image: OpenFile,
    pub target: Option<OpenFile>,
    /// Whether the target may hold something other than zeros where the device holds zeros.
    pub zero_target: bool,
    pub records: Records<'a>,
    pub cancel: Cancel<'a>,
    pub progress: Progress<'a>,
    /// One per block of the job.
    pub faults: &'a [AtomicU8],
}

pub fn restore(job: &RestoreJob<'_>) -> Result<JobEnd, Failure> {
    job.check_states()?;
    for block in job.blocks.first..job.blocks.end {
        job.set_fault(block, fault::NONE);
    }
    with_buffer(|buffer| restore_with(job, buffer))
}

fn restore_with(job: &RestoreJob<'_>, buffer: &mut [u8]) -> Result<JobEnd, Failure> {
    let mut next = job.blocks.first;
    while next < job.blocks.end {
        if job.cancel.requested() {
            return Ok(JobEnd::Cancelled);
        }
        let batch = job.next_batch(next);
        job.read(&batch.stored, buffer);
        job.check(&batch.stored, buffer);
        if let Some(target) = &job.target {
            job.write(&batch.stored, buffer, target)?;
            if job.zero_target {
                job.write_zeros(&batch.zeros, target)?;
            }
        }
        job.count(&batch);
        next = batch.end;
    }
    Ok(JobEnd::Done)
}

/// Blocks up to `end`: those to be read, which fit into a batch, and the runs of those that are zero.
struct Batch {
    end: usize,
    stored: Vec<Stored>,
    zeros: Vec<Range<usize>>,
}

struct Stored {
    block: usize,
    /// Where it is in the image; `None` if that makes no sense.
    offset: Option<u64>,
    /// Where it is put in the buffer: blocks follow one another.
    place: Range<usize>,
}

impl Stored {
    /// Whether `next` comes right behind this one in the image, so that one read gets both.
    fn is_followed_by(&self, next: &Stored) -> bool {
        self.offset
            .is_some_and(|offset| next.offset == Some(offset + self.place.len() as u64))
    }
}

impl RestoreJob<'_> {
    fn check_states(&self) -> Result<(), Failure> {
        for block in self.blocks.first..self.blocks.end {
            let known = self.records.state(block);
            if ![state::SKIPPED, state::ZERO, state::STORED].contains(&known) {
                return Err(Failure::bad_argument(format!(
                    "states: block {block} has state {known}, which cannot be restored"
                )));
            }
        }
        Ok(())
    }

    fn next_batch(&self, first: usize) -> Batch {
        let mut batch = Batch {
            end: first,
            stored: Vec::new(),
            zeros: Vec::new(),
        };
        let mut length = 0;
        let most = BLOCKS_PER_BATCH.min((SPAN_LENGTH / self.blocks.block_size) as usize);
        for block in first..self.blocks.end.min(first + most) {
            match self.records.state(block) {
                state::STORED => {
                    let place = length..length + self.blocks.length(block, block + 1);
                    if place.end > BATCH_LENGTH && length > 0 {
                        break;
                    }
                    length = place.end;
                    let offset = self.records.offset(block);
                    batch.stored.push(Stored {
                        block,
                        offset,
                        place,
                    });
                }
                state::ZERO => match batch.zeros.last_mut() {
                    Some(run) if run.end == block => run.end += 1,
                    _ => batch.zeros.push(block..block + 1),
                },
                _ => {}
            }
            batch.end = block + 1;
        }
        batch
    }

    /// Reads blocks that are neighbours in the image at once, and one by one where that fails.
    fn read(&self, stored: &[Stored], buffer: &mut [u8]) {
        for run in stored.chunk_by(Stored::is_followed_by) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let place = first.place.start..last.place.end;
            if !self.read_at(first.offset, &mut buffer[place]) {
                for one in run {
                    if !self.read_at(one.offset, &mut buffer[one.place.clone()]) {
                        self.set_fault(one.block, fault::UNREADABLE);
                    }
                }
            }
        }
    }

    fn read_at(&self, offset: Option<u64>, into: &mut [u8]) -> bool {
        offset.is_some_and(|offset| matches!(self.image.read(offset, into), Read::Full))
    }

    fn check(&self, stored: &[Stored], buffer: &[u8]) {
        for one in stored.iter().filter(|one| self.is_good(one)) {
            let hash = self.algorithm.hash(&buffer[one.place.clone()]);
            if !self.records.has_hash(one.block, &hash) {
                self.set_fault(one.block, fault::MISMATCH);
            }
        }
    }

    /// Writes the good blocks, those that are neighbours on the device at once.
    fn write(&self, stored: &[Stored], buffer: &[u8], target: &OpenFile) -> Result<(), Failure> {
        let neighbours = |one: &Stored, next: &Stored| {
            one.block + 1 == next.block && self.is_good(one) && self.is_good(next)
        };
        for run in stored.chunk_by(neighbours) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            if self.is_good(first) {
                let range = self.blocks.span(first.block, last.block + 1);
                let bytes = &buffer[first.place.start..last.place.end];
                target
                    .write(range.start, &mut [IoSlice::new(bytes)])
                    .map_err(|error| Failure::of_write(&error, range))?;
            }
        }
        Ok(())
    }

    fn write_zeros(&self, runs: &[Range<usize>], target: &OpenFile) -> Result<(), Failure> {
        for run in runs {
            let range = self.blocks.span(run.start, run.end);
            // Whatever keeps the range from being made zero cheaply, writing zeros works or says why not.
            if !matches!(space::zero(target, &range, true), Ok(true)) {
                write_zeros(target, range)?;
            }
        }
        Ok(())
    }

    fn is_good(&self, stored: &Stored) -> bool {
        self.faults[stored.block - self.blocks.first].load(Relaxed) == fault::NONE
    }

    fn set_fault(&self, block: usize, fault: u8) {
        self.faults[block - self.blocks.first].store(fault, Relaxed);
    }

    fn count(&self, batch: &Batch) {
        let read: usize = batch.stored.iter().map(|one| one.place.len()).sum();
        let zeros: usize = batch
            .zeros
            .iter()
            .map(|run| self.blocks.length(run.start, run.end))
            .sum();
        self.progress.read(read);
        self.progress.dealt_with(read + zeros);
    }
}

fn write_zeros(target: &OpenFile, range: Range<u64>) -> Result<(), Failure> {
    let most = (PIECES_PER_WRITE * ZEROS.len()) as u64;
    let mut offset = range.start;
    while offset < range.end {
        let end = range.end.min(offset + most);
        let mut pieces: Vec<_> = (offset..end)
            .step_by(ZEROS.len())
            .map(|start| IoSlice::new(&ZEROS[..ZEROS.len().min((end - start) as usize)]))
            .collect();
        target
            .write(offset, &mut pieces)
            .map_err(|error| Failure::of_write(&error, offset..end))?;
        offset = end;
    }
    Ok(())
}
