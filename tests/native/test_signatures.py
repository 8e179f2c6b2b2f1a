"""Signatures: what is printed is read again, and anything else is refused with a reason."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybridloop import KernelSignatureError, register_kernel
from hybridloop._core import _parse_signature

pytestmark = pytest.mark.improves_on_asyncio

BOUNDED = settings(max_examples=100, deadline=None, derandomize=True)
INTEGERS = {
    f"{kind}{size}": (-(2 ** (size - 1)) if kind == "i" else 0, 2 ** (size - (kind == "i")) - 1)
    for kind in "iu"
    for size in (8, 16, 32, 64)
}
SCALARS = ["bool", *INTEGERS, "f32", "f64"]
# Names in C, and what they mean where pointers have 64 bits.
SPELLINGS = {
    "double": "f64",
    "float": "f32",
    "_Bool": "bool",
    "int": "i32",
    "unsigned": "u32",
    "unsigned  int": "u32",
    "long long int": "i64",
    "size_t": "u64",
    "Py_ssize_t": "i64",
    "signed char": "i8",
    "uint16_t": "u16",
    "const unsigned char": "u8",
}
PARTS = [*SCALARS, *SPELLINGS, "buf", "bytes", "str", "key", "chan", "any", "void", "none", "out"]
PARTS += ["[", "]", "(", ")", ",", "*", "?", "=", " ", "x", "const", "-1", "1.5", '"t"', "é", "\0"]
QUALIFIERS = {"out", "const", "signed", "restrict"}
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in QUALIFIERS
)


def slices(scalars):
    return [f"[{scalar}]" for scalar in scalars if scalar != "u8"] + ["bytes"]


def pointers(scalars):
    return [f"{scalar}*" for scalar in scalars] + ["void*"]


def defaults(type):
    if type in INTEGERS:
        return st.integers(*INTEGERS[type])
    if type == "bool":
        return st.booleans()
    if type in ("f32", "f64"):
        return st.floats(width=int(type[1:]), allow_nan=False, allow_infinity=False)
    if type == "str":
        return st.text(st.sampled_from("abc é-1"), max_size=5)
    return st.nothing()


@st.composite
def signatures(draw):
    """The result, and for each parameter its name, type, direction, whether None fits, default."""
    memory = slices(SCALARS) + pointers(SCALARS) + ["buf"]
    kinds = st.sampled_from([*SCALARS, *memory, "str", "key", "chan", "any"])
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    params = []
    for name in names:
        type = draw(kinds)
        out = type in memory and draw(st.booleans())
        known = defaults(type)
        wanted = bool(params and params[-1][4]) or draw(st.booleans())
        if wanted and known.is_empty:
            if params and params[-1][4]:
                break
            wanted = False
        default = (draw(known),) if wanted else ()
        params.append((name, type, out, draw(st.booleans()), default))
    return draw(kinds | st.just("none")), params


def literal(value):
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def printed(types):
    result, params = types
    texts = []
    for name, type, out, optional, default in params:
        text = f"{'out ' * out}{type}{'?' * optional} {name}"
        texts.append(text + "".join(f" = {literal(value)}" for value in default))
    return f"{result}({', '.join(texts)})"


@given(types=signatures())
@BOUNDED
def test_what_is_printed_is_read_again(types):
    text = printed(types)
    assert _parse_signature(text) == types
    assert printed(_parse_signature(text)) == text


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_c(spelling):
    type = SPELLINGS[spelling]
    for text, expected in [
        (f"{spelling}({spelling} x)", (type, type)),
        (f"void({spelling}*x)", ("none", f"{type}*")),
        (f" {spelling} ( {spelling} )", (type, type)),
    ]:
        result, [(_, param, *_)] = _parse_signature(text)
        assert (result, param) == expected


GARBAGE = st.text(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=20).map("".join)


@given(
    text=GARBAGE
    | st.tuples(signatures(), GARBAGE, st.integers(0, 60)).map(
        lambda parts: printed(parts[0])[: parts[2]] + parts[1] + printed(parts[0])[parts[2] :]
    )
)
@example(text="[" * 1_000_000)
@example(text="f64(" + "[" * 1_000_000)
@example(text="const " * 100_000)
@BOUNDED
def test_anything_is_read_or_refused_with_a_reason(text):
    try:
        types = _parse_signature(text)
    except KernelSignatureError as error:
        assert str(error)
        return
    names = [name for name, *_ in types[1]]
    assert len(set(names)) == len(names)
    again = _parse_signature(printed(types)) if "None" not in printed(types) else types
    assert again == types


@given(text=GARBAGE)
@BOUNDED
def test_nothing_is_registered_with_a_bad_signature(text):
    try:
        _parse_signature(text)
    except KernelSignatureError:
        with pytest.raises(KernelSignatureError):
            register_kernel("signatures.bad", ("libm.so.6", "fabs"), text)
