//! The parser of signatures.

use crate::arg::Arg;
use crate::registry::signature::param::Param;
use crate::registry::signature::types::{Scalar, Type};

pub(super) struct Parser<'a> {
    pub rest: &'a str,
}

impl<'a> Parser<'a> {
    pub fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    pub fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) {
            return Ok(());
        }
        let rest: String = self.rest.chars().take(20).collect();
        Err(format!("expected '{token}' at {rest:?}"))
    }

    /// The next word, without consuming it.
    fn word(&self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        &self.rest[..end]
    }

    /// Parses a type, and whether it is marked `out`.
    pub fn ty(&mut self) -> Result<(Type, bool), String> {
        let mut out = false;
        if self.rest.starts_with("out [") || self.word() == "out" && !self.rest.starts_with("out(")
        {
            self.take("out");
            out = true;
        }
        if self.take("[") {
            let element = self.single()?;
            self.expect("]")?;
            return match element {
                Type::Scalar(scalar) => Ok((Type::Slice(scalar), out)),
                other => Err(format!("a slice of {other}")),
            };
        }
        Ok((self.single()?, out))
    }

    /// Parses a type that is no slice.
    fn single(&mut self) -> Result<Type, String> {
        let mut words: Vec<&str> = Vec::new();
        // "unsigned long" is one type; in "key key" the second word is a name.
        loop {
            let word = self.word();
            let joined = [&words[..], &[word]].concat().join(" ");
            match word {
                "const" | "signed" => {}
                _ if named(&joined).is_some() => words.push(word),
                _ => break,
            }
            self.take(word);
        }
        if words.is_empty() {
            return Err(format!(
                "unknown type at {:?}",
                self.rest.chars().take(20).collect::<String>()
            ));
        }
        let name = words.join(" ");
        let mut ty = named(&name).ok_or_else(|| format!("unknown type '{name}'"))?;
        if self.take("*") {
            ty = match ty {
                Type::None => Type::Pointer(None),
                Type::Scalar(scalar) => Type::Pointer(Some(scalar)),
                other => return Err(format!("a pointer to {other}")),
            };
            while self.word() == "const" || self.word() == "restrict" {
                let word = self.word();
                self.take(word);
            }
            if self.rest.starts_with('*') {
                return Err("a pointer to a pointer".into());
            }
        }
        Ok(ty)
    }

    /// Parses a parameter, and whether it has a name of its own.
    pub fn param(&mut self, index: usize) -> Result<(Param, bool), String> {
        let (ty, out) = self.ty()?;
        if out && !matches!(ty, Type::Pointer(_) | Type::Slice(_) | Type::Buf) {
            return Err(format!("'out' for {ty}, which is not memory"));
        }
        let optional = self.take("?");
        let name = self.word();
        self.take(name);
        let default = if self.take("=") {
            let end = self.rest.find([',', ')']).unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            Some(literal(text.trim())?)
        } else {
            None
        };
        let mut param = Param {
            name: if name.is_empty() {
                format!("arg{index}")
            } else {
                name.to_owned()
            },
            ty,
            out,
            optional,
            default,
        };
        if let Some(mut default) = param.default.take() {
            param
                .convert("default", &mut default)
                .map_err(|error| error.message)?;
            param.default = Some(default);
        }
        Ok((param, !name.is_empty()))
    }
}

fn literal(text: &str) -> Result<Arg, String> {
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    Ok(match (text, quoted) {
        ("true" | "True", _) => Arg::Bool(true),
        ("false" | "False", _) => Arg::Bool(false),
        ("none" | "None", _) => Arg::None,
        (_, Some(inner)) if !inner.contains(['"', '\\']) => Arg::Str(inner.into()),
        _ => {
            let integer = text.parse().map(Arg::Int).ok();
            let unsigned = || text.parse().map(Arg::UInt).ok();
            let float = || text.parse().map(Arg::Float).ok();
            let value = integer.or_else(unsigned).or_else(float);
            return value.ok_or_else(|| format!("bad default {text:?}"));
        }
    })
}

#[allow(clippy::match_same_arms, reason = "an arm for each width of a word")]
fn named(name: &str) -> Option<Type> {
    use Scalar::{Bool, F32, F64, I16, I32, I64, I8, U16, U32, U64, U8};
    let scalar = match name {
        "bool" | "_Bool" => Bool,
        "i8" | "int8_t" | "char" => I8,
        "i16" | "int16_t" | "short" | "short int" => I16,
        "i32" | "int32_t" | "int" => I32,
        // The last one is what Cython writes.
        "i64" | "int64_t" | "long long" | "long long int" | "PY_LONG_LONG" => I64,
        "u8" | "uint8_t" | "unsigned char" => U8,
        "u16" | "uint16_t" | "unsigned short" | "unsigned short int" => U16,
        "u32" | "uint32_t" | "unsigned" | "unsigned int" => U32,
        "u64"
        | "uint64_t"
        | "unsigned long long"
        | "unsigned long long int"
        | "unsigned PY_LONG_LONG" => U64,
        "isize" | "ssize_t" | "Py_ssize_t" | "intptr_t" | "ptrdiff_t" | "long" | "long int"
            if cfg!(target_pointer_width = "64") =>
        {
            I64
        }
        "usize" | "size_t" | "uintptr_t" | "unsigned long" | "unsigned long int"
            if cfg!(target_pointer_width = "64") =>
        {
            U64
        }
        "isize" | "ssize_t" | "Py_ssize_t" | "intptr_t" | "ptrdiff_t" | "long" | "long int" => I32,
        "usize" | "size_t" | "uintptr_t" | "unsigned long" | "unsigned long int" => U32,
        "f32" | "float" => F32,
        "f64" | "double" => F64,
        "none" | "void" => return Some(Type::None),
        "bytes" => return Some(Type::Slice(U8)),
        "buf" => return Some(Type::Buf),
        "str" => return Some(Type::Str),
        "key" => return Some(Type::Key),
        "chan" => return Some(Type::Chan),
        "any" => return Some(Type::Any),
        _ => return None,
    };
    Some(Type::Scalar(scalar))
}
