//! Signatures: `"f64([f64] values, i64 start = 0)"`, or in C's words `"double(double *, size_t)"`.

mod param;
mod parse;
mod types;

pub use param::Param;
use parse::Parser;
pub use types::{Scalar, Type};

use crate::arg::Arg;
use crate::error::{ArgumentError, ArgumentErrorKind};

/// The parameters and the result of a kernel.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The result.
    pub result: Type,
    /// The parameters.
    pub params: Vec<Param>,
}

impl Signature {
    /// Parses a signature.
    ///
    /// # Errors
    /// A message that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let (result, ..) = parser.ty()?;
        parser.expect("(")?;
        let mut params: Vec<Param> = Vec::new();
        while !parser.take(")") {
            if !params.is_empty() {
                parser.expect(",")?;
            }
            let (mut param, is_named) = parser.param(params.len())?;
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
            while params.iter().any(|other| other.name == param.name) {
                if is_named {
                    return Err(format!("two parameters are named '{}'", param.name));
                }
                param.name.push('_');
            }
            params.push(param);
        }
        if !parser.rest.is_empty() {
            return Err(format!("unexpected {:?} at the end", parser.rest));
        }
        Ok(Self { result, params })
    }

    /// The signature for callers, and its text, of a function whose last parameter gets user data.
    ///
    /// # Errors
    /// A message, if the last parameter is not a `void*`.
    pub(crate) fn without_data(mut self, text: &str) -> Result<(Self, String), String> {
        match self.params.pop() {
            Some(last) if last.ty == Type::Pointer(None) => {}
            _ => return Err("the last parameter has to be a void*, for the user data".into()),
        }
        // A parameter of this type contains no comma.
        let end = text.rfind(if self.params.is_empty() { '(' } else { ',' });
        let end = end.map_or(0, |end| end + usize::from(self.params.is_empty()));
        let text = format!("{})", text[..end].trim_end());
        Ok((self, text))
    }

    /// The index of the parameter for `out=`: the only one that is written.
    pub fn out_index(&self) -> Option<usize> {
        let mut places = self
            .params
            .iter()
            .enumerate()
            .filter(|(_, param)| param.out);
        let (index, _) = places.next()?;
        places.next().is_none().then_some(index)
    }

    /// Inserts `out`, adds defaults, checks each argument and converts it to the form of its type.
    ///
    /// # Errors
    /// [`ArgumentError`], with the name of the argument.
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
            param.convert(kernel, arg)?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Scalar, Signature, Type};
    use crate::arg::{Arg, Buffer};
    use crate::error::ArgumentErrorKind as Kind;

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
        let unnamed = Signature::parse("f64(f64 arg1, f64)").unwrap();
        assert_eq!(unnamed.params[1].name, "arg1_");
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
            "f64([[f64]])",
            "f64([out f64])",
            "f64(out i32)",
            "f64() x",
            "f64(void, i32)",
            "f64(i8 x = 300)",
            "f64(i8 x = 1, i8 y)",
            "f64(i32 x = oops)",
            "f64(i32 x, i32 y, i32 x)",
            "double double(int)",
            "é(i32)",
            "f64(é)",
        ] {
            assert!(Signature::parse(text).is_err(), "{text}");
        }
        // However deep it is, the stack does not overflow.
        assert!(Signature::parse(&"[".repeat(1 << 20)).is_err());
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
        // SAFETY: no kernel runs, so nobody uses the memory.
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
        // SAFETY: no kernel runs, so nobody uses the memory.
        let mut skewed = unsafe { Buffer::new(0, data.as_ptr().cast::<u8>().wrapping_add(1), 8) };
        (skewed.format, skewed.itemsize) = (c"d".into(), 8);
        assert!(bind("f64(f64* a)", vec![arg(&skewed)], None).is_ok());
        skewed.writable = true;
        assert_eq!(
            error("f64(out f64* a)", vec![arg(&skewed)], None).1,
            "k(): argument 'a': the buffer is not aligned, and the kernel writes to it: pass an aligned one"
        );
    }
}
