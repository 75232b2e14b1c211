//! The arguments of jobs as JavaScript passes them, checked and turned into jobs. Everything that memory safety and
//! arithmetic rest on is checked here, whatever the caller did.

use crate::bitmap::SharedBitmap;
use crate::blocks::Blocks;
use crate::copy::CopyJob;
use crate::error::Failure;
use crate::file::OpenFile;
use crate::hash::Algorithm;
use crate::job::{Cancel, Progress, Records, expect_length, whole_number};
use crate::memory::TypedArray;
use crate::restore::RestoreJob;
use crate::segment::Sink;
use crate::source::Source;
use napi_derive::napi;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// `CopyJob` of `src/core/core.ts`, with its unions laid flat.
#[napi(object, object_to_js = false)]
pub struct CopyArguments {
    pub source_fd: Option<f64>,
    pub source_bytes: Option<TypedArray<AtomicU8>>,
    pub device_size_bytes: f64,
    pub block_size_bytes: f64,
    pub first_block: f64,
    pub block_count: f64,
    pub algorithm: String,
    pub selected: Option<TypedArray<AtomicU32>>,
    pub preserved: Option<TypedArray<AtomicU32>>,
    pub copied: Option<TypedArray<AtomicU32>>,
    pub barrier: Option<TypedArray<AtomicI32>>,
    pub sink_fd: Option<f64>,
    pub sink_bytes: Option<TypedArray<AtomicU8>>,
    pub cursor: TypedArray<AtomicI64>,
    pub capacity_bytes: f64,
    pub cancel: TypedArray<AtomicI32>,
    pub progress: TypedArray<AtomicI64>,
    pub states: TypedArray<AtomicU8>,
    pub offsets: TypedArray<AtomicU64>,
    pub hashes: TypedArray<AtomicU8>,
}

impl CopyArguments {
    pub fn job(&self) -> Result<CopyJob<'_>, Failure> {
        let blocks = blocks(
            self.device_size_bytes,
            self.block_size_bytes,
            self.first_block,
            self.block_count,
        )?;
        let algorithm = Algorithm::parse(&self.algorithm)?;
        Ok(CopyJob {
            blocks,
            algorithm,
            source: self.source(&blocks)?,
            selected: bitmap(&self.selected, "selected", &blocks)?,
            preserved: bitmap(&self.preserved, "preserved", &blocks)?,
            copied: bitmap(&self.copied, "copied", &blocks)?,
            barrier: match &self.barrier {
                Some(word) => Some(word.word(0, "barrier")?),
                None => None,
            },
            sink: self.sink(&blocks)?,
            cancel: Cancel(self.cancel.word(0, "cancel")?),
            progress: progress(&self.progress)?,
            records: Records::new(
                &blocks,
                algorithm,
                self.states.shared(),
                self.offsets.shared(),
                self.hashes.shared(),
            )?,
        })
    }

    fn source(&self, blocks: &Blocks) -> Result<Source<'_>, Failure> {
        match (self.source_fd, &self.source_bytes) {
            (Some(fd), None) => Ok(Source::Device(file(fd, "source.fd")?)),
            (None, Some(content)) => {
                expect_length("source.bytes", content.bytes().len(), blocks.total())?;
                Ok(Source::Content(content.bytes()))
            }
            _ => Err(Failure::bad_argument("source: needs either fd or bytes")),
        }
    }

    fn sink(&self, blocks: &Blocks) -> Result<Sink<'_>, Failure> {
        match (self.sink_fd, &self.sink_bytes) {
            (Some(fd), None) => Ok(Sink::Image {
                file: file(fd, "sink.fd")?,
                cursor: self.cursor.word(0, "cursor")?,
                capacity: whole(self.capacity_bytes, "capacityBytes")?,
                // Under a barrier clients wait for the job, so it does not wait for the medium.
                write_back: self.barrier.is_none(),
            }),
            (None, Some(memory)) => {
                let memory = memory.writable();
                if memory.length() < blocks.total() {
                    return Err(Failure::bad_argument(format!(
                        "sink.bytes: room for {} bytes where the job may need {}",
                        memory.length(),
                        blocks.total()
                    )));
                }
                Ok(Sink::Memory(memory))
            }
            _ => Err(Failure::bad_argument("sink: needs either fd or bytes")),
        }
    }
}

