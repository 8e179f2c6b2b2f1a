//! Values that are made on first use, in a way that survives `fork()`.

use std::sync::OnceLock;

use pyo3::panic::PanicException;
use pyo3::prelude::*;

use crate::python::coroutine::CoroutineWrapper;

/// Makes the types that PyO3 would make on first use, in a `PyOnceLock`.
pub fn make_lazy_types(py: Python<'_>) {
    py.get_type::<PanicException>();
    py.get_type::<CoroutineWrapper>();
}

/// The value of `cell`, made now if it is empty.
///
/// `PyOnceLock`, `intern!` and `OnceLock::get_or_init` lock the cell while they make the value, or give the interpreter away with
/// the cell locked. If another thread forks then, the child waits for ever for a thread that it does not have. Here the cell is
/// not locked while `make` runs: threads may make several values, of which the first is kept.
pub fn get_or_try_set<T, E>(
    cell: &OnceLock<T>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<&T, E> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_kept() {
        let cell = OnceLock::new();
        assert_eq!(get_or_try_set(&cell, || Err("no")), Err("no"));
        // Another thread is faster.
        let made = get_or_try_set(&cell, || cell.set(1).map(|()| 2));
        assert_eq!(made, Ok(&1));
        assert_eq!(get_or_try_set(&cell, || Ok::<_, ()>(3)), Ok(&1));
    }
}
