//! Types of parameters and results.

use std::fmt;

use crate::arg::Arg;
use crate::value::Value;

/// Numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Scalar {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
}

impl Scalar {
    /// The size in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The least and the greatest integer.
    pub(super) fn range(self) -> (i128, i128) {
        let bits = 8 * self.size();
        if matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64) {
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        }
    }

    /// A number, whose range was checked, in the form of this type: `Bool` for truth values, `Int` for signed integers, `UInt` for
    /// unsigned ones, `Float` with the precision of the type. `None` if it has this form.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "the range was checked; floats are rounded"
    )]
    pub(super) fn convert(self, arg: &Arg) -> Option<Arg> {
        let (is_float, is_signed) = match self {
            Self::Bool => return None,
            Self::F32 | Self::F64 => (true, false),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => (false, true),
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => (false, false),
        };
        if is_float {
            let value = match *arg {
                Arg::Bool(value) => f64::from(u8::from(value)),
                Arg::Int(value) => value as f64,
                Arg::UInt(value) => value as f64,
                Arg::Float(value) => value,
                _ => return None,
            };
            let value = if self == Self::F32 {
                (value as f32).into()
            } else {
                value
            };
            return Some(Arg::Float(value));
        }
        let bits = match *arg {
            Arg::Bool(value) => u64::from(value),
            Arg::Int(value) => value as u64,
            Arg::UInt(value) => value,
            _ => return None,
        };
        Some(if is_signed {
            Arg::Int(bits as i64)
        } else {
            Arg::UInt(bits)
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Whether elements of that format are such numbers. Every buffer consists of bytes.
    pub(super) fn fits(self, format: &[u8], itemsize: usize) -> bool {
        if self.size() == 1 && self != Self::Bool {
            return true;
        }
        let code = match format {
            [b'@' | b'=', code] | [code] => *code,
            [b'<', code] if cfg!(target_endian = "little") => *code,
            [b'>' | b'!', code] if cfg!(target_endian = "big") => *code,
            _ => return false,
        };
        let codes: &[u8] = match self {
            Self::Bool => b"?",
            Self::F32 => b"f",
            Self::F64 => b"d",
            Self::I16 | Self::I32 | Self::I64 | Self::I8 => b"hilqn",
            _ => b"HILQN",
        };
        itemsize == self.size() && codes.contains(&code)
    }
}

/// What a parameter or a result can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Nothing; a result only.
    None,
    /// A number.
    Scalar(Scalar),
    /// The address of numbers, or of anything.
    Pointer(Option<Scalar>),
    /// Contiguous numbers with their count.
    Slice(Scalar),
    /// Any buffer.
    Buf,
    /// Text.
    Str,
    /// A key of the bus.
    Key,
    /// A channel.
    Chan,
    /// Anything.
    Any,
}

impl Type {
    /// The result of a kernel that declares this type, in the form of the type. Only numbers are checked; none may be missing.
    pub(crate) fn convert_result(self, value: Value) -> Result<Value, String> {
        let Self::Scalar(scalar) = self else {
            return Ok(value);
        };
        let arg = match value {
            Value::None => return Ok(value),
            Value::Bool(value) => Arg::Bool(value),
            Value::Int(value) => Arg::Int(value),
            Value::UInt(value) => Arg::UInt(value),
            Value::Float(value) => Arg::Float(value),
            Value::Str(_) => return Err(format!("returned str, and declares {self}")),
            Value::Buffer(_) => return Err(format!("returned a buffer, and declares {self}")),
        };
        let number = match arg {
            Arg::Bool(value) => Some(i128::from(value)),
            Arg::Int(value) => Some(i128::from(value)),
            Arg::UInt(value) => Some(i128::from(value)),
            _ => None,
        };
        match (scalar, number) {
            (Scalar::F32 | Scalar::F64, _) => {}
            (Scalar::Bool, Some(number)) => return Ok(Value::Bool(number != 0)),
            (_, None) => return Err(format!("returned a float, and declares {self}")),
            (_, Some(number)) => {
                let (least, greatest) = scalar.range();
                if !(least..=greatest).contains(&number) {
                    return Err(format!("returned {number}, and declares {self}"));
                }
            }
        }
        Ok(match scalar.convert(&arg) {
            Some(Arg::Int(value)) => Value::Int(value),
            Some(Arg::UInt(value)) => Value::UInt(value),
            Some(Arg::Float(value)) => Value::Float(value),
            _ => value,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Scalar(scalar) => f.write_str(scalar.name()),
            Self::Pointer(None) => f.write_str("void*"),
            Self::Pointer(Some(scalar)) => write!(f, "{}*", scalar.name()),
            Self::Slice(Scalar::U8) => f.write_str("bytes"),
            Self::Slice(scalar) => write!(f, "[{}]", scalar.name()),
            Self::Buf => f.write_str("buf"),
            Self::Str => f.write_str("str"),
            Self::Key => f.write_str("key"),
            Self::Chan => f.write_str("chan"),
            Self::Any => f.write_str("any"),
        }
    }
}
