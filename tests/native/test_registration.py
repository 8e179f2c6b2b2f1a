"""What can be registered as a kernel, what cannot, and that nothing is registered when it fails."""

import ctypes
import gc
import sys
import types
import weakref

import cffi
import numpy
import pytest
import scipy

import hybridloop
from hybridloop import (
    KernelAbiError,
    KernelExistsError,
    KernelLibraryError,
    KernelRegistrationError,
    KernelSignatureError,
    KernelSymbolError,
    kernels,
    load_kernels,
    register_kernel,
)

pytestmark = pytest.mark.improves_on_asyncio

LIBM = "libm.so.6" if sys.platform == "linux" else "libm.dylib"
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


@pytest.fixture(scope="module")
def demo(compile_c):
    """The path of a library with the module "demo", plain functions and entries."""
    return compile_c("demo", MODULE='"demo"')


@pytest.fixture
def library(demo):
    return ctypes.CDLL(demo)


def entry_of(library, symbol, name=b"hybridloop.kernel.v1"):
    return new_capsule(ctypes.addressof(ctypes.c_char.in_dll(library, symbol)), name, None)


@pytest.fixture
def refused():
    """Check that registering fails with an error, and leaves no trace."""

    def refused(error, *args, match=None, **kwargs):
        before = sorted(kernels)
        with pytest.raises(error, match=match) as caught:
            register_kernel(*args, **kwargs)
        assert sorted(kernels) == before
        return caught.value

    return refused


def function(name="cbrt", restype=ctypes.c_double, argtypes=(ctypes.c_double,)):
    found = getattr(ctypes.CDLL(LIBM), name)
    found.restype, found.argtypes = restype, argtypes
    return found


def test_a_kernel_is_found_by_its_name(name):
    kernel = register_kernel(name, function(), "f64(f64 x)", doc="The cube root.")
    assert isinstance(kernel, hybridloop.Kernel)
    assert kernels[name] == kernel
    assert (kernel.name, kernel.signature, kernel.doc) == (name, "f64(f64 x)", "The cube root.")
    assert repr(kernel) == f"<Kernel '{name}': f64(f64 x)>"


@pytest.mark.parametrize(
    ("restype", "argtypes", "signature"),
    [
        (ctypes.c_double, [ctypes.c_float, ctypes.c_double], "f64(f32, f64)"),
        (None, [], "void()"),
        (ctypes.c_bool, [ctypes.c_int8, ctypes.c_uint8], "bool(i8, u8)"),
        (ctypes.c_int, [ctypes.c_short, ctypes.c_ushort, ctypes.c_uint], "i32(i16, u16, u32)"),
        (ctypes.c_size_t, [ctypes.c_ssize_t, ctypes.c_longlong], "u64(i64, i64)"),
        (None, [ctypes.c_void_p, ctypes.c_char_p], "void(void*, void*)"),
        (
            None,
            [ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_int64)],
            "void(f32*, i64*)",
        ),
        (None, [numpy.ctypeslib.ndpointer(numpy.float64)], "void(f64*)"),
        (None, [numpy.ctypeslib.ndpointer(numpy.uint16)], "void(u16*)"),
    ],
)
def test_ctypes_knows_the_signature(name, restype, argtypes, signature):
    kernel = register_kernel(name, function("sqrt", restype, argtypes))
    assert kernel.signature == signature


def test_ctypes_without_types_needs_a_signature(name, refused):
    bare = ctypes.CDLL(LIBM).cbrt
    error = refused(KernelSignatureError, name, bare, match="signature of the function is needed")
    assert isinstance(error, KernelRegistrationError)
    assert isinstance(error, ValueError)
    assert register_kernel(name, bare, "f64(f64)").signature == "f64(f64)"


@pytest.mark.parametrize(
    ("restype", "argtypes"),
    [
        (ctypes.c_void_p, []),
        (ctypes.POINTER(ctypes.c_double), []),
        (None, [ctypes.POINTER(ctypes.POINTER(ctypes.c_double))]),
        (None, [ctypes.py_object]),
        (None, [type("Struct", (ctypes.Structure,), {"_fields_": [("x", ctypes.c_int)]})]),
    ],
)
def test_ctypes_with_other_types_is_refused(name, refused, restype, argtypes):
    refused(KernelSignatureError, name, function("sqrt", restype, argtypes))


