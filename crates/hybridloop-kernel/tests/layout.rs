//! `include/hybridloop.h` and `abi.rs` are equal: a C compiler compares every size, offset and constant.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Stdio;

use hybridloop_kernel::abi::{self, code, kind, Buf, Host, Kernel, Module, Val};

/// Compiles C from standard input without output; returns the messages of the compiler if it fails.
fn compile(source: &str, options: &[&str]) -> Result<(), String> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build
        .host(&triple)
        .target(&triple)
        .opt_level(0)
        .cargo_metadata(false);
    let mut command = build.get_compiler().to_command();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include");
    let mut child = command
        .args(options)
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-fsyntax-only",
            "-I",
        ])
        .arg(include)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn check(source: &str, options: &[&str]) {
    if let Err(messages) = compile(source, options) {
        panic!("{messages}\n{source}");
    }
}

macro_rules! layout {
    ($source:ident, $c:literal = $rust:ty { $($($field:ident).+ $(as $c_field:literal)?),* $(,)? }) => {
        writeln!($source, "_Static_assert(sizeof({}) == {}, \"size of {}\");", $c, size_of::<$rust>(), $c).unwrap();
        $(
            #[allow(unused_assignments, unused_mut)]
            let mut name = [$(stringify!($field)),+].into_iter().next_back().unwrap();
            $(name = $c_field;)?
            writeln!($source, "_Static_assert(offsetof({c}, {name}) == {}, \"{c}.{name}\");",
                offset_of!($rust, $($field).+), c = $c).unwrap();
            // SAFETY: the closure is never called; only the type of the field is used.
            let size = field_size(|value: *const $rust| unsafe { &raw const (*value).$($field).+ });
            writeln!($source, "_Static_assert(sizeof((({c} *)0)->{name}) == {size}, \"size of {c}.{name}\");",
                c = $c).unwrap();
        )*
        // The pattern names every field of the struct.
        let fields = [$(offset_of!($rust, $($field).+) + field_size(|value: *const $rust| unsafe {
            // SAFETY: the closure is never called; only the type of the field is used.
            &raw const (*value).$($field).+
        })),*];
        assert_eq!(fields.iter().max().unwrap().next_multiple_of(align_of::<$rust>()), size_of::<$rust>());
    };
}

fn field_size<T, F>(_: impl Fn(*const T) -> *const F) -> usize {
    size_of::<F>()
}

