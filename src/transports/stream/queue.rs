//! Bytes that wait to be sent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use hybridloop_reactor::syscall::{check_len, retry_on_intr};

use crate::python::fallible::push_back;
use crate::python::{bytes, Ref};

/// The most pieces for one system call.
const MAX_PIECES: usize = 64;

#[cfg(target_os = "linux")]
pub const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
pub const SEND_FLAGS: libc::c_int = 0;

/// Bytes that wait to be sent, in order. A part of the first piece may be sent already.
#[derive(Default)]
pub struct WriteQueue {
    /// Exact `bytes` objects that are not empty.
    pieces: VecDeque<Ref>,
    /// How many bytes of the first piece are sent.
    sent: usize,
    /// How many bytes are left to be sent.
    size: usize,
}

impl WriteQueue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds an exact `bytes` object that is not empty. Returns it if there is no memory.
    #[inline]
    pub fn push(&mut self, piece: Ref) -> Result<(), Ref> {
        let size = contents(&piece).len();
        push_back(&mut self.pieces, piece)?;
        self.size += size;
        Ok(())
    }

    /// Adds several such objects, or returns all if there is no memory.
    pub fn push_all(&mut self, pieces: Vec<Ref>) -> Result<(), Vec<Ref>> {
        if self.pieces.try_reserve(pieces.len()).is_err() {
            return Err(pieces);
        }
        self.size += pieces
            .iter()
            .map(|piece| contents(piece).len())
            .sum::<usize>();
        self.pieces.extend(pieces);
        Ok(())
    }

    /// Makes one system call, again if a signal interrupts it. The pieces that are sent are returned, to be dropped when the queue's cell is closed.
    #[inline]
    pub fn send(&mut self, fd: RawFd) -> io::Result<(SendResult, SentPieces)> {
        let result = retry_on_intr(|| self.send_pieces(fd))?;
        let pieces = self.advance(result.bytes);
        Ok((result, pieces))
    }

    fn send_pieces(&self, fd: RawFd) -> io::Result<SendResult> {
        let mut given = 0;
        let sent = if self.pieces.len() == 1 {
            let data = &contents(&self.pieces[0])[self.sent..];
            given = data.len();
            // SAFETY: `data` is valid during the call: the queue holds the object.
            unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), SEND_FLAGS) }
        } else {
            let mut pieces = [libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            }; MAX_PIECES];
            let mut count = 0;
            let mut skip = self.sent;
            for (piece, iov) in self.pieces.iter().zip(&mut pieces) {
                let data = &contents(piece)[std::mem::take(&mut skip)..];
                iov.iov_base = data.as_ptr().cast_mut().cast();
                iov.iov_len = data.len();
                given += data.len();
                count += 1;
            }
            // SAFETY: all zeros are a valid `msghdr`. The first `count` pieces are valid during the call: the queue holds the
            // objects.
            unsafe {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_iov = pieces.as_mut_ptr();
                message.msg_iovlen = count;
                libc::sendmsg(fd, &raw const message, SEND_FLAGS)
            }
        };
        let bytes = check_len(sent)?;
        Ok(SendResult {
            bytes,
            complete: bytes == given,
        })
    }

    #[inline]
    fn advance(&mut self, n: usize) -> SentPieces {
        if n == self.size && self.pieces.len() == 1 {
            (self.size, self.sent) = (0, 0);
            return self
                .pieces
                .pop_front()
                .map_or(SentPieces::None, SentPieces::One);
        }
        self.advance_by_pieces(n)
    }

    fn advance_by_pieces(&mut self, mut n: usize) -> SentPieces {
        self.size -= n;
        let mut done = SentPieces::None;
        while n > 0 {
            let Some(first) = self.pieces.front() else {
                break;
            };
            let left = contents(first).len() - self.sent;
            if n < left {
                self.sent += n;
                break;
            }
            n -= left;
            self.sent = 0;
            done.push(self.pieces.pop_front());
        }
        done
    }
}

/// The contents of a piece.
#[inline]
fn contents(piece: &Ref) -> &[u8] {
    // SAFETY: `push` and `push_all` get exact `bytes` objects, which do not change. The result borrows the reference.
    unsafe { bytes::contents(piece.as_ptr()) }
}

/// What one system call has sent.
pub struct SendResult {
    pub bytes: usize,
    /// The socket took everything that it was given, so it may take more. If not, its buffer is full, and an event follows.
    pub complete: bool,
}

/// Pieces that were sent: mostly one.
pub enum SentPieces {
    None,
    One(Ref),
    Many(Vec<Ref>),
}

impl SentPieces {
    /// Drops the pieces. The match keeps the common case free of a loop.
    #[inline]
    pub fn drop_pieces(self) {
        match self {
            Self::None => {}
            Self::One(piece) => drop(piece),
            Self::Many(pieces) => drop(pieces),
        }
    }

    fn push(&mut self, piece: Option<Ref>) {
        let Some(piece) = piece else { return };
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(piece),
            Self::One(first) => Self::Many(vec![first, piece]),
            Self::Many(mut all) => {
                all.push(piece);
                Self::Many(all)
            }
        };
    }
}
