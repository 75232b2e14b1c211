//! Who has to see every change of a device: the binding of `NativeWatch` and `NativePreImages` of `src/core/core.ts`.

use crate::arguments::{file, range, whole};
use crate::batch::{Cached, Waiting, read_cached_into};
use crate::bitmap::SharedBitmap;
use crate::buffer::with_buffer;
use crate::error::{Code, Failure};
use crate::file::{OpenFile, Read};
use crate::memory::TypedArray;
use crate::pre_images::{Limits, Marks, Outcome, Patience, PreImages, RUN_LENGTH, Shape, UNIT};
use crate::sync::AtomicU32;
use crate::{Answer, FailureObject, answer};
use napi::Task;
use napi::bindgen_prelude::{AsyncTask, Env, Uint8Array};
use napi_derive::napi;
use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// The live snapshots of a device. The threads of its connections look at it before every change.
#[derive(Default)]
pub struct Watchers(RwLock<Vec<Arc<Watcher>>>);

impl Watchers {
    /// Does for a change what the snapshots need, as far as a thread of a connection may.
    ///
    /// @param device the file of the connection.
    pub fn preserve(&self, range: &Range<u64>, device: &OpenFile, waiting: Waiting) -> Outcome {
        let watchers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter() {
            // Of a failure JavaScript learns when it tries the same.
            let preserved = watcher.preserve(range, Patience::Spilling, |offset, into| {
                Ok(read_now(device, waiting, offset, into))
            });
            let Ok(Outcome::Done) = preserved else {
                return Outcome::NotNow;
            };
            watcher.passed.fetch_add(1, Relaxed);
        }
        Outcome::Done
    }

    fn add(&self, watcher: Arc<Watcher>) {
        let mut watchers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        watchers.push(watcher);
    }

    /// Waits for those who use it.
    fn remove(&self, watcher: &Arc<Watcher>) {
        let mut watchers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|one| !Arc::ptr_eq(one, watcher));
    }
}

/// One live snapshot.
pub struct Watcher {
    pre_images: PreImages<'static>,
    /// For JavaScript's requests; connections have their own.
    device: OpenFile,
    device_size: u64,
    waiting: Waiting,
    /// Changes that were made past JavaScript.
    passed: Arc<AtomicU64>,
}

impl Watcher {
    fn preserve(
        &self,
        range: &Range<u64>,
        patience: Patience,
        read: impl FnMut(u64, &mut [u8]) -> Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        with_buffer(|buffer| {
            let buffer = &mut buffer[..RUN_LENGTH];
            self.pre_images.preserve(range, patience, buffer, read)
        })
    }

    fn preserve_now(&self, range: &Range<u64>) -> Result<Outcome, Failure> {
        self.preserve(range, Patience::Nothing, |offset, into| {
            Ok(read_now(&self.device, self.waiting, offset, into))
        })
    }

    fn preserve_patiently(&self, range: &Range<u64>) -> Result<(), Failure> {
        let read = |offset, into: &mut [u8]| read(&self.device, offset, into);
        self.preserve(range, Patience::Reading, read).map(drop)
    }

    /// Blocks of the device, of which there may be more than 32 bits can count.
    fn blocks(&self, first: f64, count: f64) -> Result<Range<usize>, Failure> {
        let first = whole(first, "firstBlock")?;
        let end = first + whole(count, "blockCount")?;
        if end > self.pre_images.blocks() as u64 {
            return Err(Failure::bad_argument("blocks beyond the end of the device"));
        }
        Ok(first as usize..end as usize)
    }

    /// A range within the device.
    fn range(&self, offset_bytes: f64, length_bytes: f64) -> Result<Range<u64>, Failure> {
        let range = range(offset_bytes, length_bytes)?;
        if range.end > self.device_size {
            return Err(Failure::bad_argument(
                "a range beyond the end of the device",
            ));
        }
        Ok(range)
    }
}

