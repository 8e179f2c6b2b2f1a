//! Calls of plain C functions, whose types are known only at run time.
//!
//! The calling conventions of x86-64 (System V) and of `AArch64` fill integer and floating-point registers independently of
//! each other, and put what is left on the stack in the order of the parameters. So one function type, with every register
//! and a number of words on the stack, serves for all signatures of scalars and pointers: a function reads those places
//! that its own type names.

use std::ffi::c_void;

use crate::arg::Arg;
use crate::registry::signature::{Scalar, Signature, Type};
use crate::value::Value;

/// Registers that hold integers and pointers.
#[cfg(target_arch = "x86_64")]
const INTEGER_REGISTERS: usize = 6;
#[cfg(not(target_arch = "x86_64"))]
const INTEGER_REGISTERS: usize = 8;
/// Registers that hold floating-point numbers.
const FLOAT_REGISTERS: usize = 8;
/// Words on the stack at most.
const STACK_WORDS: usize = 32;

/// Whether the calling convention is one of the two above.
const IS_SUPPORTED: bool = cfg!(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(windows)
));
/// Apple's convention packs arguments on the stack by their own size; elsewhere each takes a word.
const PACKS_STACK: bool = cfg!(all(target_vendor = "apple", target_arch = "aarch64"));

/// Calls a plain C function.
pub(crate) struct Trampoline {
    code: *const c_void,
    params: Vec<Type>,
    result: Type,
    /// Passed after the arguments.
    data: Option<*const c_void>,
}

// SAFETY: the caller of `Kernel::from_address_with_data` upholds that any thread may call the function with its data.
unsafe impl Send for Trampoline {}
// SAFETY: a trampoline does not change, and each call has places of its own.
unsafe impl Sync for Trampoline {}

/// The registers and the stack for the arguments of a call.
#[derive(Default)]
struct Places {
    integers: [u64; INTEGER_REGISTERS],
    floats: [f64; FLOAT_REGISTERS],
    stack: [u64; STACK_WORDS],
    integer_count: usize,
    float_count: usize,
    /// Bytes used on the stack.
    stack_size: usize,
}

/// An argument as the bits of its register.
enum Place {
    Integer(u64),
    Float(u64),
}

impl Places {
    /// Adds the next argument, of `size` bytes; `None` if no place is left.
    fn push(&mut self, place: &Place, size: usize) -> Option<()> {
        let bits = match *place {
            Place::Integer(bits) if self.integer_count < INTEGER_REGISTERS => {
                self.integers[self.integer_count] = bits;
                self.integer_count += 1;
                return Some(());
            }
            Place::Float(bits) if self.float_count < FLOAT_REGISTERS => {
                self.floats[self.float_count] = f64::from_bits(bits);
                self.float_count += 1;
                return Some(());
            }
            Place::Integer(bits) | Place::Float(bits) => bits,
        };
        let size = if PACKS_STACK { size } else { 8 };
        let at = self.stack_size.next_multiple_of(size);
        let word = self.stack.get_mut(at / 8)?;
        *word |= bits << (8 * (at % 8));
        self.stack_size = at + size;
        Some(())
    }
}

/// Calls `$code` as a function that returns `$result`, with `$n` words on the stack.
macro_rules! call {
    (@type $result:ty, [$($integer:tt)*] [$($float:tt)*] [$($stack:tt)*]) => {
        unsafe extern "C" fn(
            $(call!(@is $integer u64),)* $(call!(@is $float f64),)* $(call!(@is $stack u64),)*
        ) -> $result
    };
    (@is $place:tt $ty:ty) => { $ty };
    (@with $code:expr, $result:ty, $places:expr, [$($integer:tt)*] [$($float:tt)*] [$($stack:tt)*]) => {{
        type Function = call!(@type $result, [$($integer)*] [$($float)*] [$($stack)*]);
        // SAFETY: on the supported systems function pointers are data pointers, and `$code` is the address of a function.
        let function = unsafe { std::mem::transmute::<*const c_void, Function>($code) };
        // SAFETY: the caller of `Trampoline::call` upholds that the function has the signature. So every place that the
        // function reads has been filled with a value of the type that it expects.
        unsafe {
            function(
                $($places.integers[$integer],)*
                $($places.floats[$float],)*
                $($places.stack[$stack],)*
            )
        }
    }};
    ($code:expr, $result:ty, $places:expr, $($stack:tt)*) => {{
        #[cfg(target_arch = "x86_64")]
        { call!(@with $code, $result, $places, [0 1 2 3 4 5] [0 1 2 3 4 5 6 7] [$($stack)*]) }
        #[cfg(not(target_arch = "x86_64"))]
        { call!(@with $code, $result, $places, [0 1 2 3 4 5 6 7] [0 1 2 3 4 5 6 7] [$($stack)*]) }
    }};
}

/// Calls a function that returns `$result`.
macro_rules! returning {
    ($code:expr, $result:ty, $places:expr) => {
        match $places.stack_size {
            0 => call!($code, $result, $places,),
            1..=64 => call!($code, $result, $places, 0 1 2 3 4 5 6 7),
            _ => call!(
                $code, $result, $places,
                0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            ),
        }
    };
}

