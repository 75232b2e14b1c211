//! The copy loop: blocks of a device into an image.
//!
//! Invariants:
//!
//! - A block counts (gets a state, sets its `copied` bit) only after it was read and the barrier and `preserved` were
//!   looked at again, in this order of time. Where both allow it, what was read is its content as of the cut.
//! - A hole obeys the same rule: looking it up is the read.
//! - A block is `Stored` only once it has been written, and what was written is what was hashed.

use crate::bitmap::SharedBitmap;
use crate::blocks::Blocks;
use crate::buffer::with_buffer;
use crate::error::Failure;
use crate::extents::Extents;
use crate::hash::Algorithm;
use crate::job::{Cancel, JobEnd, Progress, Records, state};
use crate::segment::{Segment, Sink};
use crate::source::{Fetched, Source, Supply, check_size};
use crate::sync::{AtomicI32, fence};
use crate::zero::is_zero;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

/// Blocks that are dealt with between two looks at `cancel`, however little work they are.
const BLOCKS_PER_STEP: usize = 1 << 14;

pub struct CopyJob<'a> {
    pub blocks: Blocks,
    pub algorithm: Algorithm,
    pub source: Source<'a>,
    pub selected: Option<SharedBitmap<'a>>,
    pub preserved: Option<SharedBitmap<'a>>,
    pub copied: Option<SharedBitmap<'a>>,
    pub barrier: Option<&'a AtomicI32>,
    pub sink: Sink<'a>,
    pub cancel: Cancel<'a>,
    pub progress: Progress<'a>,
    pub records: Records<'a>,
}

pub struct CopyResult {
    pub end: JobEnd,
    /// Bytes of blocks that were stored.
    pub stored: u64,
}

pub fn copy(job: &CopyJob<'_>) -> Result<CopyResult, Failure> {
    for block in job.blocks.first..job.blocks.end {
        job.records.set_state(block, state::SKIPPED);
    }
    match &job.source {
        Source::Content(content) => copy_from(job, Supply::Content(content)),
        Source::Device(file) => {
            check_size(file, &job.blocks)?;
            let result = with_buffer(|buffer| {
                let extents = Extents::new(file, job.blocks.block_size);
                copy_from(
                    job,
                    Supply::Device {
                        file,
                        extents,
                        buffer,
                    },
                )
            })?;
            if result.end == JobEnd::Done {
                check_size(file, &job.blocks)?;
            }
            Ok(result)
        }
    }
}

fn copy_from(job: &CopyJob<'_>, mut supply: Supply<'_>) -> Result<CopyResult, Failure> {
    let mut segment = Segment::default();
    let mut next = job.blocks.first;
    while next < job.blocks.end {
        if job.cancel.requested() {
            return Ok(job.ended(JobEnd::Cancelled, &segment));
        }
        let wanted = match job.next_step(next) {
            Step::Unselected { end } => {
                next = end;
                continue;
            }
            Step::Preserved { end } => {
                job.note_preserved(next..end);
                next = end;
                continue;
            }
            Step::Wanted { end } => next..end,
        };
        if supply.is_full(&job.blocks, &segment) {
            segment.write(supply.memory(), &job.sink, &job.records)?;
        }
        let fetched = supply.fetch(&job.blocks, wanted, &segment)?;
        let end = fetched.end();
        job.count_read(&fetched);
        if !job.settle(next..end) {
            return Ok(job.ended(JobEnd::BarrierLost, &segment));
        }
        match fetched {
            Fetched::Hole { .. } => job.note_zeros(next..end),
            Fetched::Bytes { place, .. } => {
                job.keep(next..end, supply.memory(), place.start, &mut segment);
            }
        }
        next = end;
    }
    segment.write(supply.memory(), &job.sink, &job.records)?;
    Ok(job.ended(JobEnd::Done, &segment))
}

/// What is to be done with the next blocks, up to `end`.
enum Step {
    Unselected { end: usize },
    Preserved { end: usize },
    Wanted { end: usize },
}

impl CopyJob<'_> {
    fn ended(&self, end: JobEnd, segment: &Segment) -> CopyResult {
        CopyResult {
            end,
            stored: segment.stored,
        }
    }

    fn next_step(&self, next: usize) -> Step {
        let mut end = self.blocks.end.min(next + BLOCKS_PER_STEP);
        if let Some(selected) = self.selected {
            let first = selected.first_set(next, end);
            if first > next {
                return Step::Unselected { end: first };
            }
            end = selected.first_clear(next, end);
        }
        if let Some(preserved) = self.preserved {
            let first = preserved.first_clear(next, end);
            if first > next {
                return Step::Preserved { end: first };
            }
            end = preserved.first_set(next, end);
        }
        Step::Wanted { end }
    }

    /// Decides about blocks that have just been read: those preserved meanwhile are marked so, the others are copied
    /// from now on. False, and nothing is decided, if the barrier is down.
    fn settle(&self, read: Range<usize>) -> bool {
        // 1. Everything read is read before the looks below. A writer sets `preserved` before it writes, so whoever
        //    reads something newer than the cut also sees the bit. A barrier is lowered before anything is written.
        fence(SeqCst);
        // 2. The barrier, if that is what holds the content.
        if self.barrier.is_some_and(|word| word.load(SeqCst) == 0) {
            return false;
        }
        // 3. The pre-images made meanwhile; and only then may writers go on without making one.
        for block in read {
            if self.preserved.is_some_and(|preserved| preserved.has(block)) {
                self.records.set_state(block, state::PRESERVED);
            } else if let Some(copied) = self.copied {
                copied.add(block);
            }
        }
        true
    }

    fn count_read(&self, fetched: &Fetched) {
        if let Fetched::Bytes { place, .. } = fetched {
            self.progress.read(place.len());
        }
    }

    fn note_preserved(&self, blocks: Range<usize>) {
        for block in blocks {
            self.records.set_state(block, state::PRESERVED);
        }
    }

    fn note_zeros(&self, blocks: Range<usize>) {
        let mut dealt_with = 0;
        for block in blocks {
            if self.records.state(block) != state::PRESERVED {
                self.records.set_state(block, state::ZERO);
                dealt_with += self.blocks.length(block, block + 1);
            }
        }
        self.progress.dealt_with(dealt_with);
    }

    /// Hashes blocks that were read to `memory[start..]` and keeps those that have to be stored.
    fn keep(&self, blocks: Range<usize>, memory: &[u8], start: usize, segment: &mut Segment) {
        let mut dealt_with = 0;
        let mut next = start;
        for block in blocks {
            let place = next..next + self.blocks.length(block, block + 1);
            next = place.end;
            if self.records.state(block) == state::PRESERVED {
                continue;
            }
            dealt_with += place.len();
            let bytes = &memory[place.clone()];
            if is_zero(bytes) {
                self.records.set_state(block, state::ZERO);
            } else {
                self.records.set_hash(block, &self.algorithm.hash(bytes));
                segment.keep(block, place);
            }
        }
        self.progress.dealt_with(dealt_with);
    }
}
