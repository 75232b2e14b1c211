//! Many small requests on one file in one call.

use crate::arguments::whole;
use crate::error::Failure;
use crate::file::OpenFile;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::atomic::AtomicU8;

/// Where one request lies: on the device, and in the buffer that a batch shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: u64,
    pub bytes: Range<usize>,
}

/// Decodes triples of offset on the device, offset in the buffer and length, all within a buffer of `buffer_length`.
pub fn places(
    numbers: impl ExactSizeIterator<Item = f64>,
    buffer_length: usize,
) -> Result<Vec<Place>, Failure> {
    if !numbers.len().is_multiple_of(3) {
        return Err(Failure::bad_argument("places: needs three numbers each"));
    }
    let numbers: Vec<u64> = numbers
        .map(|number| whole(number, "places"))
        .collect::<Result<_, _>>()?;
    let mut places = Vec::with_capacity(numbers.len() / 3);
    for triple in numbers.chunks_exact(3) {
        let &[offset, start, length] = triple else {
            continue;
        };
        // Whole numbers are below 2^53, so the sum of two does not overflow.
        if start + length > buffer_length as u64 {
            return Err(Failure::bad_argument(format!(
                "places: {length} bytes at {start} in a buffer of {buffer_length}"
            )));
        }
        places.push(Place {
            offset,
            bytes: start as usize..(start + length) as usize,
        });
    }
    Ok(places)
}

/// Writes all of `places` from `bytes`.
pub fn write(file: &OpenFile, bytes: &[u8], places: &[Place]) -> Result<(), Failure> {
    for place in places.iter().filter(|place| !place.bytes.is_empty()) {
        let mut pieces = [IoSlice::new(&bytes[place.bytes.clone()])];
        file.write(place.offset, &mut pieces).map_err(|error| {
            let range = place.offset..place.offset + place.bytes.len() as u64;
            Failure::of_device("writing", &error, range)
        })?;
    }
    Ok(())
}

/// How reads of one file avoid to wait.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The system is told not to.
    Refused,
    /// There is no medium to wait for: the file is in memory.
    Needless,
}

#[cfg(target_os = "linux")]
impl Waiting {
    /// tmpfs cannot be told not to wait, and need not be.
    pub fn of(file: &OpenFile) -> Self {
        let mut system = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: fstatfs fills in `system`, which is looked at only if it says that it has.
        let is_memory = unsafe {
            libc::fstatfs(file.fd(), system.as_mut_ptr()) == 0
                && system.assume_init().f_type == libc::TMPFS_MAGIC
        };
        if is_memory {
            Waiting::Needless
        } else {
            Waiting::Refused
        }
    }

    fn flags(self) -> libc::c_int {
        match self {
            Waiting::Refused => libc::RWF_NOWAIT,
            Waiting::Needless => 0,
        }
    }
}

/// Fills all of `into` from `offset` on if the page cache has it; never waits for a medium. If it does not, `into` may
/// have been filled in part.
#[cfg(target_os = "linux")]
pub fn read_cached(file: &OpenFile, waiting: Waiting, offset: u64, into: &[AtomicU8]) -> Cached {
    let start = into.as_ptr().cast_mut().cast();
    // SAFETY: `into` lives for the whole call; its elements are atomics, so they may be written to through a shared
    // reference.
    unsafe { read_cached_to(file, waiting, offset, start, into.len()) }
}

/// The same for bytes that nobody else uses.
#[cfg(target_os = "linux")]
pub fn read_cached_into(file: &OpenFile, waiting: Waiting, offset: u64, into: &mut [u8]) -> Cached {
    let start = into.as_mut_ptr().cast();
    // SAFETY: `into` is borrowed for the whole call.
    unsafe { read_cached_to(file, waiting, offset, start, into.len()) }
}

/// Adds `length` bytes from `offset` on to `into` if the page cache has them; never waits for a medium.
#[cfg(target_os = "linux")]
pub fn read_cached_onto(
    file: &OpenFile,
    waiting: Waiting,
    offset: u64,
    length: usize,
    into: &mut Vec<u8>,
) -> Cached {
    into.reserve(length);
    let start = into.spare_capacity_mut().as_mut_ptr().cast();
    // SAFETY: there is room for `length` bytes from `start` on, which nobody else uses.
    let cached = unsafe { read_cached_to(file, waiting, offset, start, length) };
    if let Cached::Yes = cached {
        // SAFETY: all of them were filled in.
        unsafe { into.set_len(into.len() + length) };
    }
    cached
}

/// # Safety
/// `length` bytes from `start` on may be written to.
#[cfg(target_os = "linux")]
unsafe fn read_cached_to(
    file: &OpenFile,
    waiting: Waiting,
    offset: u64,
    start: *mut libc::c_void,
    length: usize,
) -> Cached {
    let Ok(offset) = libc::off_t::try_from(offset) else {
        return Cached::No;
    };
    let piece = libc::iovec {
        iov_base: start,
        iov_len: length,
    };
    // SAFETY: as the caller promises, for all of `piece`.
    let count = unsafe { libc::preadv2(file.fd(), &raw const piece, 1, offset, waiting.flags()) };
    match usize::try_from(count) {
        Ok(count) if count == length => Cached::Yes,
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Cached::Unsupported
        }
        _ => Cached::No,
    }
}

#[cfg(not(target_os = "linux"))]
#[derive(Clone, Copy)]
pub struct Waiting;

#[cfg(not(target_os = "linux"))]
impl Waiting {
    pub fn of(_file: &OpenFile) -> Self {
        Waiting
    }
}

#[cfg(not(target_os = "linux"))]
pub fn read_cached(
    _file: &OpenFile,
    _waiting: Waiting,
    _offset: u64,
    _into: &[AtomicU8],
) -> Cached {
    Cached::Unsupported
}

/// Whether a read was answered by the page cache.
pub enum Cached {
    Yes,
    No,
    /// The file system cannot read without waiting.
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(numbers: &[f64]) -> Result<Vec<Place>, Failure> {
        places(numbers.iter().copied(), 100)
    }

    #[test]
    fn places_are_triples_within_the_buffer() {
        assert_eq!(
            decode(&[5.0, 10.0, 90.0]),
            Ok(vec![Place {
                offset: 5,
                bytes: 10..100
            }])
        );
        assert_eq!(decode(&[]), Ok(vec![]));
        for wrong in [
            &[5.0, 10.0][..],
            &[5.0, 10.0, 91.0],
            &[5.0, 101.0, 0.0],
            &[-1.0, 0.0, 1.0],
            &[0.0, 0.5, 1.0],
            &[0.0, 9_007_199_254_740_991.0, 9_007_199_254_740_991.0],
        ] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
