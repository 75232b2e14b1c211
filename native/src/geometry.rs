//! Size and sector size of block special files.

use crate::error::Failure;
use crate::file::OpenFile;

#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub size: u64,
    pub logical_sector: u64,
}

#[cfg(target_os = "linux")]
pub fn geometry(file: &OpenFile) -> Result<Geometry, Failure> {
    use crate::error::Code;

    let failed = |what: &str, error: std::io::Error| {
        Failure::new(Code::DeviceIo, format!("{what} failed: {error}"))
    };
    if !file
        .is_block_special()
        .map_err(|error| failed("stat", error))?
    {
        return Err(Failure::new(
            Code::DeviceUnsupported,
            "not a block special file, so it has no sector size",
        ));
    }
    let size = block_size64(file).map_err(|error| failed("BLKGETSIZE64", error))?;
    let logical_sector = sector_size(file).map_err(|error| failed("BLKSSZGET", error))?;
    Ok(Geometry {
        size,
        logical_sector,
    })
}

#[cfg(not(target_os = "linux"))]
pub fn geometry(_file: &OpenFile) -> Result<Geometry, Failure> {
    Err(Failure::new(
        crate::error::Code::DeviceUnsupported,
        "block special files are supported on Linux only",
    ))
}

#[cfg(target_os = "linux")]
fn block_size64(file: &OpenFile) -> std::io::Result<u64> {
    // _IOR(0x12, 114, size_t) of linux/fs.h, which the libc crate does not have.
    const BLKGETSIZE64: libc::Ioctl = libc::_IOR::<usize>(0x12, 114);
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one 64-bit number, whatever the size_t in its definition, and `size` has room for it.
    match unsafe { libc::ioctl(file.fd(), BLKGETSIZE64, &raw mut size) } {
        0 => Ok(size),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(target_os = "linux")]
fn sector_size(file: &OpenFile) -> std::io::Result<u64> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int, and `size` is one.
    match unsafe { libc::ioctl(file.fd(), libc::BLKSSZGET, &raw mut size) } {
        0 => u64::try_from(size).map_err(|_| std::io::ErrorKind::InvalidData.into()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
