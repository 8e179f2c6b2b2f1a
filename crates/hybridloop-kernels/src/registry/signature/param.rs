//! A parameter, and the check of an argument for it.

use std::sync::Arc;

use crate::arg::Arg;
use crate::bus::Key;
use crate::error::{ArgumentError, ArgumentErrorKind, SubmitError};
use crate::memory::limit::MemoryLimit;
use crate::registry::signature::types::{Scalar, Type};

/// A parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name; by default `arg0`, `arg1`, …
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Whether the kernel writes to it.
    pub out: bool,
    /// Whether it may be None.
    pub optional: bool,
    /// The argument if the caller passes none.
    pub default: Option<Arg>,
}

impl Param {
    /// The largest buffer that is copied if it is not aligned. A copy is made by the thread that submits.
    pub const COPIED: usize = 64 << 10;

    /// Checks an argument, and converts it to the form of the type: kernels read that without a look at the kind.
    pub(super) fn convert(&self, kernel: &str, arg: &mut Arg) -> Result<(), ArgumentError> {
        self.check(kernel, arg)?;
        let converted = match (self.ty, &*arg) {
            (Type::Scalar(scalar), Arg::Bool(_) | Arg::Int(_) | Arg::UInt(_) | Arg::Float(_)) => {
                scalar.convert(arg)
            }
            (Type::Key, Arg::Str(text)) => match Key::new(text.as_bytes()) {
                Ok(key) => Some(Arg::Key(key)),
                Err(error) => {
                    return Err(ArgumentError {
                        kind: ArgumentErrorKind::Value,
                        message: format!("{kernel}(): argument '{}': {error}", self.name),
                    })
                }
            },
            _ => None,
        };
        if let Some(converted) = converted {
            *arg = converted;
        }
        Ok(())
    }

    fn check(&self, kernel: &str, arg: &Arg) -> Result<(), ArgumentError> {
        if self.optional && matches!(arg, Arg::None) {
            return Ok(());
        }
        let fail = |kind, reason: String| {
            Err(ArgumentError {
                kind,
                message: format!("{kernel}(): argument '{}': {reason}", self.name),
            })
        };
        let mismatch = || {
            let reason = format!("expected {}, got {}", self.ty, arg.describe());
            fail(ArgumentErrorKind::Type, reason)
        };
        match (self.ty, arg) {
            (Type::Any, _)
            | (Type::Pointer(None), Arg::None)
            | (Type::Scalar(Scalar::Bool), Arg::Bool(_))
            | (Type::Str, Arg::Str(_))
            | (Type::Key, Arg::Key(_) | Arg::Str(_))
            | (Type::Chan, Arg::Channel(_))
            | (
                Type::Scalar(Scalar::F32 | Scalar::F64),
                Arg::Float(_) | Arg::Int(_) | Arg::UInt(_) | Arg::Bool(_),
            ) => Ok(()),
            (Type::Scalar(scalar), Arg::Int(_) | Arg::UInt(_) | Arg::Bool(_))
                if scalar != Scalar::Bool =>
            {
                let value = match arg {
                    Arg::Int(value) => i128::from(*value),
                    Arg::UInt(value) => i128::from(*value),
                    Arg::Bool(value) => i128::from(*value),
                    _ => 0,
                };
                let (least, greatest) = scalar.range();
                if (least..=greatest).contains(&value) {
                    return Ok(());
                }
                let reason = format!("{value} is out of range for {}", scalar.name());
                fail(ArgumentErrorKind::Overflow, reason)
            }
            (Type::Pointer(_) | Type::Slice(_) | Type::Buf, Arg::Buffer(buffer)) => {
                if self.out && !buffer.writable {
                    return fail(ArgumentErrorKind::Value, "the buffer is read-only".into());
                }
                if !buffer.contiguous && self.ty != Type::Buf {
                    return fail(
                        ArgumentErrorKind::Value,
                        "the buffer is not C-contiguous".into(),
                    );
                }
                let format = buffer.format.to_bytes();
                self.check_elements(format, buffer.itemsize, buffer.as_ptr(), buffer.len())
                    .or_else(|(kind, reason)| fail(kind, reason))
            }
            (Type::Pointer(_) | Type::Slice(_) | Type::Buf, Arg::View(view)) => {
                if self.out {
                    return fail(ArgumentErrorKind::Value, "the buffer is read-only".into());
                }
                let format = view.format().to_bytes();
                self.check_elements(format, view.itemsize(), view.as_ptr(), view.len())
                    .or_else(|(kind, reason)| fail(kind, reason))
            }
            _ => mismatch(),
        }
    }

    fn check_elements(
        &self,
        format: &[u8],
        itemsize: usize,
        data: *const u8,
        len: usize,
    ) -> Result<(), (ArgumentErrorKind, String)> {
        let (Type::Pointer(Some(scalar)) | Type::Slice(scalar)) = self.ty else {
            return Ok(());
        };
        if !scalar.fits(format, itemsize) {
            let format = String::from_utf8_lossy(format);
            let reason = format!(
                "expected elements of type {}, got format '{format}'",
                scalar.name()
            );
            return Err((ArgumentErrorKind::Type, reason));
        }
        if data.addr().is_multiple_of(scalar.size()) {
            return Ok(());
        }
        let reason = if self.out {
            "the buffer is not aligned, and the kernel writes to it: pass an aligned one".into()
        } else if len > Self::COPIED {
            let limit = Self::COPIED >> 10;
            format!("the buffer is not aligned, and too large to be copied ({limit} KiB): pass an aligned copy")
        } else {
            return Ok(());
        };
        Err((ArgumentErrorKind::Value, reason))
    }

    /// An aligned copy of an argument that was checked, if the kernel cannot read it where it is; an error if there is no memory.
    pub(crate) fn align(
        &self,
        arg: &Arg,
        memory: &Arc<MemoryLimit>,
    ) -> Result<Option<Arg>, SubmitError> {
        let (data, len, itemsize) = match arg {
            Arg::Buffer(buffer) if buffer.contiguous && !self.out => {
                (buffer.as_ptr(), buffer.len(), buffer.itemsize)
            }
            Arg::View(view) => (view.as_ptr(), view.len(), view.itemsize()),
            _ => return Ok(None),
        };
        let align = match self.ty {
            Type::Pointer(Some(scalar)) | Type::Slice(scalar) => scalar.size(),
            // The kernel checks what it gets, so a large one is passed on as it is.
            Type::Buf if matches!(itemsize, 2 | 4 | 8) && len <= Self::COPIED => itemsize,
            _ => return Ok(None),
        };
        if data.addr().is_multiple_of(align) {
            return Ok(None);
        }
        let copy = match arg {
            Arg::Buffer(buffer) => buffer.copy(memory),
            Arg::View(view) => view.copy(memory),
            _ => None,
        };
        copy.map(|view| Some(Arg::View(view)))
            .ok_or(SubmitError::Memory)
    }
}
