//! Arguments: from the ABI's values to Rust's types.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::ops::Deref;

use crate::abi::{self, kind, Val};
use crate::ctx::{Channel, Ctx};
use crate::error::{Code, Error};

/// Numbers that buffers consist of.
///
/// # Safety
/// Every pattern of bits is a value, `FORMAT` and `NAME` name this very type.
pub unsafe trait Element: Copy + Default + Send + Sync + 'static {
    /// The format of Python's `struct` module.
    const FORMAT: &'static CStr;
    /// The name in signatures.
    const NAME: &'static str;
    /// The signature of a slice that is read.
    const SLICE: &'static str;
    /// The signature of a slice that is written.
    const OUT: &'static str;
    /// Other formats of the same type.
    const FORMATS: &'static [u8];
}

macro_rules! elements {
    ($($type:ident $format:literal $formats:literal;)*) => {$(
        // SAFETY: a plain number; native formats of that size and kind.
        unsafe impl Element for $type {
            const FORMAT: &'static CStr = $format;
            const NAME: &'static str = stringify!($type);
            const SLICE: &'static str = concat!("[", stringify!($type), "]");
            const OUT: &'static str = concat!("out [", stringify!($type), "]");
            const FORMATS: &'static [u8] = $formats;
        }
    )*};
}
elements! {
    i8 c"b" b"b"; i16 c"h" b"h"; i32 c"i" b"il"; i64 c"q" b"qln"; isize c"n" b"nql";
    u16 c"H" b"H"; u32 c"I" b"IL"; u64 c"Q" b"QLN"; usize c"N" b"NQL";
    f32 c"f" b"f"; f64 c"d" b"d";
}

// SAFETY: as above. Bytes are what every buffer consists of.
unsafe impl Element for u8 {
    const FORMAT: &'static CStr = c"B";
    const NAME: &'static str = "u8";
    const SLICE: &'static str = "bytes";
    const OUT: &'static str = "out bytes";
    const FORMATS: &'static [u8] = b"";
}

/// A type that a parameter of a kernel can have.
pub trait FromArg<'a>: Sized {
    /// How a signature spells it.
    const SIGNATURE: &'static str;
    /// What follows the name of the type.
    const SUFFIX: &'static str = "";

    /// Converts an argument.
    ///
    /// # Safety
    /// What the value points to is valid for `'a`, and if it is writable, nobody else uses it during that time.
    ///
    /// # Errors
    /// [`Code::Type`], [`Code::Overflow`] or [`Code::Invalid`].
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error>;
}

/// Python's name for the kind of a value.
fn kind_name(kind: u32) -> &'static str {
    match kind {
        kind::NONE => "None",
        kind::BOOL => "bool",
        kind::I64 | kind::U64 => "int",
        kind::F64 => "float",
        kind::STR => "str",
        kind::BUF => "a buffer",
        kind::KEY => "a bus key",
        kind::CHAN => "a channel",
        _ => "something unknown",
    }
}

fn mismatch<T>(expected: &str, val: &Val) -> Result<T, Error> {
    Err(Error::type_error(format!(
        "expected {expected}, got {}",
        kind_name(val.kind)
    )))
}

impl<'a> FromArg<'a> for bool {
    const SIGNATURE: &'static str = "bool";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is.
            kind::BOOL => Ok(unsafe { val.u.i } != 0),
            _ => mismatch("bool", val),
        }
    }
}

macro_rules! integers {
    ($($type:ident)*) => {$(
        impl<'a> FromArg<'a> for $type {
            const SIGNATURE: &'static str = stringify!($type);
            unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
                let wide = match val.kind {
                    // SAFETY: the kind says which field it is.
                    kind::I64 | kind::BOOL => i128::from(unsafe { val.u.i }),
                    // SAFETY: as above.
                    kind::U64 => i128::from(unsafe { val.u.u }),
                    _ => return mismatch("int", val),
                };
                wide.try_into().map_err(|_| {
                    Error::new(Code::Overflow, concat!("out of range for ", stringify!($type)))
                })
            }
        }
    )*};
}
integers! { i8 i16 i32 i64 isize u8 u16 u32 u64 usize }

