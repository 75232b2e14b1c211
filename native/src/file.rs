//! An open file as JavaScript hands it over: a descriptor that is borrowed for one call.

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt};

/// The most pieces that one pwritev(2) takes on Linux and macOS.
pub const PIECES_PER_WRITE: usize = 1024;

pub struct OpenFile(ManuallyDrop<File>);

impl OpenFile {
    /// A number that is not an open descriptor makes every call on it fail with EBADF.
    pub fn borrow(fd: RawFd) -> Self {
        // SAFETY: `fd` is not -1 (the binding takes no negative numbers), the caller keeps it open during the call,
        // and ManuallyDrop keeps it open after it.
        OpenFile(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Opens the same file once more, for reading and writing as this one is, for as long as the answer lives. Not a
    /// duplicate: that would keep the locks of this one past its end.
    #[cfg(target_os = "linux")]
    pub fn reopen(&self) -> io::Result<OwnFile> {
        // SAFETY: F_GETFL touches no memory of this process.
        let flags = unsafe { libc::fcntl(self.fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        let access = flags & libc::O_ACCMODE;
        let file = File::options()
            .read(access != libc::O_WRONLY)
            .write(access != libc::O_RDONLY)
            .open(format!("/proc/self/fd/{}", self.fd()))?;
        Ok(OwnFile(OpenFile(ManuallyDrop::new(file))))
    }

    /// Size of a regular file in bytes; `None` for everything else, where stat(2) does not know it.
    pub fn regular_size(&self) -> io::Result<Option<u64>> {
        let metadata = self.0.metadata()?;
        Ok(metadata.is_file().then_some(metadata.len()))
    }

    pub fn is_block_special(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.file_type().is_block_device())
    }

    /// Fills `into` from `offset` on, as far as it gets.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Read {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => return Read::End(offset + done as u64),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Read::Failed(error),
            }
        }
        Read::Full
    }

    /// Writes all pieces one after the other from `offset` on.
    pub fn write(&self, offset: u64, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut offset = offset;
        while !pieces.is_empty() {
            let count = write_some(self.fd(), offset, pieces)?;
            offset += count as u64;
            IoSlice::advance_slices(&mut pieces, count);
        }
        Ok(())
    }

    /// Lets the system begin to bring a range to the medium, so that a sync finds less to do. Only a hint: what goes wrong
    /// with it shows when the file is synced.
    #[cfg(target_os = "linux")]
    pub fn start_write_back(&self, range: &Range<u64>) {
        let (Ok(offset), Ok(length)) = (
            libc::off64_t::try_from(range.start),
            libc::off64_t::try_from(range.end - range.start),
        ) else {
            return;
        };
        // SAFETY: sync_file_range touches no memory of this process.
        unsafe { libc::sync_file_range(self.fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }

    #[cfg(not(target_os = "linux"))]
    pub fn start_write_back(&self, _range: &Range<u64>) {}
}

/// A file that nobody else can close.
#[cfg(target_os = "linux")]
pub struct OwnFile(OpenFile);

#[cfg(target_os = "linux")]
impl std::ops::Deref for OwnFile {
    type Target = OpenFile;

    fn deref(&self) -> &OpenFile {
        &self.0
    }
}

#[cfg(target_os = "linux")]
impl Drop for OwnFile {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after this.
        unsafe { ManuallyDrop::drop(&mut self.0.0) };
    }
}

/// How a read ended.
pub enum Read {
    Full,
    /// The file ended first, at this offset.
    End(u64),
    Failed(io::Error),
}

/// One pwritev(2), repeated when a signal interrupts it. Writes at least one byte.
fn write_some(fd: RawFd, offset: u64, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let at =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    let count = pieces.len().min(PIECES_PER_WRITE) as libc::c_int;
    loop {
        // SAFETY: an IoSlice has the layout of an iovec, and `count` of them are readable for the whole call.
        let written = unsafe { libc::pwritev(fd, pieces.as_ptr().cast(), count, at) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(written),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