impl Trampoline {
    /// A trampoline to the function at an address. `data` is passed after the parameters of the signature.
    pub fn new(
        address: *const c_void,
        signature: &Signature,
        data: Option<*const c_void>,
    ) -> Result<Self, String> {
        if !IS_SUPPORTED {
            return Err(
                "plain functions cannot be called on this processor; export a kernel (hybridloop.h)"
                    .into(),
            );
        }
        let mut places = Places::default();
        for param in &signature.params {
            let name = &param.name;
            let (place, size) = match param.ty {
                Type::Scalar(scalar @ (Scalar::F32 | Scalar::F64)) => {
                    (Place::Float(0), scalar.size())
                }
                Type::Scalar(scalar) => (Place::Integer(0), scalar.size()),
                Type::Pointer(_) => (Place::Integer(0), size_of::<usize>()),
                other => return Err(format!("'{name}': a plain function cannot take {other}")),
            };
            places
                .push(&place, size)
                .ok_or_else(|| too_many(signature.params.len()))?;
        }
        if data.is_some() {
            places
                .push(&Place::Integer(0), size_of::<usize>())
                .ok_or_else(|| too_many(signature.params.len()))?;
        }
        if !matches!(signature.result, Type::None | Type::Scalar(_)) {
            let result = signature.result;
            return Err(format!("the result of a plain function cannot be {result}"));
        }
        Ok(Self {
            code: address,
            params: signature.params.iter().map(|param| param.ty).collect(),
            result: signature.result,
            data,
        })
    }

    /// Calls the function; `None` if the arguments do not match the signature.
    ///
    /// # Safety
    /// The function has the signature that was given to [`Trampoline::new`], and the buffers are large enough for what it does.
    pub unsafe fn call(&self, args: &[Arg]) -> Option<Value> {
        if args.len() != self.params.len() {
            return None;
        }
        let mut places = Places::default();
        for (&ty, arg) in self.params.iter().zip(args) {
            let (place, size) = place(ty, arg)?;
            places.push(&place, size)?;
        }
        if let Some(data) = self.data {
            places.push(&Place::Integer(data.addr() as u64), size_of::<usize>())?;
        }
        let code = self.code;
        Some(match self.result {
            Type::Scalar(Scalar::F64) => Value::Float(returning!(code, f64, places)),
            Type::Scalar(Scalar::F32) => {
                // The lower half of the register.
                let bits = returning!(code, f64, places).to_bits();
                Value::Float(f32::from_bits(truncated(bits)).into())
            }
            Type::Scalar(scalar) => integer(scalar, returning!(code, u64, places)),
            _ => {
                returning!(code, (), places);
                Value::None
            }
        })
    }
}

#[cold]
fn too_many(count: usize) -> String {
    format!("{count} parameters are too many for a plain function: {STACK_WORDS} fit on the stack")
}

#[allow(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
fn truncated(bits: u64) -> u32 {
    bits as u32
}

/// The value in a register, whose upper bits say nothing.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the lower bits are the value"
)]
fn integer(scalar: Scalar, register: u64) -> Value {
    match scalar {
        Scalar::Bool => Value::Bool(register as u8 != 0),
        Scalar::I8 => Value::Int((register as i8).into()),
        Scalar::I16 => Value::Int((register as i16).into()),
        Scalar::I32 => Value::Int((register as i32).into()),
        Scalar::U8 => Value::UInt((register as u8).into()),
        Scalar::U16 => Value::UInt((register as u16).into()),
        Scalar::U32 => Value::UInt((register as u32).into()),
        Scalar::U64 => Value::UInt(register),
        Scalar::I64 | Scalar::F32 | Scalar::F64 => Value::Int(register as i64),
    }
}

/// An argument, which has the form of its type, in its register, and its size in bytes. Integers are extended to the whole register, as some compilers
/// expect.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "ranges were checked when the job was submitted"
)]
fn place(ty: Type, arg: &Arg) -> Option<(Place, usize)> {
    let scalar = match ty {
        Type::Scalar(scalar) => scalar,
        Type::Pointer(_) => {
            let address = match arg {
                Arg::Buffer(buffer) => buffer.as_ptr() as u64,
                Arg::View(view) => view.as_ptr() as u64,
                Arg::None => 0,
                _ => return None,
            };
            return Some((Place::Integer(address), size_of::<usize>()));
        }
        _ => return None,
    };
    let bits = match (scalar, arg) {
        (Scalar::F32, Arg::Float(value)) => u64::from((*value as f32).to_bits()),
        (Scalar::F64, Arg::Float(value)) => value.to_bits(),
        (_, Arg::Bool(value)) => u64::from(*value),
        (_, Arg::Int(value)) => *value as u64,
        (_, Arg::UInt(value)) => *value,
        _ => return None,
    };
    let place = match scalar {
        Scalar::F32 | Scalar::F64 => Place::Float(bits),
        Scalar::Bool => Place::Integer(u64::from(bits != 0)),
        Scalar::I8 => Place::Integer(bits as i8 as u64),
        Scalar::I16 => Place::Integer(bits as i16 as u64),
        Scalar::I32 => Place::Integer(bits as i32 as u64),
        Scalar::U8 => Place::Integer(u64::from(bits as u8)),
        Scalar::U16 => Place::Integer(u64::from(bits as u16)),
        Scalar::U32 => Place::Integer(u64::from(bits as u32)),
        Scalar::I64 | Scalar::U64 => Place::Integer(bits),
    };
    Some((place, scalar.size()))
}