impl<'a> FromArg<'a> for f64 {
    const SIGNATURE: &'static str = "f64";
    #[allow(clippy::cast_precision_loss, reason = "as float(int) does")]
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is.
            kind::F64 => Ok(unsafe { val.u.f }),
            // SAFETY: as above.
            kind::I64 | kind::BOOL => Ok(unsafe { val.u.i } as f64),
            // SAFETY: as above.
            kind::U64 => Ok(unsafe { val.u.u } as f64),
            _ => mismatch("float", val),
        }
    }
}

impl<'a> FromArg<'a> for f32 {
    const SIGNATURE: &'static str = "f32";
    #[allow(clippy::cast_possible_truncation, reason = "rounds, as C does")]
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: as the caller promises.
        unsafe { f64::from_arg(ctx, val) }.map(|value| value as f32)
    }
}

impl<'a> FromArg<'a> for &'a str {
    const SIGNATURE: &'static str = "str";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is, and the caller that it is valid.
            kind::STR => Ok(std::str::from_utf8(unsafe { bytes(&val.u.b) })?),
            _ => mismatch("str", val),
        }
    }
}

impl<'a, T: Element> FromArg<'a> for &'a [T] {
    const SIGNATURE: &'static str = T::SLICE;
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is, and the caller that it is valid.
            kind::BUF => unsafe { Buf::new(val.u.b) }.elements(),
            _ => mismatch("a buffer", val),
        }
    }
}

impl<'a, T: Element> FromArg<'a> for &'a mut [T] {
    const SIGNATURE: &'static str = T::OUT;
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        if val.kind != kind::BUF {
            return mismatch("a writable buffer", val);
        }
        // SAFETY: the kind says which field it is, and the caller that it is valid.
        let buf = unsafe { Buf::new(val.u.b) };
        if !buf.is_writable() {
            return Err(Error::invalid("the buffer is read-only"));
        }
        let elements: &[T] = buf.elements()?;
        let (data, len) = (buf.raw.data.cast_mut().cast::<T>(), elements.len());
        if len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: checked above; the caller says that nobody else uses it.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
    }
}

impl<'a, T: FromArg<'a>> FromArg<'a> for Option<T> {
    const SIGNATURE: &'static str = T::SIGNATURE;
    const SUFFIX: &'static str = "?";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            kind::NONE => Ok(None),
            // SAFETY: as the caller promises.
            _ => unsafe { T::from_arg(ctx, val) }.map(Some),
        }
    }
}

/// # Safety
/// `len` bytes at `data` are valid for `'a`.
unsafe fn bytes<'a>(buf: &abi::Buf) -> &'a [u8] {
    if buf.len == 0 {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(buf.data.cast(), buf.len) }
}

/// Any buffer, with its shape.
#[derive(Clone, Copy, Debug)]
pub struct Buf<'a> {
    raw: abi::Buf,
    _life: PhantomData<&'a [u8]>,
}

// SAFETY: it is only read.
unsafe impl Send for Buf<'_> {}
// SAFETY: as above.
unsafe impl Sync for Buf<'_> {}

impl<'a> Buf<'a> {
    /// # Safety
    /// What it describes is valid for `'a` and not written to by others.
    pub(crate) unsafe fn new(raw: abi::Buf) -> Self {
        Self {
            raw,
            _life: PhantomData,
        }
    }

    /// The description itself.
    #[must_use]
    pub fn raw(&self) -> &abi::Buf {
        &self.raw
    }

