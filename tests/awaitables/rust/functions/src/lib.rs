//! Async functions for the tests.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use hybridloop_async::{add_class, add_functions, await_py, function, into_awaitable, methods, Cx};
use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
});

/// Await what a call gives.
#[function]
async fn relay(cx: Cx, make: Py<PyAny>) -> PyResult<Py<PyAny>> {
    cx.awaiting(|py| make.bind(py).call0()).await
}

#[function]
async fn given(object: Py<PyAny>) -> PyResult<Py<PyAny>> {
    await_py(object).await
}

/// Await a call until it does not raise `LookupError`; give the number of calls as well.
#[function]
async fn retry(cx: Cx, make: Py<PyAny>) -> PyResult<(usize, Py<PyAny>)> {
    for calls in 1.. {
        match cx.awaiting(|py| make.bind(py).call0()).await {
            Ok(value) => return Ok((calls, value)),
            Err(error) if Python::attach(|py| error.is_instance_of::<PyLookupError>(py)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(PyValueError::new_err("too many calls"))
}

/// What both give, as text.
#[function]
async fn joined(cx: Cx, a: Py<PyAny>, b: Py<PyAny>) -> (String, String) {
    let text = |outcome: PyResult<Py<PyAny>>| {
        outcome.map_or_else(|error| error.to_string(), |value| value.to_string())
    };
    let (a, b) = tokio::join!(
        cx.awaiting(|py| a.bind(py).call0()),
        cx.awaiting(|py| b.bind(py).call0())
    );
    (text(a), text(b))
}

#[function]
async fn try_joined(cx: Cx, a: Py<PyAny>, b: Py<PyAny>) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
    tokio::try_join!(
        cx.awaiting(|py| a.bind(py).call0()),
        cx.awaiting(|py| b.bind(py).call0())
    )
}

/// Await all of them, in the order in which they end.
#[function]
async fn unordered(objects: Vec<Py<PyAny>>) -> PyResult<Vec<Py<PyAny>>> {
    let mut futures: FuturesUnordered<_> = objects.into_iter().map(await_py).collect();
    let mut values = Vec::new();
    while let Some(value) = futures.next().await {
        values.push(value?);
    }
    Ok(values)
}

/// Await a call for some time only; `None` if that is over.
#[function]
#[pyo3(signature = (make, *, seconds = 1.0))]
async fn within(cx: Cx, make: Py<PyAny>, seconds: f64) -> PyResult<Option<Py<PyAny>>> {
    tokio::select! {
        value = cx.awaiting(|py| make.bind(py).call0()) => value.map(Some),
        () = cx.sleep(Duration::from_secs_f64(seconds)) => Ok(None),
    }
}

#[function]
async fn sleeps(cx: Cx, seconds: f64) {
    cx.sleep(Duration::from_secs_f64(seconds)).await;
}

/// A future of Tokio, which its threads run.
#[function]
async fn spawned(seconds: f64, number: u64) -> PyResult<u64> {
    let task = RUNTIME.spawn(async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        assert!(number > 0, "not a number to double");
        number * 2
    });
    task.await
        .map_err(|error| PyValueError::new_err(error.is_panic().to_string()))
}

/// A call of Python, then Tokio, then Python again, then both.
#[function]
async fn mixed(cx: Cx, make: Py<PyAny>) -> PyResult<u64> {
    let mut sum = 0;
    for _ in 0..3 {
        let value = cx.awaiting(|py| make.bind(py).call0()).await?;
        sum += Python::attach(|py| value.extract::<u64>(py))?;
        sum += RUNTIME.spawn(async { 10 }).await.unwrap();
    }
    let (value, number) = tokio::join!(
        cx.awaiting(|py| make.bind(py).call0()),
        RUNTIME.spawn(async { 100 })
    );
    Ok(sum + number.unwrap() + Python::attach(|py| value?.extract::<u64>(py))?)
}

struct Guard(Py<PyAny>);

impl Drop for Guard {
    fn drop(&mut self) {
        Python::attach(|py| self.0.call_method1(py, "append", ("dropped",)).unwrap());
    }
}

/// Waits for ever; the list gets an item when the future is dropped.
#[function]
async fn for_ever(list: Py<PyAny>) {
    let _guard = Guard(list);
    pending::<()>().await;
}

#[function]
async fn guarded(cx: Cx, list: Py<PyAny>, make: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let _guard = Guard(list);
    cx.awaiting(|py| make.bind(py).call0()).await
}

/// Is told of a cancellation, takes some time, and raises it unless `suppress`.
#[function]
async fn told(cx: Cx, list: Py<PyAny>, suppress: bool) -> PyResult<String> {
    let error = cx.on_cancel().await;
    let text = Python::attach(|py| -> PyResult<String> {
        list.call_method1(py, "append", ("told",))?;
        Ok(error.value(py).to_string())
    })?;
    cx.sleep(Duration::from_millis(1)).await;
    if suppress {
        return Ok(text);
    }
    Err(error)
}

#[function]
async fn panics(cx: Cx, text: String, late: bool) {
    if late {
        cx.sleep(Duration::from_millis(1)).await;
    }
    panic!("{text}");
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in a destructor");
    }
}

