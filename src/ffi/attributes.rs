//! Attributes of instances of plain Python classes, read without a look-up.
//!
//! Since Python 3.13 such an instance keeps its attributes in an array behind it, in the order in which the first
//! instance of its class got them. Where each one is shows by looking at an instance whose attributes are known; if that
//! does not give one clear answer, or an instance keeps its attributes elsewhere, they are looked up as usual.

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::fastcall::{Raised, Res};
use super::refs::Ref;

/// The name of an attribute, and where it is.
pub struct Attribute {
    name: Ref,
    /// Bytes from the start of the instance.
    offset: Option<usize>,
}

impl Attribute {
    /// Finds `N` attributes by looking at `sample`, an instance of their class that nobody else uses.
    pub fn find<const N: usize>(
        sample: &Bound<'_, PyAny>,
        names: [&'static str; N],
    ) -> PyResult<[Self; N]> {
        let py = sample.py();
        let mut found = Vec::with_capacity(N);
        for name in names {
            let name = pyo3::types::PyString::intern(py, name);
            let marker = py.import("builtins")?.getattr("object")?.call0()?;
            // Every instance has it from the start.
            sample.getattr(&name)?;
            sample.setattr(&name, &marker)?;
            let offset = inline::offset_of(sample, &marker);
            found.push(Self {
                name: name.into(),
                offset,
            });
        }
        found
            .try_into()
            .map_err(|_| pyo3::exceptions::PySystemError::new_err("attributes"))
    }

    /// `object.name`. `object` is of exactly the class of the sample.
    #[inline]
    pub fn get(&self, object: &Ref) -> Res<Ref> {
        if let Some(value) = self
            .offset
            .and_then(|offset| inline::read(object.as_ptr(), offset))
        {
            return Ok(value);
        }
        // SAFETY: attached; a new reference or an error.
        unsafe { Ref::new(ffi::PyObject_GetAttr(object.as_ptr(), self.name.as_ptr())) }
    }

    /// Whether `object` certainly has the attribute.
    #[inline]
    pub fn is_set(&self, object: &Ref) -> bool {
        self.offset
            .is_some_and(|offset| inline::read(object.as_ptr(), offset).is_some())
    }

    /// `object.name = value`.
    pub fn set(&self, object: &Ref, value: *mut PyObject) -> Res<()> {
        // SAFETY: attached; the value is live.
        if unsafe { ffi::PyObject_SetAttr(object.as_ptr(), self.name.as_ptr(), value) } != 0 {
            return Err(Raised);
        }
        Ok(())
    }
}

/// How many attributes `object` has, if that can be told without a look-up.
#[inline]
pub fn count(object: &Ref) -> Option<u8> {
    inline::count(object.as_ptr())
}

#[cfg(all(Py_3_13, not(Py_3_14), not(Py_GIL_DISABLED)))]
mod inline {
    use pyo3::ffi::{self, PyObject};
    use pyo3::prelude::*;

    use crate::ffi::Ref;

    /// In front of the array: how many values fit, how many there are, whether they are part of the instance, and
    /// whether they are in use.
    const HEADER: usize = 8;
    const COUNT: usize = 1;
    const VALID: usize = 3;
    /// `Py_TPFLAGS_INLINE_VALUES`
    const INLINE_VALUES: std::ffi::c_ulong = 1 << 2;

    #[inline]
    unsafe fn header(object: *mut PyObject) -> Option<*const u8> {
        // SAFETY: the caller's object is live; instances of types with this flag have the array behind them.
        unsafe {
            let ty = ffi::Py_TYPE(object);
            if (*ty).tp_flags & INLINE_VALUES == 0 {
                return None;
            }
            let header = object
                .cast::<u8>()
                .add((*ty).tp_basicsize.unsigned_abs())
                .cast_const();
            (*header.add(VALID) == 1).then_some(header)
        }
    }

    pub fn offset_of(object: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Option<usize> {
        // SAFETY: the array has as many words as its first byte says.
        unsafe {
            let header = header(object.as_ptr())?;
            #[allow(clippy::cast_ptr_alignment)]
            let values = header.add(HEADER).cast::<*mut PyObject>();
            let at = (0..usize::from(*header)).find(|&at| *values.add(at) == value.as_ptr())?;
            Some(values.add(at) as usize - object.as_ptr() as usize)
        }
    }

    #[inline]
    pub fn count(object: *mut PyObject) -> Option<u8> {
        // SAFETY: the object is live.
        unsafe { Some(*header(object)?.add(COUNT)) }
    }

    #[inline]
    pub fn read(object: *mut PyObject, offset: usize) -> Option<Ref> {
        // SAFETY: the offset was found in another instance of the class, and the values are in use here as well.
        unsafe {
            header(object)?;
            let value = *object.byte_add(offset).cast::<*mut PyObject>();
            (!value.is_null()).then(|| Ref::borrowed(value))
        }
    }
}

#[cfg(not(all(Py_3_13, not(Py_3_14), not(Py_GIL_DISABLED))))]
mod inline {
    use pyo3::ffi::PyObject;
    use pyo3::prelude::*;

    use crate::ffi::Ref;

    pub fn offset_of(_: &Bound<'_, PyAny>, _: &Bound<'_, PyAny>) -> Option<usize> {
        None
    }

    pub fn count(_: *mut PyObject) -> Option<u8> {
        None
    }

    pub fn read(_: *mut PyObject, _: usize) -> Option<Ref> {
        None
    }
}
