//! The arrays that kernels take.

use hybridloop_kernel::{Buf, Code, Element, Error};

use crate::builtin::common::CHUNK;

/// Elements processed between two checks for cancellation.
pub(super) const ELEMENTS: usize = CHUNK / 8;

pub(super) trait Float: Element {
    fn wide(self) -> f64;
}

impl Float for f32 {
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Float for f64 {
    fn wide(self) -> f64 {
        self
    }
}

pub(super) enum Floats<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

pub(super) fn floats<'a>(buf: &Buf<'a>) -> Result<Floats<'a>, Error> {
    let found = if buf.itemsize() == 4 {
        buf.elements().map(Floats::F32)
    } else {
        buf.elements().map(Floats::F64)
    };
    found.map_err(|error| match error.code() {
        Code::Type => Error::type_error(format!(
            "expected elements of type f32 or f64, got format {:?}",
            buf.format().to_string_lossy()
        )),
        _ => error,
    })
}
