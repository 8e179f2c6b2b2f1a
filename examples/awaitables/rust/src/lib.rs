//! Async functions in Rust: Tokio does the network, in its own threads, and Python's coroutines are awaited in between.

use std::sync::LazyLock;
use std::time::Duration;

use hybridloop_async::{add_functions, function, Cx};
use pyo3::exceptions::{PyConnectionError, PyTimeoutError};
use pyo3::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("Tokio starts")
});

/// Sends a line, and gives the line that is answered.
async fn exchange(port: u16, line: String) -> std::io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

/// Ask the server on that port; after that many seconds, raise TimeoutError.
#[function]
#[pyo3(signature = (port, line, seconds = 10.0))]
async fn ask(cx: Cx, port: u16, line: String, seconds: f64) -> PyResult<String> {
    let task = RUNTIME.spawn(exchange(port, line));
    tokio::select! {
        answer = task => match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(PyConnectionError::new_err(error.to_string())),
        },
        () = cx.sleep(Duration::from_secs_f64(seconds)) => {
            Err(PyTimeoutError::new_err("the server does not answer"))
        }
    }
}

/// Ask for each line that next_line(), a coroutine function, gives, until it gives None.
#[function]
async fn ask_all(cx: Cx, port: u16, next_line: Py<PyAny>) -> PyResult<Vec<String>> {
    let mut answers = Vec::new();
    loop {
        let line = cx.awaiting(|py| next_line.bind(py).call0()).await?;
        let Some(line) = Python::attach(|py| line.extract::<Option<String>>(py))? else {
            return Ok(answers);
        };
        answers.push(ask(cx, port, line, 10.0).await?);
    }
}

#[pymodule]
fn lines(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_functions!(module, ask, ask_all)
}
