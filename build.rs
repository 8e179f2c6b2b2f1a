//! Makes the configuration flags of PyO3, such as `Py_GIL_DISABLED`, known to this crate, and sets how it is linked.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "linux") {
        // libunwind of other processes, as in py-spy, finds the code's frames only if its segment begins on a page of
        // the file, as GNU's linker lays it out; Rust's own linker saves that space.
        println!("cargo::rustc-link-arg-cdylib=-Wl,-z,separate-code");
    }
}
