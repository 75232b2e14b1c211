//! A socket that is not waited for but in `wait`, and what wakes who waits there.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub struct Socket(OwnedFd);

/// What came of looking for bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Bytes(usize),
    Nothing,
    /// The other side sends no more.
    End,
}

impl Socket {
    /// The same socket under a descriptor of its own, which stays open whatever becomes of the other.
    pub fn duplicate(fd: RawFd) -> io::Result<Self> {
        // SAFETY: fcntl(2) touches no memory of this process.
        let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
        // SAFETY: `copy` was opened just now and belongs to nobody else.
        Ok(Socket(unsafe { OwnedFd::from_raw_fd(copy) }))
    }

    /// Lets a Unix socket have so many bytes on their way, as far as the system permits. Only a hint. TCP finds out by
    /// itself how many it should be, unless it is told.
    pub fn widen(&self, bytes: libc::c_int) {
        if !self.is_unix() {
            return;
        }
        let length = size_of_val(&bytes) as libc::socklen_t;
        let value = (&raw const bytes).cast();
        // SAFETY: `length` bytes from `value` on are readable for the whole call.
        unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                value,
                length,
            )
        };
    }

    fn is_unix(&self) -> bool {
        let mut domain: libc::c_int = 0;
        let mut length = size_of_val(&domain) as libc::socklen_t;
        let value = (&raw mut domain).cast();
        // SAFETY: `length` bytes from `value` on may be written to for the whole call.
        let result = unsafe {
            let fd = self.0.as_raw_fd();
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_DOMAIN,
                value,
                &raw mut length,
            )
        };
        result == 0 && domain == libc::AF_UNIX
    }

    pub fn receive(&self, into: &mut [u8]) -> io::Result<Received> {
        let count = retry(|| {
            // SAFETY: all of `into` may be written to for the whole call.
            unsafe {
                let start = into.as_mut_ptr().cast();
                libc::recv(self.0.as_raw_fd(), start, into.len(), libc::MSG_DONTWAIT)
            }
        });
        match count {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// How many bytes there was room for; may be 0.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: msghdr is a struct of integers and pointers, for which all zeros is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: an IoSlice has the layout of an iovec, and all of `pieces` are readable for the whole call.
        let count =
            retry(|| unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, flags) });
        match count {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Sends no more, so that the other side sees an end.
    pub fn end(&self) {
        self.shut(libc::SHUT_WR);
    }

    /// Neither sends nor receives any more.
    pub fn cut(&self) {
        self.shut(libc::SHUT_RDWR);
    }

    fn shut(&self, how: libc::c_int) {
        // SAFETY: shutdown(2) touches no memory of this process. It fails where the other side is gone already.
        unsafe { libc::shutdown(self.0.as_raw_fd(), how) };
    }
}

/// A descriptor that can be waited for, and that other threads make ready.
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd(2) touches no memory of this process.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` was opened just now and belongs to nobody else.
        Ok(Bell(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: all of `one` is readable for the whole call. It fails only when the bell rings for 2^64 calls already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn silence(&self) {
        let mut count = [0; 8];
        // SAFETY: all of `count` may be written to for the whole call. It fails when the bell does not ring.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Waits until the bell rings or the socket is ready for what is wanted of it.
pub fn wait(socket: &Socket, bell: &Bell, to_receive: bool, to_send: bool) -> io::Result<()> {
    let events =
        if to_receive { libc::POLLIN } else { 0 } | if to_send { libc::POLLOUT } else { 0 };
    let of = |fd: RawFd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // A socket of which nothing is wanted is left out: it would be ready for ever once the other side is gone.
    let socket = if events == 0 {
        -1
    } else {
        socket.0.as_raw_fd()
    };
    let mut polled = [of(socket, events), of(bell.0.as_raw_fd(), libc::POLLIN)];
    // SAFETY: `polled` may be written to for the whole call.
    retry(|| unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) as isize })?;
    if polled[1].revents != 0 {
        bell.silence();
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Repeats a call that a signal has interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