/// `RestoreJob` of `src/core/core.ts`.
#[napi(object, object_to_js = false)]
pub struct RestoreArguments {
    pub image_fd: f64,
    pub target_fd: Option<f64>,
    pub zero_target: bool,
    pub device_size_bytes: f64,
    pub block_size_bytes: f64,
    pub first_block: f64,
    pub block_count: f64,
    pub algorithm: String,
    pub states: TypedArray<AtomicU8>,
    pub offsets: TypedArray<AtomicU64>,
    pub hashes: TypedArray<AtomicU8>,
    pub cancel: TypedArray<AtomicI32>,
    pub progress: TypedArray<AtomicI64>,
    pub faults: TypedArray<AtomicU8>,
}

impl RestoreArguments {
    pub fn job(&self) -> Result<RestoreJob<'_>, Failure> {
        let blocks = blocks(
            self.device_size_bytes,
            self.block_size_bytes,
            self.first_block,
            self.block_count,
        )?;
        let algorithm = Algorithm::parse(&self.algorithm)?;
        expect_length("faults", self.faults.shared().len(), blocks.count())?;
        Ok(RestoreJob {
            blocks,
            algorithm,
            image: file(self.image_fd, "imageFd")?,
            target: match self.target_fd {
                Some(fd) => Some(file(fd, "targetFd")?),
                None => None,
            },
            zero_target: self.zero_target,
            records: Records::new(
                &blocks,
                algorithm,
                self.states.shared(),
                self.offsets.shared(),
                self.hashes.shared(),
            )?,
            cancel: Cancel(self.cancel.word(0, "cancel")?),
            progress: progress(&self.progress)?,
            faults: self.faults.shared(),
        })
    }
}

fn blocks(device_size: f64, block_size: f64, first: f64, count: f64) -> Result<Blocks, Failure> {
    Blocks::new(
        whole(device_size, "deviceSizeBytes")?,
        whole(block_size, "blockSizeBytes")?,
        whole(first, "firstBlock")?,
        whole(count, "blockCount")?,
    )
}

fn bitmap<'a>(
    words: &'a Option<TypedArray<AtomicU32>>,
    name: &str,
    blocks: &Blocks,
) -> Result<Option<SharedBitmap<'a>>, Failure> {
    let Some(words) = words else { return Ok(None) };
    let bitmap = SharedBitmap::new(words.shared());
    // A bitmap of the device has a bit for each of its blocks.
    if bitmap.capacity() < blocks.on_device() {
        return Err(Failure::bad_argument(format!(
            "{name}: room for {} bits, but the device has {} blocks",
            bitmap.capacity(),
            blocks.on_device()
        )));
    }
    Ok(Some(bitmap))
}

fn progress(words: &TypedArray<AtomicI64>) -> Result<Progress<'_>, Failure> {
    Ok(Progress {
        dealt_with: words.word(0, "progress")?,
        read: words.word(1, "progress")?,
    })
}

pub fn whole(value: f64, name: &str) -> Result<u64, Failure> {
    whole_number(value).ok_or_else(|| {
        Failure::bad_argument(format!(
            "{name}: {value} is not a whole number from 0 to 2^53-1"
        ))
    })
}

pub fn file(fd: f64, name: &str) -> Result<OpenFile, Failure> {
    match whole_number(fd).map(RawFd::try_from) {
        Some(Ok(fd)) => Ok(OpenFile::borrow(fd)),
        _ => Err(Failure::bad_argument(format!(
            "{name}: {fd} is not a file descriptor"
        ))),
    }
}

pub fn range(offset: f64, length: f64) -> Result<Range<u64>, Failure> {
    let offset = whole(offset, "offsetBytes")?;
    Ok(offset..offset + whole(length, "lengthBytes")?)
}
