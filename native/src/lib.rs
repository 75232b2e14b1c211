//! The native copy core of cofferdam. This file is the binding: one function per method of `Core` in
//! `src/core/core.ts`.
//!
//! Failures are returned, not thrown, as an error that napi throws has no room for a byte range. `src/core/native.ts`
//! makes errors of them.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets and lengths of devices are kept in usize, which has to have 64 bits");

mod arguments;
mod batch;
mod bitmap;
mod blocks;
mod buffer;
mod copy;
mod error;
mod extents;
mod file;
mod gate;
mod geometry;
mod hash;
mod job;
mod lock;
mod memory;
#[cfg(target_os = "linux")]
pub mod nbd;
#[cfg(target_os = "linux")]
mod pre_images;
mod restore;
mod segment;
mod source;
mod space;
#[cfg(target_os = "linux")]
mod spill;
mod sync;
#[cfg(target_os = "linux")]
pub mod watch;
mod zero;

use crate::arguments::{CopyArguments, RestoreArguments, file, range};
use crate::batch::{Cached, Place, Waiting};
use crate::error::Failure;
use crate::hash::Algorithm;
use crate::job::{JobEnd, expect_length};
use crate::memory::TypedArray;
use napi::Task;
use napi::bindgen_prelude::{AsyncTask, Either, Env, Float64Array, Uint8Array};
use napi_derive::napi;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Changes with every change of this file's functions, so that `src/core/native.ts` notices a stale build.
#[napi]
pub const INTERFACE_VERSION: u32 = 5;

/// A failure as JavaScript sees it: what returns this may return it in place of its result.
#[napi(object, object_from_js = false)]
pub struct FailureObject {
    pub code: &'static str,
    pub message: String,
    pub offset_bytes: Option<f64>,
    pub length_bytes: Option<f64>,
}

impl From<Failure> for FailureObject {
    fn from(failure: Failure) -> Self {
        let range = failure.range.as_ref();
        FailureObject {
            code: failure.code.name(),
            message: failure.message,
            offset_bytes: range.map(|range| range.start as f64),
            length_bytes: range.map(|range| (range.end - range.start) as f64),
        }
    }
}

type Answer<T> = Either<T, FailureObject>;

fn answer<T>(result: Result<T, Failure>) -> Answer<T> {
    match result {
        Ok(value) => Either::A(value),
        Err(failure) => Either::B(failure.into()),
    }
}

/// Puts the hash of `bytes` into `into`.
#[napi(catch_unwind)]
pub fn hash(
    algorithm: String,
    bytes: TypedArray<AtomicU8>,
    into: TypedArray<AtomicU8>,
) -> Option<FailureObject> {
    let put = || -> Result<(), Failure> {
        let algorithm = Algorithm::parse(&algorithm)?;
        expect_length("into", into.shared().len(), algorithm.length())?;
        let hash = algorithm.hash(bytes.bytes());
        for (place, byte) in into.shared().iter().zip(hash.as_bytes()) {
            place.store(*byte, Relaxed);
        }
        Ok(())
    };
    put().err().map(FailureObject::from)
}

#[napi(catch_unwind)]
pub fn is_zero(bytes: TypedArray<AtomicU8>) -> bool {
    zero::is_zero(bytes.bytes())
}

#[napi(object, object_from_js = false)]
pub struct CopyAnswer {
    pub end: &'static str,
    pub stored_bytes: f64,
}

#[napi(catch_unwind)]
pub fn copy(job: CopyArguments) -> Answer<CopyAnswer> {
    let result = job.job().and_then(|job| copy::copy(&job));
    answer(result.map(|result| CopyAnswer {
        end: result.end.name(),
        stored_bytes: result.stored as f64,
    }))
}

#[napi(catch_unwind)]
pub fn restore(job: RestoreArguments) -> Answer<&'static str> {
    let end = job.job().and_then(|job| restore::restore(&job));
    answer(end.map(JobEnd::name))
}

#[napi(catch_unwind)]
pub fn lock(fd: f64, mode: String) -> Answer<&'static str> {
    let lock = || Ok(lock::lock(&file(fd, "fd")?, lock::Mode::parse(&mode)?)?.name());
    answer(lock())
}

#[napi(object, object_from_js = false)]
pub struct GeometryAnswer {
    pub size_bytes: f64,
    pub logical_sector_bytes: f64,
}

#[napi(catch_unwind)]
pub fn block_geometry(fd: f64) -> Answer<GeometryAnswer> {
    let geometry = file(fd, "fd").and_then(|file| geometry::geometry(&file));
    answer(geometry.map(|geometry| GeometryAnswer {
        size_bytes: geometry.size as f64,
        logical_sector_bytes: geometry.logical_sector as f64,
    }))
}