fn read_now(device: &OpenFile, waiting: Waiting, offset: u64, into: &mut [u8]) -> Outcome {
    match read_cached_into(device, waiting, offset, into) {
        Cached::Yes => Outcome::Done,
        Cached::No | Cached::Unsupported => Outcome::NotNow,
    }
}

fn read(device: &OpenFile, offset: u64, into: &mut [u8]) -> Result<Outcome, Failure> {
    let end = offset + into.len() as u64;
    match device.read(offset, into) {
        Read::Full => Ok(Outcome::Done),
        Read::Failed(error) => Err(Failure::of_device("reading", &error, offset..end)),
        Read::End(at) => {
            let message = format!("the device ends at {at}: it shrank or was replaced");
            Err(Failure::new(Code::DeviceIo, message).at(offset..end))
        }
    }
}

#[napi]
#[derive(Default)]
pub struct NativeWatch {
    watchers: Arc<Watchers>,
}

#[napi(object, object_to_js = false)]
pub struct SnapshotArguments {
    pub device_fd: f64,
    pub device_size_bytes: f64,
    pub block_size_bytes: f64,
    pub preserved: TypedArray<AtomicU32>,
    pub copied: TypedArray<AtomicU32>,
    pub saved: TypedArray<AtomicU32>,
    pub memory_bytes: f64,
    pub spill_bytes: f64,
    pub directory: String,
}

#[napi]
impl NativeWatch {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a snapshot. JavaScript keeps its words, and the device open, until `close`, and what it asked for before
    /// that, has resolved.
    #[napi(catch_unwind)]
    pub fn begin(&self, arguments: SnapshotArguments) -> Answer<NativePreImages> {
        answer(self.begin_snapshot(&arguments))
    }

    pub fn watchers(&self) -> Arc<Watchers> {
        Arc::clone(&self.watchers)
    }

    fn begin_snapshot(&self, arguments: &SnapshotArguments) -> Result<NativePreImages, Failure> {
        let block_size = whole(arguments.block_size_bytes, "blockSizeBytes")?;
        if block_size == 0 || !block_size.is_multiple_of(UNIT) {
            return Err(Failure::bad_argument("blockSizeBytes: not whole units"));
        }
        let shape = Shape {
            device_size: whole(arguments.device_size_bytes, "deviceSizeBytes")?,
            units_per_block: (block_size / UNIT) as usize,
        };
        let marks = Marks {
            preserved: lasting(&arguments.preserved, "preserved", shape.blocks())?,
            copied: lasting(&arguments.copied, "copied", shape.blocks())?,
            saved: lasting(&arguments.saved, "saved", shape.units())?,
        };
        let limits = Limits {
            units_in_memory: units(arguments.memory_bytes, "memoryBytes")?,
            units_spilled: units(arguments.spill_bytes, "spillBytes")?,
            directory: PathBuf::from(&arguments.directory),
        };
        let device = file(arguments.device_fd, "deviceFd")?;
        let passed = Arc::new(AtomicU64::new(0));
        let watcher = Arc::new(Watcher {
            pre_images: PreImages::new(shape, marks, limits),
            waiting: Waiting::of(&device),
            device,
            device_size: shape.device_size,
            passed: Arc::clone(&passed),
        });
        self.watchers.add(Arc::clone(&watcher));
        Ok(NativePreImages {
            watcher: RefCell::new(Some(watcher)),
            watchers: self.watchers(),
            passed,
        })
    }
}

/// Words that are used after the call has returned.
fn lasting(
    words: &TypedArray<AtomicU32>,
    name: &str,
    bits: usize,
) -> Result<SharedBitmap<'static>, Failure> {
    let words = words.shared();
    // SAFETY: JavaScript keeps them until `close`, and what it asked for before that, has resolved; after that nobody
    // looks at them. Where it ends before that, they go after the threads of all connections and the tasks of libuv's
    // pool have ended.
    let words: &'static [AtomicU32] = unsafe { &*std::ptr::from_ref(words) };
    let bitmap = SharedBitmap::new(words);
    if bitmap.capacity() < bits {
        return Err(Failure::bad_argument(format!(
            "{name}: room for {} bits where {bits} are needed",
            bitmap.capacity()
        )));
    }
    Ok(bitmap)
}

