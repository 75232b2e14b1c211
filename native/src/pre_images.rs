//! Copy-before-write: the old contents of what clients overwrite while a snapshot is live, kept for JavaScript's requests
//! and those of the threads of connections alike. `src/servers/snapshot.ts` has the invariants of a snapshot; these are
//! how they are kept here, for every unit u of a block b:
//!
//! 1. Whoever is about to write to u while b is not copied and u is not saved saves it first. Several may do so at a time;
//!    the first to take the lock keeps what it has read, and the others throw theirs away. As u was not saved until then,
//!    nobody had written to it when the first one read it; what the others have read may be anything.
//! 2. It is kept under the lock, in this order: the pre-image is in its place, `preserved[b]`, u is saved. So whoever sees
//!    without the lock that u is saved may write: the other two are done.
//! 3. A pre-image that comes too late, because b was copied meanwhile, is not kept; and [`PreImages::free`] is called
//!    after b is marked as copied, if anything of b was kept until then. So nothing is kept that nobody wants any more, but
//!    for what came in the very moment in which the copier looked.
//! 4. Nothing is read or written under the lock, and nobody waits for anything else: not for who saves the same unit.
//!
//! The steps of a write, and what breaks when two of them change places (`proof/copier/tests/pre_images.rs`):
//!
//! 1. Read the old content. 2. Keep it, unless somebody has. 3. Set the bits.
//! 4. Write. Else the copier takes what was written: `wrong_with_a_write_before_the_bits`.

use crate::bitmap::SharedBitmap;
use crate::error::{Code, Failure};
use crate::spill::Spill;
use crate::sync::{AtomicBool, Mutex, MutexGuard, fence};
use crate::zero::is_zero;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

/// What is saved for a write, in bytes: much less than a block, which for most writes would be far too much.
/// `src/servers/snapshot.ts` has the same.
pub const UNIT: u64 = 4096;

/// The most that is read at once.
const RUN_UNITS: usize = 64;

/// Room for the longest run, in bytes.
pub const RUN_LENGTH: usize = RUN_UNITS * UNIT as usize;

/// How much of a device there is, and in which blocks it is copied.
#[derive(Clone, Copy)]
pub struct Shape {
    pub device_size: u64,
    pub units_per_block: usize,
}

impl Shape {
    pub fn units(&self) -> usize {
        self.device_size.div_ceil(UNIT) as usize
    }

    pub fn blocks(&self) -> usize {
        self.units().div_ceil(self.units_per_block)
    }
}

/// Words that JavaScript and the copier see too.
#[derive(Clone, Copy)]
pub struct Marks<'m> {
    /// Per block: a unit of it is saved.
    pub preserved: SharedBitmap<'m>,
    /// Per block: nobody wants its pre-images.
    pub copied: SharedBitmap<'m>,
    /// Per unit.
    pub saved: SharedBitmap<'m>,
}

/// How many units are kept, and where. What is on its way to the spill file counts, for each thread that is saving it: so
/// the limit may be reached as many units early as there are threads.
pub struct Limits {
    pub units_in_memory: u32,
    pub units_spilled: u32,
    pub directory: PathBuf,
}

/// What a write may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For nothing.
    Nothing,
    /// For the spill file.
    Spilling,
    /// For the medium of the device as well.
    Reading,
}

/// Whether it was done, or there is something to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    NotNow,
}

pub struct PreImages<'m> {
    shape: Shape,
    marks: Marks<'m>,
    spill: Spill,
    /// No pre-image is needed any more.
    is_over: AtomicBool,
    store: Mutex<Store>,
}

struct Store {
    /// Of every unit that is saved and not all zeros.
    places: BTreeMap<usize, Place>,
    memory: Memory,
    spilled: Slots,
}

#[derive(Clone, Copy)]
enum Place {
    Memory(u32),
    Spilled(u32),
}

impl<'m> PreImages<'m> {
    /// The marks have a bit for every block or unit of the device.
    pub fn new(shape: Shape, marks: Marks<'m>, limits: Limits) -> Self {
        PreImages {
            shape,
            marks,
            spill: Spill::new(limits.directory, UNIT as usize),
            is_over: AtomicBool::new(false),
            store: Mutex::new(Store {
                places: BTreeMap::new(),
                memory: Memory::new(limits.units_in_memory),
                spilled: Slots::new(limits.units_spilled),
            }),
        }
    }

