//! Heap types with a native layout, which may derive from a class of asyncio.

use std::ffi::{c_int, c_void, CStr};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::python::refs::Ref;
use crate::python::vectorcall::FfiResult;

/// Collects the slots of a type.
#[derive(Default)]
pub struct Slots(Vec<ffi::PyType_Slot>);

impl Slots {
    pub fn add(mut self, slot: c_int, value: *mut c_void) -> Self {
        self.0.push(ffi::PyType_Slot { slot, pfunc: value });
        self
    }

    /// Adds a table of methods, attributes or members. It is leaked, because types are never freed.
    pub fn table<T>(self, slot: c_int, mut table: Vec<T>, end: T) -> Self {
        table.push(end);
        self.add(slot, Vec::leak(table).as_mut_ptr().cast())
    }

    /// Makes the type. Python code cannot instantiate it.
    ///
    /// # Safety
    /// `size` and the slots describe objects that begin with the fields of `base`.
    pub unsafe fn build(
        mut self,
        py: Python<'_>,
        name: &'static CStr,
        size: usize,
        flags: std::ffi::c_ulong,
        base: Option<&Bound<'_, PyType>>,
    ) -> PyResult<Ref> {
        self.0.push(ffi::PyType_Slot {
            slot: 0,
            pfunc: std::ptr::null_mut(),
        });
        let mut spec = ffi::PyType_Spec {
            name: name.as_ptr(),
            basicsize: c_int::try_from(size)?,
            itemsize: 0,
            flags: u32::try_from(
                flags
                    | ffi::Py_TPFLAGS_DEFAULT
                    | ffi::Py_TPFLAGS_HAVE_GC
                    | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION,
            )?,
            slots: self.0.as_mut_ptr(),
        };
        let bases = base
            .map(|base| pyo3::types::PyTuple::new(py, [base]))
            .transpose()?;
        let bases = bases.as_ref().map_or(std::ptr::null_mut(), Bound::as_ptr);
        // SAFETY: spec and slots are complete and outlive the call, and CPython copies them. The caller guarantees size and
        // slots.
        let class: FfiResult<Ref> =
            unsafe { Ref::new(ffi::PyType_FromSpecWithBases(&raw mut spec, bases)) };
        Ok(class?)
    }
}

/// One read-only (or, with a setter, writable) attribute.
pub fn getset(name: &'static CStr, get: ffi::getter, set: Option<ffi::setter>) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(get),
        set,
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    }
}

/// The end of a table of attributes.
pub fn getset_end() -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: std::ptr::null(),
        get: None,
        set: None,
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    }
}

/// The end of a table of methods.
pub fn method_end() -> ffi::PyMethodDef {
    ffi::PyMethodDef::zeroed()
}