fn units(bytes: f64, name: &str) -> Result<u32, Failure> {
    let units = whole(bytes, name)? / UNIT;
    Ok(u32::try_from(units).unwrap_or(u32::MAX))
}

#[napi]
pub struct NativePreImages {
    /// Until it is closed: what it keeps is given up then, and not when JavaScript gets round to it.
    watcher: RefCell<Option<Arc<Watcher>>>,
    watchers: Arc<Watchers>,
    passed: Arc<AtomicU64>,
}

#[napi]
impl NativePreImages {
    /// Whether it could be done at once.
    #[napi(catch_unwind)]
    pub fn preserve_now(&self, offset_bytes: f64, length_bytes: f64) -> Answer<bool> {
        let Some(watcher) = self.watcher() else {
            return answer(Ok(true));
        };
        answer(watcher.range(offset_bytes, length_bytes).and_then(|range| {
            let outcome = watcher.preserve_now(&range)?;
            Ok(outcome == Outcome::Done)
        }))
    }

    #[napi(catch_unwind)]
    pub fn preserve(&self, offset_bytes: f64, length_bytes: f64) -> AsyncTask<SnapshotTask> {
        self.task(move |watcher| {
            watcher.preserve_patiently(&watcher.range(offset_bytes, length_bytes)?)
        })
    }

    /// Puts pre-images over what was read from the device.
    #[napi(catch_unwind)]
    pub fn restore(&self, offset_bytes: f64, mut into: Uint8Array) -> AsyncTask<SnapshotTask> {
        self.task(move |watcher| {
            // SAFETY: the caller leaves these bytes alone until the task has ended.
            let into = unsafe { into.as_mut() };
            let range = watcher.range(offset_bytes, into.len() as f64)?;
            watcher.pre_images.restore(range.start, into)
        })
    }

    #[napi(catch_unwind)]
    pub fn free(&self, first_block: f64, block_count: f64) -> Option<FailureObject> {
        let watcher = self.watcher()?;
        let blocks = watcher.blocks(first_block, block_count);
        blocks
            .map(|blocks| watcher.pre_images.free(blocks))
            .err()
            .map(FailureObject::from)
    }

    #[napi]
    pub fn end(&self) {
        if let Some(watcher) = self.watcher() {
            watcher.pre_images.end();
        }
    }

    /// Ends it, and resolves when no connection uses it any more.
    #[napi(catch_unwind)]
    pub fn close(&self) -> AsyncTask<SnapshotTask> {
        self.end();
        let watchers = Arc::clone(&self.watchers);
        let closing = self.task(move |watcher| {
            watchers.remove(watcher);
            Ok(())
        });
        self.watcher.replace(None);
        closing
    }

    /// How many changes were made past JavaScript while this looked on.
    #[napi(getter)]
    pub fn passed(&self) -> f64 {
        self.passed.load(Relaxed) as f64
    }

    fn watcher(&self) -> Option<Arc<Watcher>> {
        self.watcher.borrow().clone()
    }

    fn task(
        &self,
        work: impl FnOnce(&Arc<Watcher>) -> Result<(), Failure> + Send + 'static,
    ) -> AsyncTask<SnapshotTask> {
        AsyncTask::new(SnapshotTask {
            work: self.watcher().map(|watcher| {
                let work = move || work(&watcher);
                Box::new(work) as Work
            }),
        })
    }
}

type Work = Box<dyn FnOnce() -> Result<(), Failure> + Send>;

/// Work on a thread of libuv's pool, which may wait; none once the snapshot is closed.
pub struct SnapshotTask {
    work: Option<Work>,
}

impl Task for SnapshotTask {
    type Output = Result<(), Failure>;
    type JsValue = Option<FailureObject>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.work.take().map_or(Ok(()), |work| work()))
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.err().map(FailureObject::from))
    }
}
