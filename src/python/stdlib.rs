//! Objects of Python's standard library that the core uses. They are looked up once, at import.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::python::future::NativeFuture;
use crate::python::{FfiResult, Ref};

macro_rules! names {
    ($($name:ident),* $(,)?) => {
        /// Interned attribute and argument names.
        #[allow(non_snake_case)]
        pub struct Names { $(pub $name: Ref),* }

        impl Names {
            fn new(py: Python<'_>) -> Self {
                Self { $($name: PyString::intern(py, stringify!($name)).into()),* }
            }
        }
    };
}

names!(
    _asyncio_future_blocking,
    _fatal_error,
    _log_destroy_pending,
    _must_cancel,
    _native_engine,
    _run,
    _ssl_protocol,
    Future,
    Task,
    __aenter__,
    __aexit__,
    add_done_callback,
    append,
    base,
    buffer_updated,
    call_exception_handler,
    call_soon,
    callback,
    cancelled,
    close,
    connection_lost,
    connection_made,
    context,
    create_future,
    create_task,
    data_received,
    datagram_received,
    done,
    eager_start,
    eof_received,
    error_received,
    exception,
    feed_data,
    get_buffer,
    get_loop,
    is_closing,
    native_engine,
    pause_writing,
    remove,
    result,
    resume_writing,
    set_exception,
    set_result,
    throw,
    time,
    write,
    writelines,
);

/// Imported classes and functions.
pub struct Stdlib {
    pub names: Names,
    /// `("loop",)`: keyword names for `Future(loop=…)`.
    pub loop_keyword: Ref,
    /// `("context",)`.
    pub context_keyword: Ref,
    /// `("loop", "eager_start")`.
    pub eager_keywords: Ref,
    pub no_arguments: Ref,
    pub none: Ref,
    /// `_asyncio.Future`, if this Python has it.
    pub native_future: Option<NativeFuture>,
    /// The dictionaries of `asyncio.futures` and `asyncio.tasks`. Programs may replace `Future` and `Task` there.
    pub futures: Ref,
    pub tasks: Ref,
    pub base_create_task: Ref,
    /// `asyncio.eager_task_factory` and the class of the tasks that it makes.
    pub eager_factory: Option<(Ref, Ref)>,
    pub get_running_loop: Ref,
    pub cancelled_error: Ref,
    pub invalid_state_error: Ref,
    pub buffered_protocol: Ref,
    /// `collections.abc.Coroutine`
    pub coroutine: Ref,
    pub format_callback_source: Ref,
    pub extract_stack: Ref,
    pub format_handle: Ref,
    pub logger: Ref,
    pub stream_writer_drain: Ref,
    pub incomplete_read_error: Ref,
    pub limit_overrun_error: Ref,
    pub transport_socket: Ref,
    /// Methods of asyncio's transports, which raise the errors for objects that are not bytes-like.
    pub stream_write: Ref,
    pub datagram_sendto: Ref,
    /// `Server._attach` takes the transport since Python 3.13.
    pub attach_takes_transport: bool,
}

static STDLIB: OnceLock<Stdlib> = OnceLock::new();

/// One of the [`Names`], as the methods of PyO3 take it.
pub fn as_name<'a, 'py>(py: Python<'py>, name: &'a Ref) -> PyResult<&'a Bound<'py, PyString>> {
    Ok(name.bind(py).cast::<PyString>()?)
}

impl Stdlib {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let take = |module: &str, path: &[&str]| -> PyResult<Ref> {
            let mut object = py.import(module)?.into_any();
            for name in path {
                object = object.getattr(*name)?;
            }
            Ok(object.into())
        };
        let attach = take("asyncio.base_events", &["Server", "_attach", "__code__"])?;
        let attach_arguments: usize = attach.bind(py).getattr("co_argcount")?.extract()?;
        Ok(Self {
            names: Names::new(py),
            loop_keyword: PyTuple::new(py, [PyString::intern(py, "loop")])?.into(),
            context_keyword: PyTuple::new(py, [PyString::intern(py, "context")])?.into(),
            eager_keywords: PyTuple::new(
                py,
                ["loop", "eager_start"].map(|name| PyString::intern(py, name)),
            )?
            .into(),
            no_arguments: PyTuple::empty(py).into(),
            none: Ref::none(),
            native_future: NativeFuture::find(py),
            futures: take("asyncio.futures", &["__dict__"])?,
            tasks: take("asyncio.tasks", &["__dict__"])?,
            base_create_task: take("asyncio.base_events", &["BaseEventLoop", "create_task"])?,
            eager_factory: eager_factory(py).ok(),
            get_running_loop: take("asyncio.events", &["_get_running_loop"])?,
            cancelled_error: take("asyncio.exceptions", &["CancelledError"])?,
            invalid_state_error: take("asyncio.exceptions", &["InvalidStateError"])?,
            coroutine: take("collections.abc", &["Coroutine"])?,
            buffered_protocol: take("asyncio", &["BufferedProtocol"])?,
            format_callback_source: take("asyncio.format_helpers", &["_format_callback_source"])?,
            extract_stack: take("asyncio.format_helpers", &["extract_stack"])?,
            format_handle: take("asyncio.base_events", &["_format_handle"])?,
            stream_writer_drain: take("asyncio.streams", &["StreamWriter", "drain"])?,
            incomplete_read_error: take("asyncio.exceptions", &["IncompleteReadError"])?,
            limit_overrun_error: take("asyncio.exceptions", &["LimitOverrunError"])?,
            logger: take("asyncio.log", &["logger"])?,
            transport_socket: take("asyncio.trsock", &["TransportSocket"])?,
            stream_write: take(
                "asyncio.selector_events",
                &["_SelectorSocketTransport", "write"],
            )?,
            datagram_sendto: take(
                "asyncio.selector_events",
                &["_SelectorDatagramTransport", "sendto"],
            )?,
            attach_takes_transport: attach_arguments > 1,
        })
    }

    /// Fills the table, at import.
    pub fn init(py: Python<'_>) -> PyResult<()> {
        if STDLIB.get().is_none() {
            // At a second import of the module the table is filled already.
            let _ = STDLIB.set(Self::new(py)?);
        }
        Ok(())
    }

    #[inline]
    pub fn get() -> &'static Self {
        match STDLIB.get() {
            Some(table) => table,
            None => missing(),
        }
    }
}

/// Calling the class saves the call of the factory, a Python function. Fails where the factory is not a closure over the class.
fn eager_factory(py: Python<'_>) -> PyResult<(Ref, Ref)> {
    let factory = py.import("asyncio.tasks")?.getattr("eager_task_factory")?;
    let cell = factory.getattr("__closure__")?.get_item(0)?;
    let class = cell.getattr("cell_contents")?.cast_into::<PyType>()?;
    Ok((factory.into(), class.into_any().into()))
}

#[cold]
fn missing() -> ! {
    // SAFETY: `Py_FatalError` may be called in any state and does not return; the text is a C string.
    unsafe { ffi::Py_FatalError(c"hybridloop._core was used before it was imported".as_ptr()) }
}

/// The current value of a name in a module's dictionary.
pub fn current(module: &Ref, name: &Ref) -> FfiResult<Ref> {
    let mut found = std::ptr::null_mut();
    // SAFETY: the holder of a `Ref` is attached. The callers pass the dictionary of a module. The result is a new reference or
    // null.
    unsafe {
        if ffi::compat::PyDict_GetItemRef(module.as_ptr(), name.as_ptr(), &raw mut found) == 0 {
            ffi::PyErr_SetObject(ffi::PyExc_NameError, name.as_ptr());
        }
        Ref::new(found)
    }
}