    /// Saves what is needed of a range that is about to change: once it is `Done`, it may. What is `NotNow` may have been
    /// saved in part.
    ///
    /// @param buffer room for the longest run.
    /// @param read fills its second argument with what the device holds from its first on.
    pub fn preserve(
        &self,
        range: &Range<u64>,
        patience: Patience,
        buffer: &mut [u8],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        let end = range.end.div_ceil(UNIT) as usize;
        let mut unit = (range.start / UNIT) as usize;
        while unit < end && !self.is_over() {
            let run = self.needed(unit..end);
            unit = run.end;
            if run.is_empty() {
                continue;
            }
            let span = self.span(&run);
            let bytes = &mut buffer[..(span.end - span.start) as usize];
            if read(span.start, bytes)? == Outcome::NotNow {
                return Ok(Outcome::NotNow);
            }
            for (unit, bytes) in run.zip(bytes.chunks(UNIT as usize)) {
                if self.keep(unit, bytes, patience)? == Outcome::NotNow {
                    return Ok(Outcome::NotNow);
                }
            }
        }
        // Between all looks and bits above and the write that comes next: a system call orders nothing by itself.
        fence(SeqCst);
        Ok(Outcome::Done)
    }

    /// Puts pre-images over what `into` has from `offset` on, which was read from the device before.
    pub fn restore(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        // Between that read and the looks below, as in the copier.
        fence(SeqCst);
        let end = offset + into.len() as u64;
        let last = end.div_ceil(UNIT) as usize;
        let mut unit = self.marks.saved.first_set((offset / UNIT) as usize, last);
        while unit < last {
            let start = offset.max(unit as u64 * UNIT);
            let skip = (start - unit as u64 * UNIT) as usize;
            let part = start..end.min((unit as u64 + 1) * UNIT);
            let part = (part.start - offset) as usize..(part.end - offset) as usize;
            self.get(unit, skip, &mut into[part])?;
            unit = self.marks.saved.first_set(unit + 1, last);
        }
        Ok(())
    }

    /// Gives up the pre-images of blocks that are marked as copied.
    pub fn free(&self, blocks: Range<usize>) {
        let per_block = self.shape.units_per_block;
        let units = blocks.start * per_block..blocks.end * per_block;
        let mut store = self.lock();
        let kept = store.places.range(units);
        let kept: Vec<_> = kept.map(|(unit, place)| (*unit, *place)).collect();
        for (unit, place) in kept {
            store.places.remove(&unit);
            match place {
                Place::Memory(slot) => store.memory.slots.give(slot),
                Place::Spilled(slot) => store.spilled.give(slot),
            }
        }
    }

    /// How many blocks the device has.
    pub fn blocks(&self) -> usize {
        self.shape.blocks()
    }

