//! Kernels from libraries, and their names.
#![cfg(all(not(loom), not(miri)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{kernel, library};
use hybridloop_kernels::{find_symbol, load, Kernel, Registry, RegistryError};

#[test]
fn libraries_are_refused_by_name() {
    let path = library("wrong-abi", &["-DWRONG_ABI"]);
    // SAFETY: the library was compiled from the tests' own source.
    let error = unsafe { load(&path) }.unwrap_err();
    assert!(matches!(
        error,
        RegistryError::Abi {
            theirs: 99,
            ours: 1,
            ..
        }
    ));
    assert!(error
        .to_string()
        .ends_with("was built for kernel interface 99, but this is kernel interface 1"));
    // SAFETY: nothing is loaded.
    unsafe {
        assert!(matches!(
            load("/nowhere/nothing.so"),
            Err(RegistryError::Library(_))
        ));
        assert!(matches!(
            find_symbol(Some(path.as_os_str()), "nothing"),
            Err(RegistryError::Symbol(_))
        ));
        assert!(matches!(load("libc.so.6"), Err(RegistryError::Symbol(_))));
        let bad = |signature| {
            Kernel::from_address("x", std::ptr::dangling(), signature, "", None).unwrap_err()
        };
        assert!(bad("f64(str)").to_string().contains("cannot take str"));
        assert!(bad("wat").to_string().contains("bad signature"));
        let null = Kernel::from_address("x", std::ptr::null(), "f64()", "", None);
        assert!(matches!(null, Err(RegistryError::Symbol(_))));
    }
}

#[test]
fn names_are_taken_once() {
    let registry = Registry::new();
    registry.add_all(common::kernels(), false).unwrap();
    assert_eq!(registry.all().len(), 5);
    assert!(registry.get("c.sum").is_some() && registry.get("c.none").is_none());
    assert_eq!(
        registry.add(kernel("c.sum"), false),
        Err(RegistryError::Exists("c.sum".into()))
    );
    registry.add(kernel("c.sum"), true).unwrap();
}
