//! The memory BIO that an `SSL` reads from and writes to.
//!
//! OpenSSL reads straight from the buffer that `recv` has filled, and writes into one vector that is sent as it is. Python's
//! `ssl.MemoryBIO`, which asyncio uses, copies both once more and never frees the room of its largest message.

use std::collections::TryReserveError;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::python::unstable::ssl_object::Ssl;
use crate::transports::tls::openssl::{Bio, BioMethod, OpenSsl};

/// Both directions of one connection.
#[derive(Default)]
pub struct MemoryBio {
    /// Bytes of a caller, which are read in place after those in `incoming`.
    borrowed: Option<(*const u8, usize)>,
    incoming: Vec<u8>,
    /// How many bytes of `incoming` are read.
    read: usize,
    /// What OpenSSL has written.
    pub outgoing: Vec<u8>,
}

impl MemoryBio {
    /// How many bytes can be read.
    pub fn pending(&self) -> usize {
        self.incoming.len() - self.read + self.borrowed.map_or(0, |(_, length)| length)
    }

    #[inline]
    pub fn is_drained(&self) -> bool {
        self.pending() == 0
    }

    /// Adds a copy of received bytes, behind those that are borrowed: a call that borrows may have entered the loop again.
    pub fn store(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        self.end_borrow()?;
        self.append(data)
    }

    fn append(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        if self.read > 0 {
            self.incoming.drain(..self.read);
            self.read = 0;
        }
        self.incoming.try_reserve(data.len())?;
        self.incoming.extend_from_slice(data);
        Ok(())
    }

    /// Lets OpenSSL read received bytes in place.
    ///
    /// # Safety
    /// `data` stays valid and unchanged until [`MemoryBio::end_borrow`] or [`MemoryBio::clear`] is called.
    #[inline]
    pub unsafe fn borrow(&mut self, data: &[u8]) {
        self.borrowed = Some((data.as_ptr(), data.len()));
    }