def test_cffi(name):
    ffi = cffi.FFI()
    ffi.cdef("double sqrt(double); size_t strlen(const char *); void *memchr(void *, int, size_t);")
    libc = ffi.dlopen(None)
    assert register_kernel(name, ffi.dlopen(LIBM).sqrt).signature == "double(double)"
    assert register_kernel(name + "s", libc.strlen).signature == "size_t(char*)"
    with pytest.raises(KernelSignatureError):
        register_kernel(name + "p", libc.memchr)
    bare = ffi.cast("void *", ffi.dlopen(LIBM).sqrt)
    with pytest.raises(KernelSignatureError, match="signature of the function is needed"):
        register_kernel(name + "v", bare)
    assert register_kernel(name + "v", bare, "f64(f64)").signature == "f64(f64)"


def test_cffi_that_is_no_function_is_refused(name, refused):
    ffi = cffi.FFI()
    ffi.cdef("int printf(const char *, ...);")
    refused(KernelRegistrationError, name, ffi.new("int *"), match="not a pointer to a function")
    refused(KernelRegistrationError, name, ffi.NULL, "f64()", match="not the address")
    refused(KernelSignatureError, name, ffi.dlopen(None).printf, match="any number")


def test_numba(name):
    numba = pytest.importorskip("numba", reason="numba does not support this Python")

    @numba.cfunc("float64(CPointer(float64), intp)")
    def total(values, count):
        result = 0.0
        for i in range(count):
            result += values[i]
        return result

    assert register_kernel(name, total).signature == "f64(f64*, i64)"
    assert register_kernel(name + "s", total, "f64(f64* x, usize n)")
    assert register_kernel(name + "a", total.address, "f64(f64*, usize)")
    callable_ = scipy.LowLevelCallable(total.ctypes)
    assert register_kernel(name + "l", callable_).signature == "double (double *, long)"


def test_user_data_needs_a_parameter(name, refused):
    """The last one, a void*: in the function's own signature, or in the one that is given."""
    with_data = scipy.LowLevelCallable(function(), ctypes.c_void_p(5))
    refused(KernelSignatureError, name, with_data, match=r"a void\*, for the user data")
    for signature in ("f64(f64)", "f64()", "f64(void*, f64)", "f64(f64, f64*)", "f64(usize)"):
        refused(KernelSignatureError, name, with_data, signature, match="the user data")
    for given, left in {
        "double (double x, void *data)": "double (double x)",
        "f64(void*)": "f64()",
        "f64(f64 x, i32 n,  void* data )": "f64(f64 x, i32 n)",
        "f64(f64 x, const void *)": "f64(f64 x)",
    }.items():
        assert register_kernel(name, with_data, given, replace=True).signature == left
    without = scipy.LowLevelCallable(function(), signature="double (double, void *)")
    assert register_kernel(name + "w", without).signature == "double (double, void *)"


def test_functions_of_python_are_refused(name, refused):
    prototype = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    callback = prototype(abs)
    for target in (callback, scipy.LowLevelCallable(callback)):
        refused(KernelRegistrationError, name, target, match="without the GIL")
    refused(KernelRegistrationError, name, cffi.FFI().callback("int(int)", abs), match="Python")
    refused(KernelRegistrationError, name, ctypes.pythonapi.PyLong_AsLong, match="needs the GIL")
    refused(TypeError, name, lambda x: x, "f64(f64)", match=r"numba.cfunc\(\)")


@pytest.mark.parametrize("target", [None, True, 1.5, "libm.so.6", b"", [], object(), int])
def test_other_objects_are_refused(name, refused, target):
    refused(TypeError, name, target, "f64(f64)", match="cannot make a kernel")


@pytest.mark.parametrize("address", [0, -1, 2**64, 2**200])
def test_what_is_no_address_is_refused(name, refused, address):
    refused(KernelRegistrationError, name, address, "f64(f64)", match="not the address")


def test_an_address_needs_a_signature(name, refused):
    address = ctypes.cast(function(), ctypes.c_void_p).value
    refused(KernelSignatureError, name, address)
    assert register_kernel(name, address, "f64(f64)").signature == "f64(f64)"


@pytest.mark.parametrize(
    "signature",
    ["", "f64", "f64(", "f64(x)", "f64(f64,)", "f64(str)", "buf(f64)", "f64(f64**)", "f64(f64) x"],
)
def test_bad_signatures_are_refused(name, refused, signature):
    refused(KernelSignatureError, name, function(), signature, match="bad signature")


@pytest.mark.parametrize("bad", ["", "two words", "tab\t", "n" * 256])
def test_bad_names_are_refused(refused, bad):
    refused(KernelRegistrationError, bad, function(), match="bad name")


