//! Giving space back and making ranges zero without writing zeros.

use crate::file::OpenFile;
use std::io;
use std::ops::Range;

/// Makes `range` read as zeros; with `may_trim` its space may be given back. False, and nothing is done, where the file
/// system or device has no such operation for this range.
///
/// fallocate(2) serves regular files and block special files alike; on the latter its modes are the kernel's
/// write-zeroes with and without leave to unmap.
#[cfg(target_os = "linux")]
pub fn zero(file: &OpenFile, range: &Range<u64>, may_trim: bool) -> io::Result<bool> {
    let mode = if may_trim {
        libc::FALLOC_FL_PUNCH_HOLE
    } else {
        libc::FALLOC_FL_ZERO_RANGE
    };
    done_or_cannot(allocate(file, mode, range))
}

/// Gives the space of `range` back. A regular file reads zeros there from then on, a block special file anything.
#[cfg(target_os = "linux")]
pub fn discard(file: &OpenFile, range: &Range<u64>) -> io::Result<bool> {
    let result = match file.is_block_special() {
        Ok(true) => discard_sectors(file, range),
        Ok(false) => allocate(file, libc::FALLOC_FL_PUNCH_HOLE, range),
        Err(error) => Err(error),
    };
    done_or_cannot(result)
}

#[cfg(not(target_os = "linux"))]
pub fn zero(_file: &OpenFile, _range: &Range<u64>, _may_trim: bool) -> io::Result<bool> {
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
pub fn discard(_file: &OpenFile, _range: &Range<u64>) -> io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
fn allocate(file: &OpenFile, mode: libc::c_int, range: &Range<u64>) -> io::Result<()> {
    let (offset, length) = offset_and_length(range)?;
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    retried(|| {
        // SAFETY: fallocate touches no memory of this process.
        unsafe { libc::fallocate(file.fd(), mode, offset, length) }
    })
}

#[cfg(target_os = "linux")]
fn discard_sectors(file: &OpenFile, range: &Range<u64>) -> io::Result<()> {
    // _IO(0x12, 119) of linux/fs.h, next to BLKSSZGET, which is _IO(0x12, 104).
    const BLKDISCARD: libc::Ioctl = libc::BLKSSZGET + (119 - 104);
    let words = [range.start, range.end - range.start];
    retried(|| {
        // SAFETY: BLKDISCARD reads two 64-bit numbers, and `words` is that.
        unsafe { libc::ioctl(file.fd(), BLKDISCARD, words.as_ptr()) }
    })
}

#[cfg(target_os = "linux")]
fn offset_and_length(range: &Range<u64>) -> io::Result<(libc::off_t, libc::off_t)> {
    let fit = |value: u64| {
        libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
    };
    Ok((fit(range.start)?, fit(range.end - range.start)?))
}

/// Runs a system call again for as long as signals interrupt it.
#[cfg(target_os = "linux")]
fn retried(call: impl Fn() -> libc::c_int) -> io::Result<()> {
    loop {
        if call() == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(target_os = "linux")]
fn done_or_cannot(result: io::Result<()>) -> io::Result<bool> {
    // EINVAL is also what a device answers to a range that is not in whole sectors.
    const CANNOT: [i32; 4] = [libc::EINVAL, libc::ENOTTY, libc::ENOSYS, libc::EOPNOTSUPP];
    match result {
        Ok(()) => Ok(true),
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|errno| CANNOT.contains(&errno)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