    /// From now on nothing is saved.
    pub fn end(&self) {
        self.is_over.store(true, SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    fn is_needed(&self, unit: usize) -> bool {
        !self.marks.saved.has(unit) && !self.marks.copied.has(self.block_of(unit))
    }

    /// The first of these that are needed and can be read together; at least where they end is further on.
    fn needed(&self, among: Range<usize>) -> Range<usize> {
        let mut units = among.clone();
        let start = units
            .find(|unit| self.is_needed(*unit))
            .unwrap_or(among.end);
        let mut end = among.end.min(start + RUN_UNITS);
        end = (start..end)
            .find(|unit| !self.is_needed(*unit))
            .unwrap_or(end);
        start..end
    }

    fn block_of(&self, unit: usize) -> usize {
        unit / self.shape.units_per_block
    }

    fn span(&self, units: &Range<usize>) -> Range<u64> {
        let end = (units.end as u64 * UNIT).min(self.shape.device_size);
        (units.start as u64 * UNIT).min(end)..end
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // What a thread that panicked left behind is whole: no step under the lock depends on a later one.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a unit held before, unless it is not needed any more.
    fn keep(&self, unit: usize, bytes: &[u8], patience: Patience) -> Result<Outcome, Failure> {
        let is_zero = is_zero(bytes);
        let slot = {
            let mut store = self.lock();
            if !self.is_needed(unit) {
                return Ok(Outcome::Done);
            }
            if is_zero {
                self.publish(&mut store, unit, None);
                return Ok(Outcome::Done);
            }
            if let Some(slot) = store.memory.put(bytes) {
                self.publish(&mut store, unit, Some(Place::Memory(slot)));
                return Ok(Outcome::Done);
            }
            if patience == Patience::Nothing {
                return Ok(Outcome::NotNow);
            }
            store.spilled.take().ok_or_else(full)?
        };
        let written = self.spill.write(slot, bytes);
        let mut store = self.lock();
        if written.is_ok() && self.is_needed(unit) {
            self.publish(&mut store, unit, Some(Place::Spilled(slot)));
        } else {
            store.spilled.give(slot);
        }
        written.map(|()| Outcome::Done)
    }

    fn publish(&self, store: &mut Store, unit: usize, place: Option<Place>) {
        // 1. Where the pre-image is; zeros take no place.
        if let Some(place) = place {
            store.places.insert(unit, place);
        }
        // 2. What the copier looks at.
        self.marks.preserved.add(self.block_of(unit));
        // 3. What writers and readers look at.
        self.marks.saved.add(unit);
    }

    fn get(&self, unit: usize, skip: usize, into: &mut [u8]) -> Result<(), Failure> {
        let slot = {
            let store = self.lock();
            match store.places.get(&unit) {
                Some(Place::Memory(slot)) => {
                    let bytes = &store.memory.unit(*slot)[skip..];
                    into.copy_from_slice(&bytes[..into.len()]);
                    return Ok(());
                }
                // It was all zeros; or it was given up, and the caller finds its block copied.
                None => {
                    into.fill(0);
                    return Ok(());
                }
                Some(Place::Spilled(slot)) => *slot,
            }
        };
        // If it is given up now, the place may be used for another unit; the caller finds its block copied.
        self.spill.read(slot, skip, into)
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.lock().places.len()
    }
}

/// Numbers up to a limit, which can be given back.
struct Slots {
    limit: u32,
    used: u32,
    free: Vec<u32>,
}

impl Slots {
    fn new(limit: u32) -> Self {
        Slots {
            limit,
            used: 0,
            free: Vec::new(),
        }
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.used;
        (slot < self.limit).then(|| {
            self.used += 1;
            slot
        })
    }

    fn give(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

/// Room for units in memory, taken from the system in chunks when it is needed.
struct Memory {
    slots: Slots,
    chunks: Vec<Box<[u8]>>,
}

const CHUNK_UNITS: usize = 64;

impl Memory {
    fn new(limit: u32) -> Self {
        Memory {
            slots: Slots::new(limit),
            chunks: Vec::new(),
        }
    }

    /// None if it is full.
    fn put(&mut self, bytes: &[u8]) -> Option<u32> {
        let slot = self.slots.take()?;
        if slot as usize / CHUNK_UNITS == self.chunks.len() {
            let chunk = vec![0; CHUNK_UNITS * UNIT as usize];
            self.chunks.push(chunk.into_boxed_slice());
        }
        let start = slot as usize % CHUNK_UNITS * UNIT as usize;
        self.chunks[slot as usize / CHUNK_UNITS][start..][..bytes.len()].copy_from_slice(bytes);
        Some(slot)
    }

    fn unit(&self, slot: u32) -> &[u8] {
        let start = slot as usize % CHUNK_UNITS * UNIT as usize;
        &self.chunks[slot as usize / CHUNK_UNITS][start..][..UNIT as usize]
    }
}

/// JavaScript knows the limits, and says what they are.
fn full() -> Failure {
    Failure::new(Code::TargetFull, "pre-images reached their limit")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU32;
    use std::env::temp_dir;
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    /// A device in memory of eight units and a bit, three to a block, which holds no zeros.
    struct Device {
        bytes: Vec<AtomicU8>,
        preserved: [AtomicU32; 1],
        copied: [AtomicU32; 1],
        saved: [AtomicU32; 1],
    }

    const SIZE: u64 = 8 * UNIT + 100;

    impl Device {
        fn new() -> Self {
            Device {
                bytes: (0..SIZE).map(|at| AtomicU8::new(original(at))).collect(),
                preserved: [AtomicU32::new(0)],
                copied: [AtomicU32::new(0)],
                saved: [AtomicU32::new(0)],
            }
        }

        fn pre_images(&self, units_in_memory: u32, units_spilled: u32) -> PreImages<'_> {
            let shape = Shape {
                device_size: SIZE,
                units_per_block: 3,
            };
            let marks = Marks {
                preserved: SharedBitmap::new(&self.preserved),
                copied: SharedBitmap::new(&self.copied),
                saved: SharedBitmap::new(&self.saved),
            };
            let limits = Limits {
                units_in_memory,
                units_spilled,
                directory: temp_dir(),
            };
            PreImages::new(shape, marks, limits)
        }

        fn read(&self, offset: u64, into: &mut [u8]) -> Result<Outcome, Failure> {
            let bytes = &self.bytes[offset as usize..];
            for (to, from) in into.iter_mut().zip(bytes) {
                *to = from.load(Relaxed);
            }
            Ok(Outcome::Done)
        }

        fn write(&self, range: &Range<u64>, value: u8) {
            for byte in &self.bytes[range.start as usize..range.end as usize] {
                byte.store(value, Relaxed);
            }
        }

        fn copied(&self) -> SharedBitmap<'_> {
            SharedBitmap::new(&self.copied)
        }
    }

    fn original(at: u64) -> u8 {
        1 + (at / 100 % 255) as u8
    }

    impl PreImages<'_> {
        fn change(
            &self,
            device: &Device,
            range: Range<u64>,
            patience: Patience,
        ) -> Result<Outcome, Failure> {
            let mut buffer = vec![0; RUN_LENGTH];
            let read = |offset, into: &mut [u8]| device.read(offset, into);
            let outcome = self.preserve(&range, patience, &mut buffer, read)?;
            if outcome == Outcome::Done {
                device.write(&range, 0);
            }
            Ok(outcome)
        }

        fn assert_original(&self, device: &Device) -> Result<(), Failure> {
            let mut seen = vec![0; SIZE as usize];
            device.read(0, &mut seen)?;
            self.restore(0, &mut seen)?;
            for at in 0..SIZE {
                assert_eq!(seen[at as usize], original(at), "at {at}");
            }
            // A part of it, from the middle of a unit to the middle of another.
            let mut part = vec![0; 2 * UNIT as usize];
            device.read(UNIT + 7, &mut part)?;
            self.restore(UNIT + 7, &mut part)?;
            assert_eq!(part, seen[UNIT as usize + 7..][..part.len()]);
            Ok(())
        }
    }

    #[test]
    fn what_is_overwritten_is_kept_wherever_it_has_room() -> Result<(), Failure> {
        for (in_memory, spilled) in [(9, 0), (0, 9), (4, 5)] {
            let device = Device::new();
            let pre_images = device.pre_images(in_memory, spilled);
            for range in [10..20, UNIT - 1..UNIT + 1, 3 * UNIT..SIZE, 0..SIZE, 5..6] {
                let outcome = pre_images.change(&device, range, Patience::Spilling)?;
                assert_eq!(outcome, Outcome::Done);
                pre_images.assert_original(&device)?;
            }
            assert_eq!(pre_images.kept(), 9);
        }
        Ok(())
    }

    #[test]
    fn zeros_take_no_room() -> Result<(), Failure> {
        let device = Device::new();
        device.write(&(0..SIZE), 0);
        let pre_images = device.pre_images(0, 0);
        pre_images.change(&device, 0..SIZE, Patience::Nothing)?;
        device.write(&(0..SIZE), 7);
        let mut seen = vec![7; SIZE as usize];
        pre_images.restore(0, &mut seen)?;
        assert!(is_zero(&seen));
        assert_eq!(pre_images.kept(), 0);
        Ok(())
    }

    #[test]
    fn who_is_not_to_wait_does_not() -> Result<(), Failure> {
        let device = Device::new();
        let pre_images = device.pre_images(1, 1);
        // For the spill file.
        let outcome = pre_images.change(&device, 0..2 * UNIT, Patience::Nothing)?;
        assert_eq!((outcome, pre_images.kept()), (Outcome::NotNow, 1));
        // For a medium.
        let mut buffer = vec![0; RUN_LENGTH];
        let read = |_: u64, _: &mut [u8]| Ok(Outcome::NotNow);
        let outcome = pre_images.preserve(&(0..SIZE), Patience::Spilling, &mut buffer, read)?;
        assert_eq!((outcome, pre_images.kept()), (Outcome::NotNow, 1));
        let outcome = pre_images.change(&device, 0..2 * UNIT, Patience::Spilling)?;
        assert_eq!(outcome, Outcome::Done);
        pre_images.assert_original(&device)
    }

    #[test]
    fn the_first_of_several_pre_images_counts() -> Result<(), Failure> {
        for (in_memory, spilled) in [(9, 0), (0, 9)] {
            let device = Device::new();
            let pre_images = device.pre_images(in_memory, spilled);
            let mut buffer = vec![0; RUN_LENGTH];
            pre_images.preserve(&(0..1), Patience::Spilling, &mut buffer, |offset, into| {
                // Another one comes first, and has written when this one reads.
                pre_images.change(&device, 0..UNIT, Patience::Spilling)?;
                device.read(offset, into)
            })?;
            pre_images.assert_original(&device)?;
        }
        Ok(())
    }

    #[test]
    fn what_has_ended_saves_nothing() {
        let device = Device::new();
        let pre_images = device.pre_images(0, 0);
        pre_images.end();
        let outcome = pre_images.change(&device, 0..SIZE, Patience::Nothing);
        assert_eq!((outcome, pre_images.kept()), (Ok(Outcome::Done), 0));
    }

    #[test]
    fn at_the_limit_it_fails() -> Result<(), Failure> {
        let device = Device::new();
        let pre_images = device.pre_images(2, 1);
        for _ in 0..2 {
            let failure = pre_images.change(&device, 0..4 * UNIT, Patience::Spilling);
            assert_eq!(failure, Err(full()));
            assert_eq!(pre_images.kept(), 3);
        }
        // What is copied makes room, and is not saved.
        device.copied().add(0);
        pre_images.free(0..1);
        assert_eq!(pre_images.kept(), 0);
        let outcome = pre_images.change(&device, 0..6 * UNIT, Patience::Spilling)?;
        assert_eq!((outcome, pre_images.kept()), (Outcome::Done, 3));
        Ok(())
    }

    #[test]
    fn a_folder_that_cannot_be_used_breaks_it() {
        let device = Device::new();
        let mut pre_images = device.pre_images(0, 9);
        pre_images.spill = Spill::new("/does/not/exist".into(), UNIT as usize);
        for _ in 0..2 {
            let failure = pre_images
                .change(&device, 0..SIZE, Patience::Spilling)
                .err();
            let code = failure.map(|failure| failure.code);
            assert_eq!(code, Some(Code::SnapshotBroken));
        }
        assert_eq!(pre_images.kept(), 0);
        assert_eq!(pre_images.lock().spilled.free.len(), 1);
    }

    #[test]
    fn what_comes_too_late_is_not_kept() -> Result<(), Failure> {
        for (in_memory, spilled) in [(9, 0), (0, 9)] {
            let device = Device::new();
            let pre_images = device.pre_images(in_memory, spilled);
            let mut buffer = vec![0; RUN_LENGTH];
            pre_images.preserve(&(0..1), Patience::Spilling, &mut buffer, |offset, into| {
                device.copied().add(0);
                pre_images.free(0..1);
                device.read(offset, into)
            })?;
            assert_eq!(pre_images.kept(), 0);
            assert_eq!(device.preserved[0].load(Relaxed), 0);
        }
        Ok(())
    }

    #[test]
    fn threads_that_write_and_read_at_once_see_one_cut() -> Result<(), Failure> {
        for round in 0..200 {
            let device = Device::new();
            // Each of the three threads may have a unit on its way that another has, too.
            let pre_images = device.pre_images(round % 10, 9 + 3);
            std::thread::scope(|scope| {
                let (device, pre_images) = (&device, &pre_images);
                for thread in 0..3_u64 {
                    scope.spawn(move || {
                        for step in 0..20_u64 {
                            let start = (thread * 7919 + step * 6151) % SIZE;
                            let end = SIZE.min(start + 1 + step * 997 % (3 * UNIT));
                            let outcome = pre_images.change(device, start..end, Patience::Spilling);
                            assert_eq!(outcome, Ok(Outcome::Done));
                        }
                    });
                }
                for _ in 0..5 {
                    pre_images.assert_original(device)?;
                }
                Ok::<(), Failure>(())
            })?;
            pre_images.assert_original(&device)?;
        }
        Ok(())
    }
}
