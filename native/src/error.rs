//! Failures as they leave the core: a stable code, a message for people, and the byte range they are about.

use std::fmt;
use std::io;
use std::ops::Range;

/// The codes of `src/runtime/errors.ts` that the core can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadArgument,
    DeviceIo,
    DeviceFull,
    DeviceUnsupported,
    SnapshotBroken,
    SourceReadFailed,
    SourceShrunk,
    TargetFull,
    TargetWriteFailed,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::BadArgument => "BAD_ARGUMENT",
            Code::DeviceIo => "DEVICE_IO",
            Code::DeviceFull => "DEVICE_FULL",
            Code::DeviceUnsupported => "DEVICE_UNSUPPORTED",
            Code::SnapshotBroken => "SNAPSHOT_BROKEN",
            Code::SourceReadFailed => "SOURCE_READ_FAILED",
            Code::SourceShrunk => "SOURCE_SHRUNK",
            Code::TargetFull => "TARGET_FULL",
            Code::TargetWriteFailed => "TARGET_WRITE_FAILED",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    pub range: Option<Range<u64>>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
            range: None,
        }
    }

    pub fn bad_argument(message: impl Into<String>) -> Self {
        Failure::new(Code::BadArgument, message)
    }

    pub fn at(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// A failed write to the target of a job: no space left, or anything else.
    pub fn of_write(error: &io::Error, range: Range<u64>) -> Self {
        let code = if is_full(error) {
            Code::TargetFull
        } else {
            Code::TargetWriteFailed
        };
        Failure::new(code, format!("writing {} failed: {error}", Span(&range))).at(range)
    }

    /// A failed operation on a device outside of any job.
    pub fn of_device(operation: &str, error: &io::Error, range: Range<u64>) -> Self {
        let code = if is_full(error) {
            Code::DeviceFull
        } else {
            Code::DeviceIo
        };
        Failure::new(
            code,
            format!("{operation} {} failed: {error}", Span(&range)),
        )
        .at(range)
    }
}

/// `4096 bytes at 8192`, for messages.
pub struct Span<'a>(pub &'a Range<u64>);

impl fmt::Display for Span<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} bytes at {}",
            self.0.end - self.0.start,
            self.0.start
        )
    }
}

/// Whether the medium, a quota or a size limit has no room for a write.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
    )
}
