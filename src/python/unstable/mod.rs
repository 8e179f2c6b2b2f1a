//! Code that depends on private memory layouts of CPython: one file per optimisation.
//!
//! Each file documents what it reads, on which Pythons the tests have run it, its probe at import, and its fallback, which uses
//! public functions only. `docs/architecture/unstable.md` lists the gain of each. An optimisation is on if
//!
//! * `HYBRIDLOOP_SAFE` does not turn it off: `1` turns off all, else it is a list of names separated by commas;
//! * this is one of the Pythons on which the tests run ([`TESTED`]);
//! * its probe at import has found the expected layout.
//!
//! `hybridloop.build_info()` shows which are on.

pub mod bytes_reuse;
pub mod context_vars;
pub mod handle_reuse;
pub mod socket_fd;
pub mod ssl_object;
pub mod stream_reader;
pub mod task_fields;
pub mod type_version;

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The minor versions of CPython 3 on which the tests run.
const TESTED: RangeInclusive<u8> = 11..=15;

/// Decides which optimisations may be used, and probes them.
pub fn init(py: Python<'_>) -> PyResult<()> {
    bytes_reuse::init(py);
    context_vars::init(py)?;
    handle_reuse::init(py);
    socket_fd::init(py);
    ssl_object::init(py);
    stream_reader::init(py);
    type_version::init(py);
    Ok(())
}

/// Whether the optimisation of that name may be used if its probe succeeds.
fn is_allowed(py: Python<'_>, name: &str) -> bool {
    /// The value of `HYBRIDLOOP_SAFE` when the package was imported.
    static SAFE: OnceLock<String> = OnceLock::new();
    let safe = SAFE.get_or_init(|| std::env::var("HYBRIDLOOP_SAFE").unwrap_or_default());
    let is_off = match safe.as_str() {
        "" | "0" => false,
        "1" => true,
        names => names.split(',').any(|other| other.trim() == name),
    };
    !is_off && TESTED.contains(&py.version_info().minor)
}

/// Which optimisations are on.
#[pyfunction]
pub fn _unstable(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let optimisations = PyDict::new(py);
    for (name, is_on) in [
        (bytes_reuse::NAME, bytes_reuse::is_on()),
        (context_vars::NAME, context_vars::is_on()),
        (handle_reuse::NAME, handle_reuse::is_on()),
        (socket_fd::NAME, socket_fd::is_on()),
        (ssl_object::NAME, ssl_object::is_on()),
        (stream_reader::NAME, stream_reader::is_on()),
        (type_version::NAME, type_version::is_on()),
    ] {
        optimisations.set_item(name, is_on)?;
    }
    // It is probed only if it is used.
    if let Some(is_on) = task_fields::is_on() {
        optimisations.set_item(task_fields::NAME, is_on)?;
    }
    Ok(optimisations)
}