def test_a_name_is_taken_once_unless_it_is_replaced(name, refused):
    first = register_kernel(name, function())
    refused(KernelExistsError, name, function("sqrt"), match=f"'{name}' exists")
    assert kernels[name] == first
    second = register_kernel(name, function("sqrt"), replace=True)
    assert kernels[name] == second != first
    with pytest.raises(KernelExistsError):
        register_kernel("hl.sum", function())


def test_the_owner_lives_as_long_as_the_kernel(name):
    prototype = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)
    owner = prototype(ctypes.cast(function(), ctypes.c_void_p).value)
    watch = weakref.ref(owner)
    kernel = register_kernel(name, owner)
    del owner
    gc.collect()
    assert watch() is not None
    register_kernel(name, function(), replace=True)
    assert watch() is not None
    del kernel
    gc.collect()
    assert watch() is None


def test_a_function_of_a_library_by_its_name(name, demo, refused):
    signature = "f64(f64* values, usize n, f64 by)"
    assert register_kernel(name, (demo, "plain_total"), signature).signature == signature
    assert register_kernel(name + "s", (str(demo), "plain_fill"), "void(out i32*, usize, i32)")
    assert register_kernel(name + "p", (None, "strlen"), "usize(char*)")
    refused(KernelSignatureError, name + "n", (demo, "plain_total"))
    refused(KernelSymbolError, name + "n", (demo, "nothing"), signature, match="no symbol nothing")
    refused(KernelSymbolError, name + "n", (None, "no_such_function"), signature)
    refused(KernelLibraryError, name + "n", ("libno.so", "f"), signature, match="libno.so")
    for pair in [(demo,), (demo, 5), (5, "f"), (demo, "f", "g"), ()]:
        refused(TypeError, name + "n", pair, signature, match="pair")


def test_capsules(name, library):
    kernel = register_kernel(name, entry_of(library, "entry"))
    assert (kernel.name, kernel.signature, kernel.doc) == (name, "i64(i64 value)", "Adds.")
    same = register_kernel(name + "2", entry_of(library, "entry"), "i64(i64 value)", doc="Mine.")
    assert same.doc == "Mine."
    assert register_kernel(name + "3", entry_of(library, "other")).signature is None
    given = register_kernel(name + "4", entry_of(library, "other"), "i64(i64)")
    assert given.signature == "i64(i64)"


def test_a_capsules_data_goes_with_the_last_kernel_made_of_it(name, compile_c):
    library = ctypes.CDLL(compile_c("demo", MODULE=f'"{name}"'))
    data = ctypes.c_int64.in_dll(library, "data")
    one = register_kernel(name, entry_of(library, "entry"))
    with pytest.raises(KernelExistsError):
        register_kernel(name, entry_of(library, "entry"))
    two = register_kernel(name + "2", entry_of(library, "entry"))
    del one, two
    register_kernel(name, function(), replace=True)
    assert data.value == 5
    register_kernel(name + "2", function(), replace=True)
    assert data.value == -1


def test_bad_capsules_are_refused(name, library, refused):
    refused(
        KernelAbiError,
        name,
        entry_of(library, "entry", b"hybridloop.kernel.v2"),
        match="v2.*v1",
    )
    refused(KernelLibraryError, name, entry_of(library, "small"), match="8 bytes")
    refused(KernelLibraryError, name, entry_of(library, "empty"), match="no function")
    refused(KernelSignatureError, name, entry_of(library, "entry"), "f64(f64)", match="says itself")
    refused(KernelSignatureError, name, entry_of(library, "plain_total", b"anything"))
    refused(KernelSignatureError, name, entry_of(library, "plain_total", b"double(struct x)"))
    refused(KernelSignatureError, name, entry_of(library, "plain_total", None))
    assert register_kernel(name, entry_of(library, "plain_total", None), "f64(f64*, usize, f64)")


def test_a_library_with_a_module(demo):
    loaded = load_kernels(demo)
    assert [kernel.name for kernel in loaded] == ["demo.twice", "demo.rows"]
    assert kernels["demo.twice"].doc == "Twice the value."
    with pytest.raises(KernelExistsError):
        load_kernels(str(demo))
    assert load_kernels(bytes(demo), replace=True) != loaded


