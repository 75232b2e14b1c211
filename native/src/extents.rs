//! Where a file has data and where holes, by SEEK_DATA and SEEK_HOLE (lseek(2)).
//!
//! SEEK_HOLE knows no bound: it goes over all the data up to the next hole, wherever that is, extent by extent or, in
//! tmpfs, page by page. Asked for every few blocks of a large file, that takes longer than copying them. So the end of
//! data is found with SEEK_DATA, step by step and only as far as it matters; a hole within a step counts as data.

use crate::file::OpenFile;
use std::io;
use std::ops::Range;

/// Length of such a step in bytes.
const STEP: u64 = 64 << 10;

/// File systems rarely have shorter holes, in bytes. It is not worth the way to the end of the data to find one.
const SHORTEST_HOLE: u64 = 4 << 10;

/// What begins at an offset and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Hole { end: u64 },
    Data { end: u64 },
}

impl Extent {
    fn end(self) -> u64 {
        match self {
            Extent::Hole { end } | Extent::Data { end } => end,
        }
    }
}

/// Extents of a file in whole blocks: a block that has any data is data. Looks each extent up once, when it is asked
/// for; a file whose holes cannot be told is all data.
pub struct Extents<'f> {
    file: &'f OpenFile,
    block_size: u64,
    known: Option<(u64, Extent)>,
}

impl<'f> Extents<'f> {
    pub fn new(file: &'f OpenFile, block_size: u64) -> Self {
        Extents {
            file,
            block_size,
            known: None,
        }
    }

    /// The extent that holds the block at `offset`, which is a multiple of the block size. Data is followed no further
    /// than `limit`.
    pub fn at(&mut self, offset: u64, limit: u64) -> Extent {
        let mut extent = self.step_at(offset);
        while let Extent::Data { end } = extent
            && end < limit
            && let Extent::Data { end } = self.step_at(end)
        {
            extent = Extent::Data { end };
        }
        extent
    }

    fn step_at(&mut self, offset: u64) -> Extent {
        if let Some((start, extent)) = self.known
            && (start..extent.end()).contains(&offset)
        {
            return extent;
        }
        let extent = self.look_up(offset);
        self.known = Some((offset, extent));
        extent
    }

    fn look_up(&self, offset: u64) -> Extent {
        let Ok(data) = next(self.file, offset, Kind::Data) else {
            return Extent::Data { end: u64::MAX };
        };
        let Some(data) = data else {
            return Extent::Hole { end: u64::MAX };
        };
        let hole_end = data / self.block_size * self.block_size;
        if hole_end > offset {
            return Extent::Hole { end: hole_end };
        }
        Extent::Data {
            end: step_end(offset, self.block_size.max(STEP)),
        }
    }
}

/// Where the step that holds the byte at `offset` ends.
fn step_end(offset: u64, step: u64) -> u64 {
    (offset / step + 1).saturating_mul(step)
}

/// The parts of `within` that are data, in order, but for holes in its last few bytes. All of it where holes cannot be
/// told.
pub fn data_ranges(file: &OpenFile, within: Range<u64>) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut offset = within.start;
    while offset < within.end {
        let start = match next(file, offset, Kind::Data) {
            Ok(Some(start)) if start < within.end => start,
            Ok(_) => break,
            Err(_) => offset,
        };
        let end = match within.end - start {
            ..=SHORTEST_HOLE => within.end,
            _ => match next(file, start, Kind::Hole) {
                Ok(Some(end)) if end > start => end.min(within.end),
                _ => within.end,
            },
        };
        ranges.push(start..end);
        offset = end;
    }
    ranges
}

#[derive(Clone, Copy)]
enum Kind {
    Data,
    Hole,
}

/// The first offset from `offset` on that is of this kind; `None` if there is none before the end of the file.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn next(file: &OpenFile, offset: u64, kind: Kind) -> io::Result<Option<u64>> {
    let whence = match kind {
        Kind::Data => libc::SEEK_DATA,
        Kind::Hole => libc::SEEK_HOLE,
    };
    let from =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: lseek touches no memory. It moves the file's position, which nothing here or in Node's positional reads
    // uses.
    let found = unsafe { libc::lseek(file.fd(), from, whence) };
    match u64::try_from(found) {
        Ok(found) if found >= offset => Ok(Some(found)),
        // Character devices such as /dev/zero answer 0 whatever they are asked.
        Ok(_) => Err(io::ErrorKind::Unsupported.into()),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn next(_file: &OpenFile, _offset: u64, _kind: Kind) -> io::Result<Option<u64>> {
    Err(io::ErrorKind::Unsupported.into())
}
