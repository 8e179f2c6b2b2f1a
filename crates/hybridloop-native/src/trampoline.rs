//! Calls of plain C functions, whose types are known only at run time.

use std::ffi::c_void;

use libffi::middle::{Arg as FfiArg, Cif, CodePtr, Type as Ffi};

use crate::signature::{Scalar, Signature, Type};
use crate::value::{Arg, Value};

/// How to call a function.
pub(crate) struct Trampoline {
    cif: Cif,
    code: CodePtr,
    params: Vec<Type>,
    result: Type,
    /// What it is given after the arguments.
    data: Option<*const c_void>,
}

/// An argument in its place in memory.
#[repr(C)]
union Slot {
    i8: i8,
    i16: i16,
    i32: i32,
    i64: i64,
    f32: f32,
    f64: f64,
    pointer: *const c_void,
}

fn ffi(scalar: Scalar) -> Ffi {
    match scalar {
        Scalar::Bool | Scalar::U8 => Ffi::u8(),
        Scalar::I8 => Ffi::i8(),
        Scalar::I16 => Ffi::i16(),
        Scalar::I32 => Ffi::i32(),
        Scalar::I64 => Ffi::i64(),
        Scalar::U16 => Ffi::u16(),
        Scalar::U32 => Ffi::u32(),
        Scalar::U64 => Ffi::u64(),
        Scalar::F32 => Ffi::f32(),
        Scalar::F64 => Ffi::f64(),
    }
}

// SAFETY: made once, and libffi only reads it for a call; the data is the function's, which any thread may call.
unsafe impl Send for Trampoline {}
// SAFETY: as above.
unsafe impl Sync for Trampoline {}

impl Trampoline {
    /// How to call the function at an address. `data` is passed after what the signature says.
    pub fn new(
        address: *const c_void,
        signature: &Signature,
        data: Option<*const c_void>,
    ) -> Result<Self, String> {
        let mut types = Vec::new();
        for param in &signature.params {
            types.push(match param.ty {
                Type::Scalar(scalar) => ffi(scalar),
                Type::Pointer(_) => Ffi::pointer(),
                other => {
                    let name = &param.name;
                    return Err(format!("'{name}': a plain function cannot take {other}"));
                }
            });
        }
        types.extend(data.map(|_| Ffi::pointer()));
        let result = match signature.result {
            Type::None => Ffi::void(),
            Type::Scalar(scalar) => ffi(scalar),
            other => return Err(format!("the result of a plain function cannot be {other}")),
        };
        Ok(Self {
            cif: Cif::new(types, result),
            code: CodePtr::from_ptr(address),
            params: signature.params.iter().map(|param| param.ty).collect(),
            result: signature.result,
            data,
        })
    }

    /// Calls the function; `None` if the arguments are not what the signature says.
    ///
    /// # Safety
    /// The function is what the signature says, and buffers are valid for it.
    pub unsafe fn call(&self, args: &[Arg]) -> Option<Value> {
        if args.len() != self.params.len() {
            return None;
        }
        let slots = self
            .params
            .iter()
            .zip(args)
            .map(|(ty, arg)| slot(*ty, arg))
            .chain(self.data.map(|pointer| Some(Slot { pointer })))
            .collect::<Option<Vec<_>>>()?;
        let places: Vec<FfiArg<'_>> = slots.iter().map(FfiArg::new).collect();
        // SAFETY: as the caller promises; each place holds a value of the parameter's type.
        Some(unsafe {
            match self.result {
                Type::Scalar(Scalar::Bool) => {
                    Value::Bool(self.cif.call::<u8>(self.code, &places) != 0)
                }
                Type::Scalar(Scalar::I8) => {
                    Value::Int(self.cif.call::<i8>(self.code, &places).into())
                }
                Type::Scalar(Scalar::I16) => {
                    Value::Int(self.cif.call::<i16>(self.code, &places).into())
                }
                Type::Scalar(Scalar::I32) => {
                    Value::Int(self.cif.call::<i32>(self.code, &places).into())
                }
                Type::Scalar(Scalar::I64) => Value::Int(self.cif.call(self.code, &places)),
                Type::Scalar(Scalar::U8) => {
                    Value::UInt(self.cif.call::<u8>(self.code, &places).into())
                }
                Type::Scalar(Scalar::U16) => {
                    Value::UInt(self.cif.call::<u16>(self.code, &places).into())
                }
                Type::Scalar(Scalar::U32) => {
                    Value::UInt(self.cif.call::<u32>(self.code, &places).into())
                }
                Type::Scalar(Scalar::U64) => Value::UInt(self.cif.call(self.code, &places)),
                Type::Scalar(Scalar::F32) => {
                    Value::Float(self.cif.call::<f32>(self.code, &places).into())
                }
                Type::Scalar(Scalar::F64) => Value::Float(self.cif.call(self.code, &places)),
                _ => {
                    self.cif.call::<()>(self.code, &places);
                    Value::None
                }
            }
        })
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "ranges were checked when the job was submitted"
)]
fn slot(ty: Type, arg: &Arg) -> Option<Slot> {
    let integer = match arg {
        Arg::Bool(value) => i64::from(*value),
        Arg::Int(value) => *value,
        Arg::UInt(value) => *value as i64,
        _ => 0,
    };
    let float = match arg {
        Arg::Float(value) => *value,
        Arg::UInt(value) => *value as f64,
        _ => integer as f64,
    };
    let is_number = matches!(arg, Arg::Bool(_) | Arg::Int(_) | Arg::UInt(_));
    Some(match ty {
        Type::Scalar(Scalar::F32) if is_number || matches!(arg, Arg::Float(_)) => {
            Slot { f32: float as f32 }
        }
        Type::Scalar(Scalar::F64) if is_number || matches!(arg, Arg::Float(_)) => {
            Slot { f64: float }
        }
        Type::Scalar(scalar) if is_number => match scalar.size() {
            1 => Slot { i8: integer as i8 },
            2 => Slot {
                i16: integer as i16,
            },
            4 => Slot {
                i32: integer as i32,
            },
            _ => Slot { i64: integer },
        },
        Type::Pointer(_) => Slot {
            pointer: match arg {
                Arg::Buffer(buffer) => buffer.as_ptr().cast(),
                Arg::View(view) => view.as_ptr().cast(),
                Arg::None => std::ptr::null(),
                _ => return None,
            },
        },
        _ => return None,
    })
}
