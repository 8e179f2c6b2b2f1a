//! The OpenSSL calls on the `SSL` of one connection.

use std::ffi::c_int;
use std::marker::PhantomData;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::python::unstable::ssl_object::{self, Ssl};
use crate::python::{package, ErrSet};
use crate::transports::tls::bio::{self, MemoryBio};
use crate::transports::tls::openssl::{
    self, OpenSsl, SSL_READING, SSL_RECEIVED_SHUTDOWN, SSL_WRITING,
};

/// Whether TLS can be native in this Python. The first call finds out.
pub fn is_available(py: Python<'_>) -> bool {
    if !OpenSsl::is_set() {
        // An error means that this Python is not as expected.
        OpenSsl::set(probe(py).unwrap_or_default());
    }
    OpenSsl::get().is_some()
}

fn probe(py: Python<'_>) -> PyResult<Option<OpenSsl>> {
    if !ssl_object::is_allowed(py)? {
        return Ok(None);
    }
    let Some(openssl) = openssl::load(py)? else {
        return Ok(None);
    };
    if !ssl_object::probe(py, openssl.SSL_get_SSL_CTX)? || !bio::init(&openssl) {
        return Ok(None);
    }
    Ok(Some(openssl))
}

/// Why nothing was read or written.
#[derive(Clone, Copy)]
pub enum Stop {
    /// More has to be received, or sent, first.
    WouldBlock,
    /// The peer has sent `close_notify`.
    CloseNotify,
    /// OpenSSL has an error for [`Session::error`].
    Failed,
}

/// What is needed to work on an `SSL`.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    openssl: &'static OpenSsl,
    ssl: *mut Ssl,
    bio: *mut MemoryBio,
    owner: PhantomData<&'a ()>,
}

impl Session<'_> {
    /// # Safety
    /// `ssl` and `bio`, which it reads from and writes to, are live for the lifetime of the result.
    #[inline]
    pub unsafe fn new(openssl: &'static OpenSsl, ssl: *mut Ssl, bio: *mut MemoryBio) -> Self {
        Self {
            openssl,
            ssl,
            bio,
            owner: PhantomData,
        }
    }

    /// Clears OpenSSL's error queue: an error of other code must not be taken for one of the next call.
    #[inline]
    pub fn clear_errors(self) {
        // SAFETY: these functions work on the queue of this thread.
        unsafe {
            if (self.openssl.ERR_peek_last_error)() != 0 {
                (self.openssl.ERR_clear_error)();
            }
        }
    }

    /// Received bytes that are not decrypted. The caller has locked the session.
    #[inline]
    pub fn pending(self) -> usize {
        // SAFETY: `new` demands a live BIO. Only OpenSSL and closures of `TlsCore::with_bio` change it, and the caller has
        // locked it.
        unsafe { (*self.bio).pending() }
    }

    /// `SSL_read`: decrypts up to `size` bytes. The caller has locked the session.
    ///
    /// # Safety
    /// `into` can be written to, `size` bytes long.
    #[inline]
    pub unsafe fn read(self, into: *mut u8, size: usize) -> Result<usize, Stop> {
        let mut n = 0;
        // SAFETY: `new` demands a live `SSL`, and the caller guarantees the buffer.
        let read = unsafe { (self.openssl.SSL_read_ex)(self.ssl, into.cast(), size, &raw mut n) };
        self.result(read, n)
    }

    /// `SSL_write`: encrypts `data`, all of it or nothing. The caller has locked the session.
    #[inline]
    pub fn write(self, data: &[u8]) -> Result<usize, Stop> {
        let mut n = 0;
        // SAFETY: `new` demands a live `SSL`, and the slice is valid during the call.
        let written = unsafe {
            (self.openssl.SSL_write_ex)(self.ssl, data.as_ptr().cast(), data.len(), &raw mut n)
        };
        self.result(written, n)
    }

    #[inline]
    fn result(self, status: c_int, n: usize) -> Result<usize, Stop> {
        if status == 1 {
            Ok(n)
        } else {
            Err(self.stop())
        }
    }

    #[cold]
    fn stop(self) -> Stop {
        // SAFETY: `new` demands a live `SSL`.
        unsafe {
            match (self.openssl.SSL_want)(self.ssl) {
                SSL_READING | SSL_WRITING => Stop::WouldBlock,
                // A fatal alert sets the shutdown state, too.
                _ if (self.openssl.ERR_peek_last_error)() != 0 => Stop::Failed,
                _ if (self.openssl.SSL_get_shutdown)(self.ssl) & SSL_RECEIVED_SHUTDOWN != 0 => {
                    Stop::CloseNotify
                }
                _ => Stop::Failed,
            }
        }
    }

    /// The exception for the last error in OpenSSL's queue, which is cleared.
    #[cold]
    pub fn error(self, py: Python<'_>) -> ErrSet {
        // SAFETY: `new` demands a live `SSL`.
        let error = unsafe { openssl::take_error(self.openssl, self.ssl) };
        match package::make_tls_error(py).and_then(|make| make.call1(error)) {
            Ok(error) => PyErr::from_value(error).into(),
            Err(error) => error.into(),
        }
    }
}

/// For a connection whose SSL object was never attached, or is gone.
#[cold]
pub fn no_session() -> ErrSet {
    PyRuntimeError::new_err("this TLS connection has no SSL object").into()
}
