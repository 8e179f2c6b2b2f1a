//! No crate depends on Python.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn python_is_not_a_dependency() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    for package in [
        "hybridloop-kernels",
        "hybridloop-kernel",
        "hybridloop-reactor",
        "hybridloop-sync",
    ] {
        let output = Command::new(&cargo)
            .args([
                "tree",
                "--locked",
                "--edges",
                "all",
                "--prefix",
                "none",
                "--package",
                package,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && tree.contains(package), "{tree}");
        assert!(
            !tree.to_lowercase().contains("pyo3") && !tree.contains("python"),
            "{tree}"
        );
    }
}
