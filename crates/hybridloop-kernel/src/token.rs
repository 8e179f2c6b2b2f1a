//! Completion tokens: a kernel returns, and any thread completes its call later.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use crate::abi::{self, code, CompleteFn, Val};
use crate::ctx::Ctx;
use crate::error::{Code, Error};
use crate::panics;
use crate::results::{IntoResult, Output};

/// What a kernel returns whose [`Token`] will be completed with a value of type `T`.
#[must_use = "the kernel has to return it"]
pub struct Pending<'a, T> {
    call: PhantomData<&'a Ctx>,
    value: PhantomData<fn() -> T>,
}

impl<'a, T: IntoResult<'static>> Output<'a> for Pending<'a, T> {
    const SIGNATURE: &'static str = T::SIGNATURE;
    const FLAGS: u32 = abi::ASYNC;
    fn into_output(self, _: &'a Ctx) -> Result<Option<Val>, Error> {
        Ok(None)
    }
}

/// Completes the call of a kernel that has returned [`Pending`], from any thread. Until then the arguments stay in place.
///
/// ```
/// use hybridloop_kernel::{kernel, Ctx, Error, Pending};
///
/// /// The sum, computed by a thread of its own.
/// #[kernel(name = "demo.add")]
/// fn add(ctx: &Ctx, a: f64, b: f64) -> Result<Pending<'_, f64>, Error> {
///     let (token, pending) = ctx.defer()?;
///     std::thread::spawn(move || token.complete(Ok(a + b)));
///     Ok(pending)
/// }
/// ```
///
/// A token that is dropped completes the call with an error.
pub struct Token<T> {
    ctx: Ctx,
    /// 0 once the call is completed.
    id: u64,
    complete: CompleteFn,
    /// Tells the kernel that the token is there.
    _alive: Arc<()>,
    value: PhantomData<fn(T)>,
}

impl<T> Token<T> {
    /// The context of the call, for memory, items, the bus and progress.
    #[must_use]
    pub fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    /// Completes the call with a value or an error.
    pub fn complete(self, result: Result<T, Error>)
    where
        T: for<'a> IntoResult<'a>,
    {
        self.complete_with(|ctx| result?.into_val(ctx));
    }

    /// Completes the call with what `result` makes of the context: [`IntoResult::into_val`] of a value that may have memory of
    /// the host. A panic is an error of the job.
    pub fn complete_with(mut self, result: impl for<'a> FnOnce(&'a Ctx) -> Result<Val, Error>) {
        let (status, val) = match panics::catch(|| result(&self.ctx)) {
            Ok(Ok(val)) => (code::OK, val),
            Ok(Err(error)) | Err(error) => (self.ctx.fail(&error), Val::NONE),
        };
        self.end(status, &val);
    }

    fn end(&mut self, status: i32, val: &Val) {
        let id = std::mem::take(&mut self.id);
        // SAFETY: any thread may complete a token with a value that is valid during the call.
        unsafe { (self.complete)(id, status, val) };
    }
}

impl<T> Drop for Token<T> {
    fn drop(&mut self) {
        if self.id != 0 {
            let error = Error::new(Code::Unknown, "the completion token was dropped");
            let status = self.ctx.fail(&error);
            self.end(status, &Val::NONE);
        }
    }
}

/// The data of a token: what is called when the job is cancelled or late.
struct Stop<F>(Option<F>);

/// # Safety
/// `data` comes from `Ctx::defer_with` with the same `F` and was not released. The host calls this once at most.
unsafe extern "C" fn stop<F: FnOnce(Code)>(data: *mut c_void, status: i32) {
    // SAFETY: the host calls `stop` once at most, and `release` not before it has returned, so nobody else uses the data.
    let stop = unsafe { &mut *data.cast::<Stop<F>>() };
    if let Some(stop) = stop.0.take() {
        // The job is told of nothing: it ends with the code of its token.
        let _ = panics::catch(|| stop(Code::from_status(status)));
    }
}

/// # Safety
/// `data` comes from `Ctx::defer_with` with the same `F`. The host calls this once.
unsafe extern "C" fn release<F>(data: *mut c_void) {
    // SAFETY: `defer_with` has made the box, and the host releases it once.
    let data = unsafe { Box::from_raw(data.cast::<Stop<F>>()) };
    let _ = panics::catch(|| drop(data));
}

impl Ctx {
    /// The token of this call, and what the kernel then returns. A kernel that returns [`Pending`] can get it once.
    ///
    /// If the job is cancelled, or its deadline passes, its result is ignored, but it ends when the token is completed:
    /// [`Ctx::defer_with`] hears of it.
    ///
    /// # Errors
    /// [`Code::Closed`] if the kernel has it already, or the host is too old.
    pub fn defer<T>(&self) -> Result<(Token<T>, Pending<'_, T>), Error> {
        self.token(ptr::null_mut(), None, None)
    }

    /// The token of this call. If the job is cancelled, or its deadline passes, `stop` is called with
    /// [`Code::Cancelled`] or [`Code::TimedOut`], by any thread: the token should be completed soon. It must not block. It may be
    /// called while another thread completes the token, but not afterwards, and not before the kernel has returned.
    ///
    /// # Errors
    /// [`Code::Closed`] if the kernel has it already, or the host is too old; [`Code::Memory`] if there is no memory or no thread.
    pub fn defer_with<T, F>(&self, stop_with: F) -> Result<(Token<T>, Pending<'_, T>), Error>
    where
        F: FnOnce(Code) + Send + 'static,
    {
        let data = Box::into_raw(Box::new(Stop(Some(stop_with))));
        let made = self.token(data.cast(), Some(stop::<F>), Some(release::<F>));
        if made.is_err() {
            // SAFETY: the box was made above, and the host does not keep the data of a token that it has refused.
            drop(unsafe { Box::from_raw(data) });
        }
        made
    }

    fn token<T>(
        &self,
        data: *mut c_void,
        stop: Option<abi::StopFn>,
        drop: Option<abi::DropFn>,
    ) -> Result<(Token<T>, Pending<'_, T>), Error> {
        let Some((defer, complete)) = self.token_functions() else {
            let text = "this host has no completion tokens";
            return Err(Error::new(Code::Closed, text));
        };
        // SAFETY: the context is valid, as `Ctx::new` demands, and the functions are those for the data.
        let id = unsafe { defer(self.raw(), data, stop, drop) };
        if id == 0 {
            return Err(Error::new(Code::Closed, "no completion token"));
        }
        let alive = Arc::new(());
        let _ = self.token.set(Arc::downgrade(&alive));
        let token = Token {
            // SAFETY: the call ends after the token was completed, or after the kernel has returned something else, which
            // `export::call` does only if the token is gone.
            ctx: unsafe { Ctx::new(self.table(), self.raw()) },
            id,
            complete,
            _alive: alive,
            value: PhantomData,
        };
        let pending = Pending {
            call: PhantomData,
            value: PhantomData,
        };
        Ok((token, pending))
    }
}