#[test]
fn structs_and_constants_are_the_same() {
    let mut source = String::from("#include \"hybridloop.h\"\n");
    layout!(
        source,
        "hl_buf" = Buf {
            data,
            len,
            flags,
            itemsize,
            fmt,
            ndim,
            reserved,
            shape,
            strides
        }
    );
    layout!(source, "hl_val" = Val { kind, reserved, u });
    layout!(
        source,
        "hl_host" = Host {
            base.size,
            base.abi,
            base.cancelled,
            base.progress,
            base.alloc,
            base.resize,
            base.free,
            base.fail,
            base.bus_push,
            base.bus_open,
            base.bus_seal,
            base.bus_abort,
            base.bus_get,
            base.bus_pop,
            base.emit,
            base.chan_push,
            base.chan_pop,
            base.job_id,
            defer,
            complete
        }
    );
    layout!(source, "hl_kernel" = Kernel { size, flags, name, sig, doc, func as "fn", user, drop });
    layout!(
        source,
        "hl_module" = Module {
            size,
            magic,
            abi,
            n,
            name,
            kernels
        }
    );
    for (name, value) in [
        ("HL_ABI", i64::from(abi::ABI)),
        ("HL_MAGIC", i64::from(abi::MAGIC)),
        ("HL_WRITABLE", i64::from(abi::WRITABLE)),
        ("HL_CONTIGUOUS", i64::from(abi::CONTIGUOUS)),
        ("HL_COPY", i64::from(abi::COPY)),
        ("HL_BUS_JOB", i64::from(abi::BUS_JOB)),
        ("HL_ASYNC", i64::from(abi::ASYNC)),
        ("HL_EMIT_WAITS", i64::from(abi::EMIT_WAITS)),
        ("HL_NONE", i64::from(kind::NONE)),
        ("HL_BOOL", i64::from(kind::BOOL)),
        ("HL_I64", i64::from(kind::I64)),
        ("HL_U64", i64::from(kind::U64)),
        ("HL_F64", i64::from(kind::F64)),
        ("HL_STR", i64::from(kind::STR)),
        ("HL_BUF", i64::from(kind::BUF)),
        ("HL_KEY", i64::from(kind::KEY)),
        ("HL_CHAN", i64::from(kind::CHAN)),
        ("HL_OK", i64::from(code::OK)),
        ("HL_EINVAL", i64::from(code::EINVAL)),
        ("HL_ETYPE", i64::from(code::ETYPE)),
        ("HL_ENOMEM", i64::from(code::ENOMEM)),
        ("HL_ECANCELED", i64::from(code::ECANCELED)),
        ("HL_ETIMEDOUT", i64::from(code::ETIMEDOUT)),
        ("HL_ENOTFOUND", i64::from(code::ENOTFOUND)),
        ("HL_EOVERFLOW", i64::from(code::EOVERFLOW)),
        ("HL_EEMPTY", i64::from(code::EEMPTY)),
        ("HL_ECLOSED", i64::from(code::ECLOSED)),
        ("HL_EPANIC", i64::from(code::EPANIC)),
        ("HL_ERESULT", i64::from(code::ERESULT)),
        ("HL_EUNKNOWN", i64::from(code::EUNKNOWN)),
        ("HL_PENDING", i64::from(code::PENDING)),
    ] {
        writeln!(source, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    check(&source, &["-x", "c", "-std=c11"]);
    // The check can fail.
    assert!(compile(
        &source.replace("(HL_ECLOSED == -9", "(HL_ECLOSED == -8"),
        &["-x", "c", "-std=c11"]
    )
    .is_err());
}

#[test]
fn functions_of_the_host_are_the_same() {
    // Each prototype again, as Rust has it: a function pointer of another type causes a warning.
    let source = "#include \"hybridloop.h\"
        static int32_t cancelled(const hl_ctx *c) { (void)c; return 0; }
        static void progress(hl_ctx *c, uint64_t a, uint64_t b) { (void)c; (void)a; (void)b; }
        static int32_t bus_push(hl_ctx *c, const void *k, size_t n, const void *d, size_t m, uint32_t f)
            { (void)c; (void)k; (void)n; (void)d; (void)m; (void)f; return 0; }
        static int32_t kernel(const hl_host *h, hl_ctx *c, const hl_val *a, size_t n, hl_val *o, void *u)
            { (void)a; (void)n; (void)o; (void)u; return h->cancelled(c); }
        static void stop(void *d, int32_t c) { (void)d; (void)c; }
        static void drop(void *d) { (void)d; }
        static uint64_t defer(hl_ctx *c, void *d, void (*s)(void *, int32_t), void (*r)(void *))
            { (void)c; (void)d; (void)s; (void)r; return 0; }
        static int32_t complete(uint64_t t, int32_t c, const hl_val *o) { (void)t; (void)c; (void)o; return 0; }
        void check(void); void check(void) {
            hl_host host = { sizeof host, HL_ABI, cancelled, progress, 0, 0, 0, 0, bus_push, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                defer, complete };
            hl_fn fn = kernel; (void)fn; (void)host.defer(0, 0, stop, drop); (void)HL_HAS(&host, hl_host, complete);
        }
        static const hl_kernel KERNELS[] = { { sizeof(hl_kernel), 0, \"a.b\", \"none()\", 0, kernel, 0, 0 } };
        static const hl_module MODULE = HL_MODULE_INIT(\"a\", KERNELS);
        const hl_module *hybridloop_module(uint32_t abi) { return abi == HL_ABI ? &MODULE : 0; }\n";
    check(source, &["-x", "c", "-std=c99"]);
}

#[test]
fn the_header_is_c99_and_cpp() {
    let source = "#include \"hybridloop.h\"\n#include \"hybridloop.h\"\n";
    check(source, &["-x", "c", "-std=c99"]);
    check(source, &["-x", "c++", "-std=c++11"]);
}
