"""NumPy as the other side of DLPack. Run by scripts/check-dlpack with the path of the bridge."""

import ctypes
import gc
import sys

import numpy

bridge = ctypes.CDLL(sys.argv[1])
bridge.doubled.restype = ctypes.c_void_p
bridge.doubled.argtypes = [ctypes.c_void_p, ctypes.c_int]
bridge.held_bytes.restype = ctypes.c_uint64
api = ctypes.pythonapi
api.PyCapsule_GetPointer.restype = ctypes.c_void_p
api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
names = {0: (b"dltensor", b"used_dltensor"), 1: (b"dltensor_versioned", b"used_dltensor_versioned")}


class Result:
    """What warpconv gave, for numpy.from_dlpack."""

    def __init__(self, pointer, versioned):
        self.capsule = api.PyCapsule_New(pointer, names[versioned][0], None)

    def __dlpack__(self, **_):
        return self.capsule

    def __dlpack_device__(self):
        return (1, 0)


def doubled(array, versioned):
    """2 * array, computed by a convolution of warpconv."""
    capsule = array.__dlpack__(max_version=(1, 0)) if versioned else array.__dlpack__()
    name, used = names[versioned]
    pointer = api.PyCapsule_GetPointer(capsule, name)
    api.PyCapsule_SetName(capsule, used)  # it is warpconv's to release now
    result = bridge.doubled(pointer, versioned)
    assert result, "warpconv refused the array"
    return numpy.from_dlpack(Result(result, versioned))


numbers = numpy.random.default_rng(1).standard_normal((2, 4, 9, 11)).astype(numpy.float32)
arrays = {
    "packed": numbers,
    "a crop": numbers[:, 1:3, 2:7, 3:10],
    "channels last": numbers.transpose(0, 3, 1, 2),
    "every other image": numbers[::2],
}
versions = [0] + ([1] if tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 1) else [])
for versioned in versions:
    for name, array in arrays.items():
        before = sys.getrefcount(array)
        result = doubled(array, versioned)
        assert numpy.array_equal(result, 2 * array), name
        assert sys.getrefcount(array) == before, f"{name}: NumPy's array was released once"
        held = bridge.held_bytes()
        assert held >= array.nbytes, f"{name}: {held} bytes"
        del result
        gc.collect()
        assert bridge.held_bytes() == 0, f"{name}: warpconv's tensor was released"
print(f"check-dlpack: {len(arrays) * len(versions)} arrays of NumPy {numpy.__version__} went to warpconv and came back")