#[napi(catch_unwind)]
pub fn data_ranges(fd: f64, offset_bytes: f64, length_bytes: f64) -> Answer<Float64Array> {
    let ranges = || {
        Ok(extents::data_ranges(
            &file(fd, "fd")?,
            range(offset_bytes, length_bytes)?,
        ))
    };
    answer(ranges().map(|ranges| {
        let ends = ranges
            .iter()
            .flat_map(|range| [range.start as f64, range.end as f64]);
        Float64Array::new(ends.collect())
    }))
}

/// Sets the byte of `done` to 1 for each of `places` that the page cache could answer.
#[napi(catch_unwind)]
pub fn read_cached(
    fd: f64,
    bytes: TypedArray<AtomicU8>,
    places: TypedArray<AtomicU64>,
    done: TypedArray<AtomicU8>,
) -> Option<FailureObject> {
    let read = || -> Result<(), Failure> {
        let file = file(fd, "fd")?;
        let bytes = bytes.shared();
        let places = batch::places(floats(&places), bytes.len())?;
        expect_length("done", done.shared().len(), places.len())?;
        let waiting = Waiting::of(&file);
        for (place, done) in places.iter().zip(done.shared()) {
            match batch::read_cached(&file, waiting, place.offset, &bytes[place.bytes.clone()]) {
                Cached::Yes => done.store(1, Relaxed),
                Cached::No => {}
                Cached::Unsupported => break,
            }
        }
        Ok(())
    };
    read().err().map(FailureObject::from)
}

fn floats(numbers: &TypedArray<AtomicU64>) -> impl ExactSizeIterator<Item = f64> {
    let bits = numbers.shared().iter();
    bits.map(|bits| f64::from_bits(bits.load(Relaxed)))
}

/// Makes the writes of some batches, each a buffer and the places in it. A thread of libuv's pool takes the buffers for
/// bytes that nobody changes.
#[napi(catch_unwind)]
pub fn write(
    fd: f64,
    bytes: Vec<Uint8Array>,
    places: Vec<TypedArray<AtomicU64>>,
) -> AsyncTask<WriteTask> {
    let batches = bytes.into_iter().zip(&places).map(|(bytes, places)| {
        let places = batch::places(floats(places), bytes.len())?;
        Ok((bytes, places))
    });
    AsyncTask::new(WriteTask {
        fd,
        batches: batches.collect(),
    })
}

/// Writes of some batches, one after the other.
pub struct WriteTask {
    fd: f64,
    /// The buffers are kept alive until the task has ended.
    batches: Result<Vec<(Uint8Array, Vec<Place>)>, Failure>,
}

impl Task for WriteTask {
    type Output = Result<(), Failure>;
    type JsValue = Option<FailureObject>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        let write = || {
            let batches = self.batches.as_ref().map_err(Failure::clone)?;
            let file = file(self.fd, "fd")?;
            batches
                .iter()
                .try_for_each(|(bytes, places)| batch::write(&file, bytes, places))
        };
        Ok(write())
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.err().map(FailureObject::from))
    }
}

#[napi(catch_unwind)]
pub fn zero_range(
    fd: f64,
    offset_bytes: f64,
    length_bytes: f64,
    may_trim: bool,
) -> AsyncTask<SpaceTask> {
    let operation = if may_trim {
        Space::ZeroOrTrim
    } else {
        Space::Zero
    };
    AsyncTask::new(SpaceTask {
        operation,
        fd,
        offset_bytes,
        length_bytes,
    })
}

#[napi(catch_unwind)]
pub fn discard(fd: f64, offset_bytes: f64, length_bytes: f64) -> AsyncTask<SpaceTask> {
    AsyncTask::new(SpaceTask {
        operation: Space::Discard,
        fd,
        offset_bytes,
        length_bytes,
    })
}

enum Space {
    Zero,
    ZeroOrTrim,
    Discard,
}

impl Space {
    fn name(&self) -> &'static str {
        match self {
            Space::Zero | Space::ZeroOrTrim => "zeroing",
            Space::Discard => "discarding",
        }
    }
}

/// An operation on the space of a file that may take long, on a thread of libuv's pool.
pub struct SpaceTask {
    operation: Space,
    fd: f64,
    offset_bytes: f64,
    length_bytes: f64,
}

impl SpaceTask {
    fn run(&self) -> Result<bool, Failure> {
        let file = file(self.fd, "fd")?;
        let range: Range<u64> = range(self.offset_bytes, self.length_bytes)?;
        if range.is_empty() {
            return Ok(true);
        }
        let result = match self.operation {
            Space::Zero => space::zero(&file, &range, false),
            Space::ZeroOrTrim => space::zero(&file, &range, true),
            Space::Discard => space::discard(&file, &range),
        };
        result.map_err(|error| Failure::of_device(self.operation.name(), &error, range))
    }
}

impl Task for SpaceTask {
    type Output = Result<bool, Failure>;
    type JsValue = Answer<bool>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.run())
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(answer(output))
    }
}
