//! Makes PyO3's `Py_…` configuration flags known to this crate.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
