//! Signatures: `"f64([f64] values, i64 start = 0)"`, or in C's words `"double(double *, size_t)"`.

mod parse;
mod types;

use parse::Parser;
pub use types::{Scalar, Type};

use crate::error::{ArgumentError, ArgumentErrorKind};
use crate::value::Arg;

/// A parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name; `arg0` and so on if it has none.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Whether the kernel writes to it.
    pub out: bool,
    /// Whether it may be None.
    pub optional: bool,
    /// What it is when it is left out.
    pub default: Option<Arg>,
}

/// What a kernel takes and gives.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The result.
    pub result: Type,
    /// The parameters.
    pub params: Vec<Param>,
}

impl Signature {
    /// Reads a signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let (result, ..) = parser.ty()?;
        parser.expect("(")?;
        let mut params: Vec<Param> = Vec::new();
        while !parser.take(")") {
            if !params.is_empty() {
                parser.expect(",")?;
            }
            let param = parser.param(params.len())?;
            if param.ty == Type::None {
                if params.is_empty() && parser.take(")") {
                    break;
                }
                return Err("a parameter cannot be void".into());
            }
            if param.default.is_none() && params.last().is_some_and(|last| last.default.is_some()) {
                return Err(format!(
                    "'{}' needs a default, since the one before has one",
                    param.name
                ));
            }
            params.push(param);
        }
        if !parser.rest.is_empty() {
            return Err(format!("unexpected {:?} at the end", parser.rest));
        }
        Ok(Self { result, params })
    }

    /// What is left for callers, as text too, of a function that gets data of its own by its last parameter.
    ///
    /// # Errors
    /// That the last parameter is no `void*`.
    pub(crate) fn without_data(mut self, text: &str) -> Result<(Self, String), String> {
        match self.params.pop() {
            Some(last) if last.ty == Type::Pointer(None) => {}
            _ => return Err("the last parameter has to be a void*, for the user data".into()),
        }
        // There is no comma within a parameter of this type.
        let end = text.rfind(if self.params.is_empty() { '(' } else { ',' });
        let end = end.map_or(0, |end| end + usize::from(self.params.is_empty()));
        let text = format!("{})", text[..end].trim_end());
        Ok((self, text))
    }

    /// The place of the parameter that `out=` goes to: the only one that is written to.
    pub fn out_index(&self) -> Option<usize> {
        let mut places = self
            .params
            .iter()
            .enumerate()
            .filter(|(_, param)| param.out);
        let (index, _) = places.next()?;
        places.next().is_none().then_some(index)
    }

    /// Puts `out` in its place, fills in what is left out, and checks each argument.
    ///
    /// # Errors
    /// [`ArgumentError`], which names the argument.
    pub fn bind(
        &self,
        kernel: &str,
        args: &mut Vec<Arg>,
        out: Option<Arg>,
    ) -> Result<(), ArgumentError> {
        let error = |message| ArgumentError {
            kind: ArgumentErrorKind::Type,
            message,
        };
        if let Some(out) = out {
            match self.out_index() {
                Some(index) if index <= args.len() => args.insert(index, out),
                Some(index) => {
                    return Err(error(format!(
                        "{kernel}(): {index} arguments have to come before out="
                    )));
                }
                None => {
                    return Err(error(format!(
                        "{kernel}() has no single parameter for out="
                    )))
                }
            }
        }
        if args.len() > self.params.len() {
            let (most, given) = (self.params.len(), args.len());
            return Err(error(format!(
                "{kernel}() takes at most {most} argument{}, got {given}",
                if most == 1 { "" } else { "s" }
            )));
        }
        for param in &self.params[args.len()..] {
            match (&param.default, param.optional) {
                (Some(default), _) => args.push(default.clone()),
                (None, true) => args.push(Arg::None),
                (None, false) => {
                    return Err(error(format!(
                        "{kernel}(): argument '{}' is missing",
                        param.name
                    )));
                }
            }
        }
        for (param, arg) in self.params.iter().zip(args) {
            param.check(kernel, arg)?;
        }
        Ok(())
    }
}