    /// Ends [`MemoryBio::borrow`]: a copy of what was not read is stored. If there is no memory for that, it is lost.
    #[inline]
    pub fn end_borrow(&mut self) -> Result<(), TryReserveError> {
        match self.borrowed.take() {
            Some((data, length)) if length > 0 => {
                // SAFETY: the caller of `borrow` guarantees that the bytes are valid until now.
                self.append(unsafe { std::slice::from_raw_parts(data, length) })
            }
            _ => Ok(()),
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn read(&mut self, into: &mut [u8]) -> usize {
        if self.read < self.incoming.len() {
            let from = &self.incoming[self.read..];
            let n = from.len().min(into.len());
            into[..n].copy_from_slice(&from[..n]);
            self.read += n;
            if self.read == self.incoming.len() {
                self.incoming = Vec::new();
                self.read = 0;
            }
            return n;
        }
        let Some((data, length)) = self.borrowed else {
            return 0;
        };
        let n = length.min(into.len());
        // SAFETY: the caller of `borrow` guarantees that `length` bytes are valid, and that they do not change, so that `into`
        // is elsewhere.
        unsafe {
            ptr::copy_nonoverlapping(data, into.as_mut_ptr(), n);
            self.borrowed = Some((data.add(n), length - n));
        }
        n
    }

    fn write(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        self.outgoing.try_reserve(data.len())?;
        self.outgoing.extend_from_slice(data);
        Ok(())
    }
}

const BIO_FLAGS_READ: c_int = 1;
const BIO_FLAGS_SHOULD_RETRY: c_int = 8;
const BIO_CTRL_DUP: c_int = 12;
const BIO_CTRL_FLUSH: c_int = 11;
const BIO_TYPE_SOURCE_SINK: c_int = 0x0400;

/// The functions of the BIO, for OpenSSL; null until [`init`] has succeeded.
static METHOD: AtomicPtr<BioMethod> = AtomicPtr::new(ptr::null_mut());

/// Makes the table of the BIO's functions; false if OpenSSL is out of memory or of indices.
pub fn init(openssl: &OpenSsl) -> bool {
    // SAFETY: `method` was just made, and nobody else uses it until it is complete. The name is static.
    unsafe {
        let index = (openssl.BIO_get_new_index)();
        if index < 0 {
            return false;
        }
        let method = (openssl.BIO_meth_new)(index | BIO_TYPE_SOURCE_SINK, c"hybridloop".as_ptr());
        if method.is_null() {
            return false;
        }
        (openssl.BIO_meth_set_read_ex)(method, read);
        (openssl.BIO_meth_set_write_ex)(method, write);
        (openssl.BIO_meth_set_ctrl)(method, control);
        (openssl.BIO_meth_set_destroy)(method, destroy);
        METHOD.store(method, Ordering::Release);
    }
    true
}

/// Gives `ssl` a new BIO. The caller gets a reference to it, and has to give that back by `BIO_free`. The `MemoryBio` is valid
/// until then; the `SSL` has a reference as well.
///
/// # Safety
/// `ssl` is live and has not begun its handshake, and [`init`] has succeeded.
pub unsafe fn connect(openssl: &OpenSsl, ssl: *mut Ssl) -> Option<(*mut Bio, *mut MemoryBio)> {
    // SAFETY: the caller guarantees the method and `ssl`. The new BIO is complete before `ssl` gets it.
    unsafe {
        let bio = (openssl.BIO_new)(METHOD.load(Ordering::Acquire));
        if bio.is_null() {
            return None;
        }
        let memory = Box::into_raw(Box::<MemoryBio>::default());
        (openssl.BIO_set_data)(bio, memory.cast());
        (openssl.BIO_set_init)(bio, 1);
        // A read that finds nothing may be retried. Nothing else fails.
        (openssl.BIO_set_flags)(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
        (openssl.BIO_up_ref)(bio);
        // `SSL_set_bio` takes one reference for both directions.
        (openssl.SSL_set_bio)(ssl, bio, bio);
        Some((bio, memory))
    }
}

/// The memory of a BIO.
///
/// # Safety
/// `bio` was made by [`connect`], and nobody else uses its memory as long as the result is used. OpenSSL calls the functions of
/// the BIO while it works on the `SSL`, which one thread does at a time; `TlsCore::with_bio` runs no OpenSSL.
unsafe fn memory<'a>(bio: *mut Bio) -> Option<&'a mut MemoryBio> {
    // SAFETY: the caller guarantees a BIO of `connect`, whose data is null or a `MemoryBio`, and exclusive use.
    unsafe {
        let data = (OpenSsl::get()?.BIO_get_data)(bio);
        data.cast::<MemoryBio>().as_mut()
    }
}

unsafe extern "C" fn read(bio: *mut Bio, into: *mut c_char, size: usize, n: *mut usize) -> c_int {
    // SAFETY: OpenSSL passes a BIO with this method, a buffer of `size` bytes, and where to put the result.
    unsafe {
        *n = match memory(bio) {
            Some(memory) if size > 0 => {
                memory.read(std::slice::from_raw_parts_mut(into.cast(), size))
            }
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
    // SAFETY: OpenSSL passes a BIO with this method, `size` bytes, and where to put the result.
    unsafe {
        *n = 0;
        let Some(memory) = memory(bio) else { return 0 };
        if size > 0 {
            let data = std::slice::from_raw_parts(from.cast(), size);
            if memory.write(data).is_err() {
                // The flags say that this may be retried.
                return 0;
            }
        }
        *n = size;
        1
    }
}

unsafe extern "C" fn control(_: *mut Bio, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    c_long::from(matches!(command, BIO_CTRL_FLUSH | BIO_CTRL_DUP))
}

unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    // SAFETY: OpenSSL calls this when the last reference to the BIO is gone, so nobody uses its memory any more. The data is
    // null, or was made by `Box::into_raw` in `connect`.
    unsafe {
        if let Some(openssl) = OpenSsl::get() {
            let data = (openssl.BIO_get_data)(bio).cast::<MemoryBio>();
            (openssl.BIO_set_data)(bio, ptr::null_mut());
            if !data.is_null() {
                drop(Box::from_raw(data));
            }
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::MemoryBio;

    #[test]
    fn borrowed_data_is_read_in_place_and_the_rest_stored() {
        let mut bio = MemoryBio::default();
        assert!(bio.store(b"ab").is_ok());
        let data = b"cdef".to_vec();
        // SAFETY: the vector lives unchanged until the end of the borrow.
        unsafe { bio.borrow(&data) };
        assert_eq!(bio.pending(), 6);
        let mut into = [0; 3];
        assert_eq!(bio.read(&mut into), 2);
        assert_eq!(&into[..2], b"ab");
        assert_eq!(bio.read(&mut into[..1]), 1);
        assert_eq!(into[0], b'c');
        assert!(bio.end_borrow().is_ok());
        drop(data);
        assert_eq!(bio.pending(), 3);
        assert_eq!(bio.read(&mut into), 3);
        assert_eq!(&into, b"def");
        assert!(bio.is_drained());
    }

    #[test]
    fn stored_data_comes_behind_borrowed_data() {
        let mut bio = MemoryBio::default();
        let data = b"abc".to_vec();
        // SAFETY: the vector lives unchanged until the end of the borrow.
        unsafe { bio.borrow(&data) };
        let mut into = [0; 4];
        assert_eq!(bio.read(&mut into[..1]), 1);
        assert!(bio.store(b"de").is_ok());
        assert!(bio.end_borrow().is_ok());
        drop(data);
        assert_eq!(bio.read(&mut into), 4);
        assert_eq!(&into, b"bcde");
    }
}
