//! Entries of a module for Rust functions.

use crate::abi::{self, code, Host, RawCtx, Val};
use crate::args::FromArg;
use crate::ctx::Ctx;
use crate::error::{Code, Error};
use crate::panics;

/// Implemented by `#[kernel]` for a function.
pub trait Export {
    /// Its entry in a module.
    const KERNEL: abi::Kernel;
}

/// The context and the arguments of a call.
pub struct Call<'a> {
    ctx: &'a Ctx,
    args: &'a [Val],
}

impl<'a> Call<'a> {
    /// The context.
    #[must_use]
    pub fn ctx(&self) -> &'a Ctx {
        self.ctx
    }

    /// Checks the number of arguments.
    ///
    /// # Errors
    /// [`Code::Type`]
    pub fn expect(&self, n: usize) -> Result<(), Error> {
        if self.args.len() == n {
            return Ok(());
        }
        Err(Error::type_error(format!(
            "expected {n} arguments, got {}",
            self.args.len()
        )))
    }

    /// Converts an argument.
    ///
    /// # Safety
    /// The caller converts each index at most once, because an argument may be borrowed mutably.
    ///
    /// # Errors
    /// Those of [`FromArg::from_arg`], with the name of the argument.
    pub unsafe fn arg<T: FromArg<'a>>(&self, index: usize, name: &str) -> Result<T, Error> {
        let val = self.args.get(index).ok_or(Code::Type)?;
        // SAFETY: the host keeps arguments valid until the kernel returns, and nobody else uses the memory of writable ones;
        // the caller converts each argument once.
        unsafe { T::from_arg(self.ctx, val) }
            .map_err(|error| Error::new(error.code(), format!("{name}: {error}")))
    }
}

/// Runs the body of a kernel; a panic becomes an error.
///
/// # Safety
/// `host`, `raw`, `args`, `n` and `out` are those that the host has passed to an [`abi::KernelFn`] that has not returned.
pub unsafe fn call(
    host: *const Host,
    raw: *mut RawCtx,
    args: *const Val,
    n: usize,
    out: *mut Val,
    body: impl FnOnce(&Call<'_>) -> Result<Option<Val>, Error>,
) -> i32 {
    // SAFETY: the host has passed both to the kernel, which returns after this function.
    let ctx = unsafe { Ctx::new(host, raw) };
    let args = if n == 0 {
        &[]
    } else {
        // SAFETY: the host passes `n` values, which are valid until the kernel returns.
        unsafe { std::slice::from_raw_parts(args, n) }
    };
    let call = Call { ctx: &ctx, args };
    let error = match panics::catch(|| body(&call)) {
        Ok(Ok(Some(val))) => {
            // SAFETY: `out` points to the host's variable for the result.
            unsafe { out.write(val) };
            return code::OK;
        }
        Ok(Ok(None)) => return code::PENDING,
        Ok(Err(error)) | Err(error) => error,
    };
    // Whoever has the token uses the context, which is valid only as long as the call has not ended.
    if ctx
        .token
        .get()
        .is_some_and(|token| token.strong_count() > 0)
    {
        return code::PENDING;
    }
    ctx.fail(&error)
}

/// The length of [`signature`].
#[must_use]
pub const fn signature_len(parts: &[&str]) -> usize {
    let (mut len, mut i) = (1, 0);
    while i < parts.len() {
        len += parts[i].len();
        i += 1;
    }
    len
}

/// Joins the parts of a signature to a C string.
#[must_use]
pub const fn signature<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut joined = [0; N];
    let (mut at, mut i) = (0, 0);
    while i < parts.len() {
        let (part, mut j) = (parts[i].as_bytes(), 0);
        while j < part.len() {
            joined[at] = part[j];
            at += 1;
            j += 1;
        }
        i += 1;
    }
    joined
}

/// Exports kernels from a library: `module!("name", [first, second]);`, once.
#[macro_export]
macro_rules! module {
    ($name:literal, [$($kernel:path),+ $(,)?]) => {
        /// The kernels of this library, for the host that loads it.
        #[no_mangle]
        pub extern "C" fn hybridloop_module(
            _host_abi: u32,
        ) -> *const $crate::abi::Module {
            static KERNELS: &[$crate::abi::Kernel] =
                &[$(<$kernel as $crate::Export>::KERNEL),+];
            static MODULE: $crate::abi::Module = $crate::abi::Module {
                size: $crate::abi::size::<$crate::abi::Module>(),
                magic: $crate::abi::MAGIC,
                abi: $crate::abi::ABI,
                n: {
                    assert!(KERNELS.len() < 65536, "too many kernels");
                    KERNELS.len() as u32
                },
                name: concat!($name, "\0").as_ptr().cast(),
                kernels: KERNELS.as_ptr(),
            };
            &raw const MODULE
        }
    };
}
