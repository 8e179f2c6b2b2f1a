//! The functions of the OpenSSL that Python's `_ssl` module uses.
//!
//! Nothing is linked: they are looked up in `_ssl` and the libraries that it depends on, at the first TLS connection. If one is
//! missing, as in a Python that has `_ssl` built in, TLS is left to asyncio.

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void, CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use pyo3::prelude::*;

use crate::python::unstable::ssl_object::{Ssl, SslCtx};

macro_rules! opaque {
    ($($name:ident),*) => { $(
        #[repr(C)]
        pub struct $name { _private: [u8; 0] }
    )* };
}

opaque!(Bio, BioMethod);

pub type BioRead = unsafe extern "C" fn(*mut Bio, *mut c_char, usize, *mut usize) -> c_int;
pub type BioWrite = unsafe extern "C" fn(*mut Bio, *const c_char, usize, *mut usize) -> c_int;
pub type BioCtrl = unsafe extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
pub type BioDestroy = unsafe extern "C" fn(*mut Bio) -> c_int;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// OpenSSL's functions, by their C names.
        #[allow(non_snake_case)]
        pub struct OpenSsl {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?),*
        }

        impl OpenSsl {
            /// Looks up the functions in a library and what it depends on.
            ///
            /// # Safety
            /// `library` is an open handle of `dlopen`.
            unsafe fn look_up(library: *mut c_void) -> Option<Self> {
                Some(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        // SAFETY: the caller guarantees an open handle, and the name ends in a zero byte.
                        let found = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
                        if found.is_null() {
                            return None;
                        }
                        // SAFETY: the function of this name has this signature in OpenSSL's headers since 1.1.1.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                            >(found)
                        }
                    }),*
                })
            }
        }
    };
}

functions! {
    SSL_read_ex: fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
    SSL_write_ex: fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
    SSL_want: fn(*const Ssl) -> c_int;
    SSL_get_shutdown: fn(*const Ssl) -> c_int;
    SSL_get_SSL_CTX: fn(*const Ssl) -> *mut SslCtx;
    SSL_set_bio: fn(*mut Ssl, *mut Bio, *mut Bio);
    SSL_get_verify_result: fn(*const Ssl) -> c_long;
    X509_verify_cert_error_string: fn(c_long) -> *const c_char;
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
    BIO_meth_set_read_ex: fn(*mut BioMethod, BioRead) -> c_int;
    BIO_meth_set_write_ex: fn(*mut BioMethod, BioWrite) -> c_int;
    BIO_meth_set_ctrl: fn(*mut BioMethod, BioCtrl) -> c_int;
    BIO_meth_set_destroy: fn(*mut BioMethod, BioDestroy) -> c_int;
    BIO_new: fn(*const BioMethod) -> *mut Bio;
    BIO_free: fn(*mut Bio) -> c_int;
    BIO_up_ref: fn(*mut Bio) -> c_int;
    BIO_set_data: fn(*mut Bio, *mut c_void);
    BIO_get_data: fn(*mut Bio) -> *mut c_void;
    BIO_set_init: fn(*mut Bio, c_int);
    BIO_set_flags: fn(*mut Bio, c_int);
    ERR_peek_last_error: fn() -> c_ulong;
    ERR_clear_error: fn();
    ERR_reason_error_string: fn(c_ulong) -> *const c_char;
    OpenSSL_version: fn(c_int) -> *const c_char;
    OpenSSL_version_num: fn() -> c_ulong;
}

/// What `SSL_want` returns when more has to be received, or sent, first.
pub const SSL_READING: c_int = 3;
pub const SSL_WRITING: c_int = 2;
/// The peer has sent `close_notify`.
pub const SSL_RECEIVED_SHUTDOWN: c_int = 2;
const ERR_LIB_SSL: c_uint = 20;
const SSL_R_CERTIFICATE_VERIFY_FAILED: c_uint = 134;

static OPENSSL: OnceLock<Option<OpenSsl>> = OnceLock::new();

impl OpenSsl {
    /// The functions, if [`OpenSsl::set`] was called with them.
    #[inline]
    pub fn get() -> Option<&'static Self> {
        OPENSSL.get().and_then(Option::as_ref)
    }

    /// Whether [`OpenSsl::set`] was called.
    pub fn is_set() -> bool {
        OPENSSL.get().is_some()
    }

    /// Sets the functions that are used from now on, or that there are none. The first call counts.
    pub fn set(openssl: Option<Self>) {
        let _ = OPENSSL.set(openssl);
    }
}

/// Looks up the functions in the library that this Python's `_ssl` uses.
pub fn load(py: Python<'_>) -> PyResult<Option<OpenSsl>> {
    let module = py.import("_ssl")?;
    let path: PathBuf = module.getattr("__file__")?.extract()?;
    let path = CString::new(path.into_os_string().into_vec())?;
    // SAFETY: the path ends in a zero byte. No code is run: the library is loaded already, and Python never unloads it.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return Ok(None);
    }
    // SAFETY: the handle was just opened, and is not closed.
    let Some(openssl) = (unsafe { OpenSsl::look_up(library) }) else {
        return Ok(None);
    };
    // SAFETY: `OpenSSL_version` returns a constant C string.
    let version = unsafe { CStr::from_ptr((openssl.OpenSSL_version)(0)) };
    let expected: String = module.getattr("OPENSSL_VERSION")?.extract()?;
    Ok((version.to_str() == Ok(expected.as_str())).then_some(openssl))
}

/// Clears this thread's error queue and returns its last error: library, reason, text, result of the verification and its text.
/// `hybridloop.loop.tls` turns that into an exception.
///
/// # Safety
/// `ssl` is live.
pub unsafe fn take_error(
    openssl: &OpenSsl,
    ssl: *mut Ssl,
) -> (c_uint, c_uint, String, c_long, String) {
    // SAFETY: the caller guarantees that `ssl` is live. OpenSSL's texts are constant C strings, or null.
    unsafe {
        let text = |text: *const c_char| {
            if text.is_null() {
                String::new()
            } else {
                CStr::from_ptr(text).to_string_lossy().into_owned()
            }
        };
        let code = (openssl.ERR_peek_last_error)();
        let reason_text = text((openssl.ERR_reason_error_string)(code));
        (openssl.ERR_clear_error)();
        #[allow(clippy::cast_possible_truncation)] // Error codes have 32 bits.
        let code = code as c_uint;
        let (library, reason) = if (openssl.OpenSSL_version_num)() >= 0x3000_0000 {
            ((code >> 23) & 0xFF, code & 0x7F_FFFF)
        } else {
            (code >> 24, code & 0xFFF)
        };
        let verified = if library == ERR_LIB_SSL && reason == SSL_R_CERTIFICATE_VERIFY_FAILED {
            (openssl.SSL_get_verify_result)(ssl)
        } else {
            0
        };
        let verified_text = text((openssl.X509_verify_cert_error_string)(verified));
        (library, reason, reason_text, verified, verified_text)
    }
}
