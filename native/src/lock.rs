//! Open file description locks (fcntl(2)): held by the opener, not by the process, until its descriptor is closed.

use crate::error::{Code, Failure};
use crate::file::OpenFile;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    pub fn parse(name: &str) -> Result<Self, Failure> {
        match name {
            "shared" => Ok(Mode::Shared),
            "exclusive" => Ok(Mode::Exclusive),
            _ => Err(Failure::bad_argument(format!(
                "\"{name}\" is not a lock mode; use shared or exclusive"
            ))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub enum Answer {
    Locked,
    Busy,
    Unsupported,
}

impl Answer {
    pub fn name(self) -> &'static str {
        match self {
            Answer::Locked => "locked",
            Answer::Busy => "busy",
            Answer::Unsupported => "unsupported",
        }
    }
}

/// Locks the whole file, also what it may grow by. Does not wait.
#[cfg(target_os = "linux")]
pub fn lock(file: &OpenFile, mode: Mode) -> Result<Answer, Failure> {
    use std::io::Error;

    // SAFETY: flock is a struct of integers, for which all zeros is a value: from the start to the end of the file,
    // and a process ID of 0, which open file description locks require.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    } as libc::c_short;
    whole.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: `whole` is a flock that lives for the whole call.
    if unsafe { libc::fcntl(file.fd(), libc::F_OFD_SETLK, &raw const whole) } == 0 {
        return Ok(Answer::Locked);
    }
    let error = Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(Answer::Busy),
        // ENOLCK is what network file systems without a lock service answer.
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOLCK) => {
            Ok(Answer::Unsupported)
        }
        _ => Err(Failure::new(
            Code::DeviceIo,
            format!("locking failed: {error} (an exclusive lock needs a file open for writing)"),
        )),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn lock(_file: &OpenFile, _mode: Mode) -> Result<Answer, Failure> {
    Ok(Answer::Unsupported)
}