impl Param {
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
                self.check_elements(buffer.format.to_bytes(), buffer.itemsize, buffer.as_ptr())
                    .or_else(|(kind, reason)| fail(kind, reason))
            }
            (Type::Pointer(_) | Type::Slice(_) | Type::Buf, Arg::View(view)) => {
                if self.out {
                    return fail(ArgumentErrorKind::Value, "the buffer is read-only".into());
                }
                self.check_elements(view.format().to_bytes(), view.itemsize(), view.as_ptr())
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
        if !data.addr().is_multiple_of(scalar.size()) {
            return Err((ArgumentErrorKind::Value, "the buffer is not aligned".into()));
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Scalar, Signature, Type};
    use crate::error::ArgumentErrorKind as Kind;
    use crate::value::{Arg, Buffer};

    #[test]
    fn reads_both_spellings() {
        let signature = Signature::parse("i64(f64*, usize n, i32 = -3)").unwrap();
        assert_eq!(signature.result, Type::Scalar(Scalar::I64));
        let c = Signature::parse("long long ( const double *x , size_t n, int level)").unwrap();
        for (a, b) in signature.params.iter().zip(&c.params) {
            assert_eq!((a.ty, a.out), (b.ty, b.out));
        }
        assert_eq!(
            (c.params[0].name.as_str(), signature.params[0].name.as_str()),
            ("x", "arg0")
        );
        assert!(matches!(signature.params[2].default, Some(Arg::Int(-3))));
        let own = Signature::parse(
            "buf(bytes data, out [f32] target, key? key, chan c, any a, str text = \"x\")",
        )
        .unwrap();
        assert_eq!((own.params.len(), own.out_index()), (6, Some(1)));
        assert!(Signature::parse("void(void)").unwrap().params.is_empty());
        assert!(Signature::parse("none()").is_ok());
        let named_as_types =
            Signature::parse("bool(key key, unsigned long str, signed char any)").unwrap();
        assert_eq!(named_as_types.params[0].name, "key");
        assert_eq!(named_as_types.params[1].ty, Type::Scalar(Scalar::U64));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for text in [
            "",
            "f64",
            "f64(",
            "f64(x)",
            "f64(f64,)",
            "f64(f64**)",
            "f64([str])",
            "f64(out i32)",
            "f64() x",
            "f64(void, i32)",
            "f64(i8 x = 300)",
            "f64(i8 x = 1, i8 y)",
            "f64(i32 x = oops)",
            "double double(int)",
            "é(i32)",
            "f64(é)",
        ] {
            assert!(Signature::parse(text).is_err(), "{text}");
        }
    }

    fn bind(signature: &str, args: Vec<Arg>, out: Option<Arg>) -> Result<Vec<Arg>, (Kind, String)> {
        let mut args = args;
        match Signature::parse(signature)
            .unwrap()
            .bind("k", &mut args, out)
        {
            Ok(()) => Ok(args),
            Err(error) => Err((error.kind, error.message)),
        }
    }

    #[test]
    fn binds_and_checks() {
        let data = [0_u64; 4];
        // SAFETY: nothing runs.
        let buffer = unsafe { Buffer::new(0, data.as_ptr().cast(), 32) };
        let mut doubles = buffer.clone();
        (doubles.format, doubles.itemsize) = (c"<d".into(), 8);
        let mut writable = doubles.clone();
        writable.writable = true;
        let arg = |buffer: &Buffer| Arg::Buffer(buffer.clone());

        let bound = bind(
            "f64([f64] a, out [f64] b, i8 n = 5)",
            vec![arg(&doubles)],
            Some(arg(&writable)),
        )
        .unwrap();
        assert!(matches!(
            bound[..],
            [_, Arg::Buffer(Buffer { writable: true, .. }), Arg::Int(5)]
        ));
        let error = |signature, args, out| bind(signature, args, out).unwrap_err();
        let text = |kind, text: &str| (kind, text.to_owned());
        assert_eq!(
            error("f64([f64] a)", vec![arg(&buffer)], None),
            text(
                Kind::Type,
                "k(): argument 'a': expected elements of type f64, got format 'B'"
            )
        );
        assert_eq!(
            error("f64(out [f64] a)", vec![arg(&doubles)], None),
            text(Kind::Value, "k(): argument 'a': the buffer is read-only")
        );
        let mut strided = doubles.clone();
        strided.contiguous = false;
        assert_eq!(
            error("f64(f64* a)", vec![arg(&strided)], None),
            text(
                Kind::Value,
                "k(): argument 'a': the buffer is not C-contiguous"
            )
        );
        assert!(bind("f64(buf a)", vec![arg(&strided)], None).is_ok());
        assert_eq!(
            error("f64(i8 a)", vec![Arg::Int(128)], None).0,
            Kind::Overflow
        );
        assert_eq!(
            error("f64(u64 a)", vec![Arg::Int(-1)], None).0,
            Kind::Overflow
        );
        assert!(bind(
            "f64(u64 a, f32 b, bool c)",
            vec![Arg::UInt(u64::MAX), Arg::Int(1), Arg::Bool(true)],
            None
        )
        .is_ok());
        assert_eq!(
            error("f64(i8 a)", vec![Arg::Float(1.0)], None),
            text(Kind::Type, "k(): argument 'a': expected i8, got float")
        );
        assert_eq!(
            error("f64(i8 a)", vec![], None),
            text(Kind::Type, "k(): argument 'a' is missing")
        );
        assert_eq!(
            error("f64(i8 a)", vec![Arg::None, Arg::None], None),
            text(Kind::Type, "k() takes at most 1 argument, got 2")
        );
        assert_eq!(
            error("f64(i8 a)", vec![], Some(Arg::None)).1,
            "k() has no single parameter for out="
        );
        // SAFETY: nothing runs.
        let mut skewed = unsafe { Buffer::new(0, data.as_ptr().cast::<u8>().wrapping_add(1), 8) };
        (skewed.format, skewed.itemsize) = (c"d".into(), 8);
        assert_eq!(
            error("f64(f64* a)", vec![arg(&skewed)], None).1,
            "k(): argument 'a': the buffer is not aligned"
        );
    }
}
