//! The types of elements of buffers.

use std::ffi::CStr;

/// The numbers that buffers consist of.
///
/// # Safety
/// Every pattern of bits is a value of the type, and the constants describe it.
pub unsafe trait Element: Copy + Default + Send + Sync + 'static {
    /// Its format in Python's `struct` module.
    const FORMAT: &'static CStr;
    /// Its name in signatures.
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
        // SAFETY: every pattern of bits is a number, and the formats are those of its size and kind.
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

// SAFETY: every pattern of bits is a byte. A slice of bytes accepts every format, so it lists none.
unsafe impl Element for u8 {
    const FORMAT: &'static CStr = c"B";
    const NAME: &'static str = "u8";
    const SLICE: &'static str = "bytes";
    const OUT: &'static str = "out bytes";
    const FORMATS: &'static [u8] = b"";
}