#[function]
async fn bomb() {
    let _bomb = Bomb;
    pending::<()>().await;
}

/// Wakes itself that many times.
#[function]
async fn yields(times: usize) -> usize {
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(times);
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Threads count and wake; gives how often the future was polled.
#[function]
async fn counts(threads: usize, wakes: usize) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let mut polls = 0;
    let mut is_started = false;
    poll_fn(|cx| {
        polls += 1;
        if !is_started {
            is_started = true;
            for _ in 0..threads {
                let (count, waker) = (count.clone(), cx.waker().clone());
                thread::spawn(move || {
                    for _ in 0..wakes {
                        count.fetch_add(1, Ordering::SeqCst);
                        waker.wake_by_ref();
                    }
                });
            }
        }
        if count.load(Ordering::SeqCst) == threads * wakes {
            Poll::Ready(polls)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Threads wake until the process ends.
#[function]
async fn woken_for_ever(threads: usize) {
    let mut is_started = false;
    poll_fn(|cx| {
        if !is_started {
            is_started = true;
            for _ in 0..threads {
                let waker: Waker = cx.waker().clone();
                thread::spawn(move || loop {
                    waker.wake_by_ref();
                    drop(waker.clone());
                });
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

/// A result of a thread pool that comes after that time.
#[function]
async fn pooled(milliseconds: u64) -> PyResult<()> {
    let task = RUNTIME.spawn_blocking(move || thread::sleep(Duration::from_millis(milliseconds)));
    task.await
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A thread finishes a future, for the benchmark.
#[function]
async fn by_a_thread() -> u64 {
    RUNTIME.spawn(async { 7 }).await.unwrap()
}

#[function]
async fn nothing() {}

#[function]
async fn fails() -> PyResult<()> {
    Err(PyLookupError::new_err("on purpose"))
}

#[function]
#[pyo3(name = "renamed", signature = (a, b = 2, *rest, **more))]
async fn other_name(
    a: u64,
    b: u64,
    rest: Vec<u64>,
    more: Option<std::collections::BTreeMap<String, u64>>,
) -> u64 {
    a + b + rest.iter().sum::<u64>() + more.iter().flat_map(|it| it.values()).sum::<u64>()
}

#[pyclass(frozen)]
struct Counter {
    step: u64,
}

#[methods]
impl Counter {
    #[new]
    fn new(step: u64) -> Self {
        Self { step }
    }

    #[getter]
    fn step(&self) -> u64 {
        self.step
    }

    /// Count on.
    #[pyo3(signature = (number, times = 1))]
    async fn count(&self, cx: Cx, number: u64, times: u64) -> u64 {
        cx.sleep(Duration::ZERO).await;
        number + times * self.step
    }

    /// The object itself.
    #[pyo3(name = "me")]
    async fn itself(slf: Py<Self>) -> Py<Self> {
        slf
    }
}

/// A function that is not async gives a coroutine.
#[pyfunction]
fn made(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyAny>> {
    into_awaitable(py, c"async_functions.made", async move {
        RUNTIME
            .spawn(async move { number + 1 })
            .await
            .map_err(|error| PyValueError::new_err(error.to_string()))
    })
}

/// Nobody's coroutine awaits it.
#[pyfunction]
fn outside(object: Py<PyAny>) -> PyResult<Py<PyAny>> {
    RUNTIME.block_on(await_py(object))
}

#[pymodule]
fn async_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_functions!(
        module,
        relay,
        given,
        retry,
        joined,
        try_joined,
        unordered,
        within,
        sleeps,
        spawned,
        mixed,
        for_ever,
        guarded,
        told,
        panics,
        bomb,
        yields,
        counts,
        woken_for_ever,
        pooled,
        by_a_thread,
        nothing,
        fails,
        other_name,
    )?;
    add_class::<Counter>(module)?;
    module.add_function(wrap_pyfunction!(made, module)?)?;
    module.add_function(wrap_pyfunction!(outside, module)?)
}
