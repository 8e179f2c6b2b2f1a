"""DLPack and Arrow capsules, made with ctypes: the tests see each call of a deleter."""

import ctypes
import itertools

P = ctypes.POINTER
capsule_new = ctypes.pythonapi.PyCapsule_New
capsule_new.restype = ctypes.py_object
capsule_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
capsule_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype = ctypes.c_void_p
capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
capsule_set_name = ctypes.pythonapi.PyCapsule_SetName
capsule_set_name.argtypes = [ctypes.py_object, ctypes.c_char_p]

Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

# Capsules do not copy their names.
NAMES = [b"dltensor", b"dltensor_versioned", b"used_dltensor_versioned", b"arrow_array"]
DLTENSOR, DLTENSOR_VERSIONED, USED_VERSIONED, ARROW_ARRAY = NAMES
ARROW_SCHEMA = b"arrow_schema"
READ_ONLY, IS_COPIED = 1, 2


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", P(ctypes.c_int64)),
        ("strides", P(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Legacy(ctypes.Structure):
    _fields_ = [
        ("tensor", DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", Release),
    ]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Release),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


class ArrowSchema(ctypes.Structure):
    _fields_ = [
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", Release),
        ("private", ctypes.c_void_p),
    ]


class ArrowArray(ctypes.Structure):
    _fields_ = [
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", P(ctypes.c_void_p)),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", Release),
        ("private", ctypes.c_void_p),
    ]


def numbers(values):
    return (ctypes.c_int64 * len(values))(*values) if values is not None else None


# What C still points to, by the number of its producer, until it is released.
alive = {}
serial = itertools.count()


class Tensor:
    """A DLPack tensor in memory of ctypes. `deleted` counts the calls of its deleter."""

    def __init__(
        self,
        data,
        shape,
        *,
        dtype=(2, 64, 1),
        strides=None,
        offset=0,
        flags=None,
        version=(1, 0),
        device=(1, 0),
        name=None,
        ndim=None,
        address=None,
    ):
        """`flags` of None is a tensor without a version."""
        self.deleted = 0
        self.asked = []
        self.device = device
        self.data, self.shape, self.strides = data, numbers(shape), numbers(strides)
        tensor = DLTensor(
            ctypes.addressof(data) if address is None else address,
            *device,
            len(shape or ()) if ndim is None else ndim,
            *dtype,
            ctypes.cast(self.shape, P(ctypes.c_int64)),
            ctypes.cast(self.strides, P(ctypes.c_int64)),
            offset,
        )
        number = next(serial)

        def delete(_):
            self.deleted += 1
            alive.pop(number, None)

        self.deleter = Release(delete)
        if flags is None:
            self.managed, self.name = Legacy(tensor, None, self.deleter), name or DLTENSOR
        else:
            self.managed = Versioned(*version, None, self.deleter, flags, tensor)
            self.name = name or DLTENSOR_VERSIONED
        alive[number] = self
        self.capsule = capsule_new(ctypes.addressof(self.managed), self.name, None)

    def __dlpack__(self, *, max_version=None):
        self.asked.append(max_version)
        return self.capsule

    def __dlpack_device__(self):
        return self.device


class Arrow:
    """An Arrow array of one buffer. `released` counts the calls of its release function."""

    def __init__(
        self,
        data,
        length,
        *,
        format=b"g",
        offset=0,
        null_count=0,
        valid=None,
        n_buffers=2,
        n_children=0,
        dictionary=None,
        address=None,
    ):
        self.released = 0
        self.data, self.valid = data, valid
        self.buffers = (ctypes.c_void_p * 2)(
            None if valid is None else ctypes.addressof(valid),
            ctypes.addressof(data) if address is None else address,
        )
        number = next(serial)

        def release_array(pointer):
            self.released += 1
            ArrowArray.from_address(pointer).release = Release()
            alive.pop(number, None)

        def release_schema(pointer):
            ArrowSchema.from_address(pointer).release = Release()

        self.functions = Release(release_array), Release(release_schema)
        self.array = ArrowArray(
            length,
            null_count,
            offset,
            n_buffers,
            n_children,
            ctypes.cast(self.buffers, P(ctypes.c_void_p)),
            None,
            None,
            self.functions[0],
            None,
        )
        self.schema = ArrowSchema(
            format, b"", None, 0, n_children, None, dictionary, self.functions[1], None
        )
        alive[number] = self

    def __arrow_c_array__(self, requested_schema=None):
        return (
            capsule_new(ctypes.addressof(self.schema), ARROW_SCHEMA, None),
            capsule_new(ctypes.addressof(self.array), ARROW_ARRAY, None),
        )
