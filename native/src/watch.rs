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
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// The live snapshots of a device. The threads of its connections look at it before every change.
#[derive(Default)]
pub struct Watchers(RwLock<Vec<Arc<Watcher>>>);

impl Watchers {
    /// Does for a change what the snapshots need, as far as a thread of a connection may.
    pub fn preserve(&self, range: &Range<u64>) -> Outcome {
        let watchers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.iter() {
            // Of a failure JavaScript learns when it tries the same.
            let Ok(Outcome::Done) = watcher.preserve(range, Patience::Spilling) else {
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
    device: OpenFile,
    device_size: u64,
    waiting: Waiting,
    /// Changes that were made past JavaScript.
    passed: AtomicU64,
}

impl Watcher {
    fn preserve(&self, range: &Range<u64>, patience: Patience) -> Result<Outcome, Failure> {
        with_buffer(|buffer| {
            let buffer = &mut buffer[..RUN_LENGTH];
            self.pre_images
                .preserve(range, patience, buffer, |offset, into| match patience {
                    Patience::Reading => self.read(offset, into),
                    _ => Ok(self.read_cached(offset, into)),
                })
        })
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> Outcome {
        match read_cached_into(&self.device, self.waiting, offset, into) {
            Cached::Yes => Outcome::Done,
            Cached::No | Cached::Unsupported => Outcome::NotNow,
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<Outcome, Failure> {
        let end = offset + into.len() as u64;
        match self.device.read(offset, into) {
            Read::Full => Ok(Outcome::Done),
            Read::Failed(error) => Err(Failure::of_device("reading", &error, offset..end)),
            Read::End(at) => {
                let message = format!("the device ends at {at}: it shrank or was replaced");
                Err(Failure::new(Code::DeviceIo, message).at(offset..end))
            }
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

    /// Begins a snapshot. JavaScript keeps its words, and the device open, until `close` has resolved.
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
        let watcher = Arc::new(Watcher {
            pre_images: PreImages::new(shape, marks, limits),
            waiting: Waiting::of(&device),
            device,
            device_size: shape.device_size,
            passed: AtomicU64::new(0),
        });
        self.watchers.add(Arc::clone(&watcher));
        Ok(NativePreImages {
            watcher,
            watchers: self.watchers(),
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
    // SAFETY: JavaScript keeps them until `close` has resolved, after which nobody looks at them; and where it ends before
    // that, they go after the threads of all connections and the tasks of libuv's pool have ended.
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
    watcher: Arc<Watcher>,
    watchers: Arc<Watchers>,
}

#[napi]
impl NativePreImages {
    /// Whether it could be done at once.
    #[napi(catch_unwind)]
    pub fn preserve_now(&self, offset_bytes: f64, length_bytes: f64) -> Answer<bool> {
        answer(self.range(offset_bytes, length_bytes).and_then(|range| {
            let outcome = self.watcher.preserve(&range, Patience::Nothing)?;
            Ok(outcome == Outcome::Done)
        }))
    }

    #[napi(catch_unwind)]
    pub fn preserve(&self, offset_bytes: f64, length_bytes: f64) -> AsyncTask<SnapshotTask> {
        let range = self.range(offset_bytes, length_bytes);
        self.task(move |watcher| watcher.preserve(&range?, Patience::Reading).map(drop))
    }

    /// Puts pre-images over what was read from the device.
    #[napi(catch_unwind)]
    pub fn restore(&self, offset_bytes: f64, mut into: Uint8Array) -> AsyncTask<SnapshotTask> {
        let range = self.range(offset_bytes, into.len() as f64);
        self.task(move |watcher| {
            // SAFETY: the caller leaves these bytes alone until the task has ended.
            let into = unsafe { into.as_mut() };
            watcher.pre_images.restore(range?.start, into)
        })
    }

    #[napi(catch_unwind)]
    pub fn free(&self, first_block: u32, block_count: u32) {
        let (first, count) = (first_block as usize, block_count as usize);
        self.watcher.pre_images.free(first..first + count);
    }

    #[napi]
    pub fn end(&self) {
        self.watcher.pre_images.end();
    }

    /// Ends it, and resolves when no connection uses it any more.
    #[napi(catch_unwind)]
    pub fn close(&self) -> AsyncTask<SnapshotTask> {
        self.watcher.pre_images.end();
        let watchers = Arc::clone(&self.watchers);
        self.task(move |watcher| {
            watchers.remove(watcher);
            Ok(())
        })
    }

    /// How many changes were made past JavaScript while this looked on.
    #[napi(getter)]
    pub fn passed(&self) -> f64 {
        self.watcher.passed.load(Relaxed) as f64
    }

    fn range(&self, offset_bytes: f64, length_bytes: f64) -> Result<Range<u64>, Failure> {
        let range = range(offset_bytes, length_bytes)?;
        if range.end > self.watcher.device_size {
            return Err(Failure::bad_argument(
                "a range beyond the end of the device",
            ));
        }
        Ok(range)
    }

    fn task(
        &self,
        work: impl FnOnce(&Arc<Watcher>) -> Result<(), Failure> + Send + 'static,
    ) -> AsyncTask<SnapshotTask> {
        AsyncTask::new(SnapshotTask {
            watcher: Arc::clone(&self.watcher),
            work: Some(Box::new(work)),
        })
    }
}

type Work = Box<dyn FnOnce(&Arc<Watcher>) -> Result<(), Failure> + Send>;

/// Work on a thread of libuv's pool, which may wait.
pub struct SnapshotTask {
    watcher: Arc<Watcher>,
    work: Option<Work>,
}

impl Task for SnapshotTask {
    type Output = Result<(), Failure>;
    type JsValue = Option<FailureObject>;

    fn compute(&mut self) -> napi::Result<Self::Output> {
        Ok(self.work.take().map_or(Ok(()), |work| work(&self.watcher)))
    }

    fn resolve(&mut self, _env: Env, output: Self::Output) -> napi::Result<Self::JsValue> {
        Ok(output.err().map(FailureObject::from))
    }
}
