//! Where an `SSL` reads from and writes to: memory, through a BIO of our own.
//!
//! OpenSSL reads straight from what `recv` has brought, and writes to one vector that is sent as it is. `MemoryBIO`, which
//! asyncio uses, copies both once more and keeps the room for its largest message.

use std::collections::TryReserveError;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;

use crate::transports::tls::openssl::{Bio, BioMethod, OpenSsl, Ssl};

/// Both directions of one connection.
#[derive(Default)]
pub struct Wire {
    /// Bytes lent for the length of a call; they come behind the stored ones.
    lent: Option<(*const u8, usize)>,
    stored: Vec<u8>,
    /// How much of `stored` is read.
    read: usize,
    /// What is to be sent.
    pub out: Vec<u8>,
}

impl Wire {
    /// Bytes that are there to be read.
    pub fn pending(&self) -> usize {
        self.stored.len() - self.read + self.lent.map_or(0, |(_, length)| length)
    }

    #[inline]
    pub fn is_drained(&self) -> bool {
        self.pending() == 0
    }

    /// Adds received bytes.
    pub fn store(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        if self.read > 0 {
            self.stored.drain(..self.read);
            self.read = 0;
        }
        self.stored.try_reserve(data.len())?;
        self.stored.extend_from_slice(data);
        Ok(())
    }

    /// Lets OpenSSL read bytes where they are, until [`Wire::take_back`].
    #[inline]
    pub fn lend(&mut self, data: &[u8]) {
        self.lent = Some((data.as_ptr(), data.len()));
    }

    /// Ends the loan; what was not read is stored.
    #[inline]
    pub fn take_back(&mut self) -> Result<(), TryReserveError> {
        if let Some((data, length)) = self.lent.take() {
            if length > 0 {
                // SAFETY: the lender keeps the bytes until now.
                self.store(unsafe { std::slice::from_raw_parts(data, length) })?;
            }
        }
        Ok(())
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn read(&mut self, into: &mut [u8]) -> usize {
        if self.read < self.stored.len() {
            let from = &self.stored[self.read..];
            let n = from.len().min(into.len());
            into[..n].copy_from_slice(&from[..n]);
            self.read += n;
            if self.read == self.stored.len() {
                self.stored = Vec::new();
                self.read = 0;
            }
            return n;
        }
        let Some((data, length)) = self.lent else {
            return 0;
        };
        let n = length.min(into.len());
        // SAFETY: the lender keeps the bytes; `into` is elsewhere.
        unsafe {
            ptr::copy_nonoverlapping(data, into.as_mut_ptr(), n);
            self.lent = Some((data.add(n), length - n));
        }
        n
    }
}

const BIO_FLAGS_READ: c_int = 1;
const BIO_FLAGS_SHOULD_RETRY: c_int = 8;
const BIO_CTRL_DUP: c_int = 12;
const BIO_CTRL_FLUSH: c_int = 11;
/// `BIO_TYPE_SOURCE_SINK`
const SOURCE_SINK: c_int = 0x0400;

/// The functions of the BIO; null when OpenSSL is out of memory or of indices.
pub fn method(openssl: &OpenSsl) -> *mut BioMethod {
    // SAFETY: plain calls with a method that was just made.
    unsafe {
        let index = (openssl.BIO_get_new_index)();
        if index < 0 {
            return ptr::null_mut();
        }
        let method = (openssl.BIO_meth_new)(index | SOURCE_SINK, c"hybridloop".as_ptr());
        if !method.is_null() {
            (openssl.BIO_meth_set_read_ex)(method, read);
            (openssl.BIO_meth_set_write_ex)(method, write);
            (openssl.BIO_meth_set_ctrl)(method, control);
            (openssl.BIO_meth_set_destroy)(method, destroy);
        }
        method
    }
}

/// Gives `ssl` a wire, which lives until the BIO that comes with it is freed by both the `SSL` and the caller.
///
/// # Safety
/// `ssl` is live and has not begun its handshake.
pub unsafe fn connect(openssl: &OpenSsl, ssl: *mut Ssl) -> Option<(*mut Bio, *mut Wire)> {
    // SAFETY: the new BIO is filled before anybody sees it.
    unsafe {
        let bio = (openssl.BIO_new)(openssl.method);
        if bio.is_null() {
            return None;
        }
        let wire = Box::into_raw(Box::<Wire>::default());
        (openssl.BIO_set_data)(bio, wire.cast());
        (openssl.BIO_set_init)(bio, 1);
        // A read that finds nothing is to be tried again; nothing else ever fails.
        (openssl.BIO_set_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
        (openssl.BIO_up_ref)(bio);
        // One reference for both directions.
        (openssl.SSL_set_bio)(ssl, bio, bio);
        Some((bio, wire))
    }
}

/// The wire of a BIO. Python may run between two of these, with the interpreter lock given away meanwhile, but no other
/// thread uses the connection.
unsafe fn wire<'a>(bio: *mut Bio) -> Option<&'a mut Wire> {
    // SAFETY: BIOs are made by `connect`, which sets the data.
    unsafe {
        let data = (OpenSsl::get()?.BIO_get_data)(bio);
        data.cast::<Wire>().as_mut()
    }
}

unsafe extern "C" fn read(bio: *mut Bio, into: *mut c_char, size: usize, n: *mut usize) -> c_int {
    // SAFETY: OpenSSL's buffer has `size` bytes.
    unsafe {
        *n = match wire(bio) {
            Some(wire) if size > 0 => wire.read(std::slice::from_raw_parts_mut(into.cast(), size)),
            _ => 0,
        };
        c_int::from(*n > 0)
    }
}

unsafe extern "C" fn write(
    bio: *mut Bio,
    from: *const c_char,
    size: usize,
    n: *mut usize,
) -> c_int {
    // SAFETY: OpenSSL passes `size` bytes.
    unsafe {
        *n = 0;
        let Some(wire) = wire(bio) else { return 0 };
        if size > 0 {
            if wire.out.try_reserve(size).is_err() {
                // To be tried again, as the flags say.
                return 0;
            }
            wire.out
                .extend_from_slice(std::slice::from_raw_parts(from.cast(), size));
        }
        *n = size;
        1
    }
}

unsafe extern "C" fn control(_: *mut Bio, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    c_long::from(matches!(command, BIO_CTRL_FLUSH | BIO_CTRL_DUP))
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    // SAFETY: the last reference to the BIO is gone, and the wire was its own.
    unsafe {
        if let Some(openssl) = OpenSsl::get() {
            let data = (openssl.BIO_get_data)(bio).cast::<Wire>();
            (openssl.BIO_set_data)(bio, ptr::null_mut());
            if !data.is_null() {
                drop(Box::from_raw(data));
            }
        }
    }
    1
}