@pytest.mark.parametrize(
    ("define", "error", "match"),
    [
        ("OTHER_ABI", KernelAbiError, "interface 99, but this is kernel interface 1"),
        ("NO_MODULE", KernelSymbolError, "does not export"),
        ("SERVES_NOBODY", KernelLibraryError, "does not serve kernel interface 1"),
        ("BAD_SIGNATURE", KernelSignatureError, "string"),
        ("SAME_NAME", KernelExistsError, "twice"),
        ("NULL_TABLE", KernelLibraryError, "1 kernels, but has no table"),
    ],
)
def test_bad_libraries_are_refused_as_a_whole(name, compile_c, define, error, match):
    path = compile_c("demo", MODULE=f'"{name}"', **{define: 1})
    with pytest.raises(error, match=match):
        load_kernels(path)
    assert not [found for found in kernels if found.startswith(name)]


def test_what_is_no_library_is_refused(tmp_path):
    with pytest.raises(KernelLibraryError, match="No such file"):
        load_kernels(tmp_path / "missing.so")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(KernelLibraryError, match="text.so"):
        load_kernels(tmp_path / "text.so")
    for target in (None, 5, ["libm.so.6"]):
        with pytest.raises(TypeError):
            load_kernels(target)


def test_a_library_in_the_current_directory(name, compile_c, tmp_path, monkeypatch):
    """By its name alone, which the system's loader does not take for a path."""
    compile_c("demo", MODULE=f'"{name}"').rename(tmp_path / "libhere.so")
    monkeypatch.chdir(tmp_path)
    loaded = load_kernels("libhere.so")
    assert [kernel.name for kernel in loaded] == [f"{name}.twice", f"{name}.rows"]
    with pytest.raises(KernelLibraryError, match="cannot load libgone.so: "):
        load_kernels("libgone.so")


def test_a_module_with_capsules_or_a_library(name, compile_c):
    path = compile_c("demo", MODULE=f'"{name}"')
    library = ctypes.CDLL(path)
    module = types.ModuleType("module")
    with pytest.raises(KernelLibraryError, match="module 'module' has no kernels"):
        load_kernels(module)
    module.__file__ = "module.py"
    with pytest.raises(KernelLibraryError, match="has no kernels"):
        load_kernels(module)
    module.__file__ = str(path)
    assert [kernel.name for kernel in load_kernels(module)] == [f"{name}.twice", f"{name}.rows"]
    module.first, module.second = entry_of(library, "entry"), entry_of(library, "other")
    module.unrelated = new_capsule(1, b"unrelated", None)
    assert [kernel.name for kernel in load_kernels(module)] == [f"{name}.add", f"{name}.other"]
    module.another = entry_of(library, "empty")
    with pytest.raises(KernelLibraryError, match="no function"):
        load_kernels(module, replace=True)


def test_a_module_that_has_registered_its_kernels(name):
    """As one with kernels of numba: they are its attributes."""
    module = types.ModuleType("module")
    module.__file__ = "module.py"
    module.one = register_kernel(f"{name}.one", (None, "strlen"), "usize(char* text)")
    module.also_one = module.one
    module.another = register_kernel(f"{name}.another", (None, "strlen"), "usize(char* text)")
    assert load_kernels(module) == [module.another, module.one]


PACKAGE = """
import os
LIBRARY = os.path.join(os.path.dirname(__file__), "libkernels.so")

def register():
    import hybridloop
    hybridloop.register_kernel("package.strlen", (None, "strlen"), "usize(char* text)")

def path():
    return LIBRARY

broken = 5
"""


def test_installed_packages_make_their_kernels_known(tmp_path, compile_c, run_script):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    path = compile_c("demo", MODULE='"wheel"')
    (package / "libkernels.so").write_bytes(path.read_bytes())
    info = tmp_path / "package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hybridloop.kernels]\n"
        "gone = package:gone\n"
        "library = package:LIBRARY\n"
        "function = package:register\n"
        "broken = package:broken\n"
        "again = package:path\n"
    )
    done = run_script(
        f"""
        import warnings
        sys.path.insert(0, {str(tmp_path)!r})
        import hybridloop
        assert "package" not in sys.modules
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            print(hybridloop.kernels["wheel.twice"].doc)
            print(hybridloop.kernels["package.strlen"].signature)
            assert "wheel.rows" in list(hybridloop.kernels)
        for warning in caught:
            print(warning.category.__name__, warning.message)
        """
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Twice the value.", "usize(char* text)"]
    assert all(line.startswith("RuntimeWarning the kernels of entry point") for line in lines[2:])
    assert ["'gone'" in lines[2], "'broken'" in lines[3], "'again'" in lines[4]] == [True] * 3
    assert "KernelExistsError" in lines[4]
    assert len(lines) == 5