    /// The format of an element, in the notation of Python's `struct` module.
    #[must_use]
    pub fn format(&self) -> &'a CStr {
        if self.raw.fmt.is_null() {
            return c"B";
        }
        // SAFETY: a C string that is valid as long as the buffer.
        unsafe { CStr::from_ptr(self.raw.fmt) }
    }

    /// The size of an element in bytes.
    #[must_use]
    pub fn itemsize(&self) -> usize {
        self.raw.itemsize.max(1) as usize
    }

    /// Elements along each dimension.
    #[must_use]
    pub fn shape(&self) -> Vec<i64> {
        let ndim = usize::try_from(self.raw.ndim).unwrap_or(0);
        if self.raw.shape.is_null() {
            return vec![i64::try_from(self.raw.len / self.itemsize()).unwrap_or(i64::MAX); ndim];
        }
        // SAFETY: `ndim` numbers.
        unsafe { std::slice::from_raw_parts(self.raw.shape, ndim) }.to_vec()
    }

    /// Whether elements lie one after another in C order.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.raw.flags & abi::CONTIGUOUS != 0
    }

    /// Whether the kernel may write to it, through a `&mut [T]` parameter.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.raw.flags & abi::WRITABLE != 0
    }

    /// All bytes of a contiguous buffer.
    ///
    /// # Errors
    /// [`Code::Invalid`] if it is not contiguous.
    pub fn bytes(&self) -> Result<&'a [u8], Error> {
        self.elements()
    }

    /// The elements of a contiguous buffer.
    ///
    /// # Errors
    /// [`Code::Type`] if elements are of another type, [`Code::Invalid`] if they are not contiguous and aligned.
    pub fn elements<T: Element>(&self) -> Result<&'a [T], Error> {
        if !self.is_contiguous() {
            return Err(Error::invalid("the buffer is not C-contiguous"));
        }
        if size_of::<T>() > 1 && !self.is_of::<T>() {
            return Err(Error::type_error(format!(
                "expected elements of type {}, got format {:?}",
                T::NAME,
                self.format().to_string_lossy()
            )));
        }
        if self.raw.len < size_of::<T>() {
            return Ok(&[]);
        }
        let data = self.raw.data.cast::<T>();
        if data.addr() % align_of::<T>() != 0 {
            return Err(Error::invalid("the buffer is not aligned"));
        }
        // SAFETY: valid, contiguous and aligned, and every pattern of bits is a value.
        Ok(unsafe { std::slice::from_raw_parts(data, self.raw.len / size_of::<T>()) })
    }

    fn is_of<T: Element>(&self) -> bool {
        let format = match self.format().to_bytes() {
            [b'@' | b'=', rest @ ..] => rest,
            [b'<', rest @ ..] if cfg!(target_endian = "little") => rest,
            [b'>' | b'!', rest @ ..] if cfg!(target_endian = "big") => rest,
            all => all,
        };
        self.itemsize() == size_of::<T>() && format.len() == 1 && T::FORMATS.contains(&format[0])
    }
}

impl<'a> FromArg<'a> for Buf<'a> {
    const SIGNATURE: &'static str = "buf";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is, and the caller that it is valid.
            kind::BUF => Ok(unsafe { Buf::new(val.u.b) }),
            _ => mismatch("a buffer", val),
        }
    }
}

/// A key of the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a>(pub &'a [u8]);

impl Deref for Key<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl AsRef<[u8]> for Key<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl<'a> FromArg<'a> for Key<'a> {
    const SIGNATURE: &'static str = "key";
    unsafe fn from_arg(_: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            // SAFETY: the kind says which field it is, and the caller that it is valid.
            kind::KEY | kind::STR => Ok(Key(unsafe { bytes(&val.u.b) })),
            _ => mismatch("a bus key", val),
        }
    }
}

impl<'a> FromArg<'a> for Channel<'a> {
    const SIGNATURE: &'static str = "chan";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        match val.kind {
            kind::CHAN => Ok(Channel {
                ctx,
                // SAFETY: the kind says which field it is.
                id: unsafe { val.u.u },
            }),
            _ => mismatch("a channel", val),
        }
    }
}

/// Any value.
#[derive(Clone, Copy)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(&'a str),
    Buf(Buf<'a>),
    Key(Key<'a>),
    Channel(Channel<'a>),
}

impl<'a> Value<'a> {
    /// # Safety
    /// As for [`FromArg::from_arg`].
    pub(crate) unsafe fn from_val(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: as the caller promises; the kind says which field it is.
        Ok(unsafe {
            match val.kind {
                kind::NONE => Self::None,
                kind::BOOL => Self::Bool(val.u.i != 0),
                kind::I64 => Self::Int(val.u.i),
                kind::U64 => Self::UInt(val.u.u),
                kind::F64 => Self::Float(val.u.f),
                kind::STR => Self::Str(FromArg::from_arg(ctx, val)?),
                kind::BUF => Self::Buf(Buf::new(val.u.b)),
                kind::KEY => Self::Key(FromArg::from_arg(ctx, val)?),
                kind::CHAN => Self::Channel(FromArg::from_arg(ctx, val)?),
                _ => return mismatch("a value", val),
            }
        })
    }
}

impl<'a> FromArg<'a> for Value<'a> {
    const SIGNATURE: &'static str = "any";
    unsafe fn from_arg(ctx: &'a Ctx, val: &Val) -> Result<Self, Error> {
        // SAFETY: as the caller promises.
        unsafe { Self::from_val(ctx, val) }
    }
}
