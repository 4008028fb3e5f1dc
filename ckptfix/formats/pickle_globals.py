"""Which globals of a pickle mean what, by allow-lists only; nothing here is ever imported or called.

Four classes: tensor builders and the plain values beside them, which the reader understands; known inert things;
other classes made as instances; everything else that is called. Source of the names: pytorch, torch/_utils.py,
torch/_tensor.py, torch/storage.py, torch/serialization.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from ckptfix.formats.pickle_nodes import COMPUTED, Use

Class = Literal["builder", "inert", "foreign", "unsafe"]

_UTILS = "torch._utils."
DENSE_BUILDERS: Final = frozenset(
    _UTILS + name for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
)
PARAMETER_BUILDERS: Final = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
        "torch.nn.Parameter",
    }
)
SUBCLASS_BUILDERS: Final = frozenset({"torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"})
# Builders of tensors that have no dense bytes of their own, and what to call such a tensor.
REFUSED_BUILDERS: Final[Mapping[str, str]] = {
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta (without data)",
    "torch._utils._rebuild_wrapper_subclass": "subclass",
    "torch._utils._rebuild_device_tensor_from_numpy": "numpy-backed device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "device",
    "torch._utils._rebuild_xla_tensor": "device",
}
TENSOR_CLASSES: Final = frozenset({"torch.Tensor", "torch._tensor.Tensor"})  # torch names them and never calls them
TENSOR_BUILDERS: Final = (
    DENSE_BUILDERS | PARAMETER_BUILDERS | SUBCLASS_BUILDERS | TENSOR_CLASSES | REFUSED_BUILDERS.keys()
)
DICTIONARIES: Final = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter"})

# Plain values that the pickle has no opcode for.
_PLAIN: Final = frozenset(
    {
        "_codecs.encode",
        "copyreg._reconstructor",
        "copy_reg._reconstructor",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
    }
)
_INERT: Final = frozenset(
    {
        "argparse.Namespace",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy._core.numeric._frombuffer",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePath",
        "pathlib.PurePosixPath",
        "pathlib.PureWindowsPath",
        "pathlib.WindowsPath",
        "types.SimpleNamespace",
        "uuid.UUID",
    }
)
_BUILTINS: Final = frozenset(
    {"bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set"}
    | {"long", "slice", "str", "tuple", "unicode", "xrange"}
)
# torch names that only stand as arguments: storages, dtypes, schemes, tensor classes.
_TORCH_STORAGES: Final[Mapping[str, str]] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "",
}
_STORAGE_MODULES: Final = frozenset({"torch", "torch.cuda", "torch.storage", "__torch__.torch", "torch.sparse"})
# Builders that call what their arguments name: how each argument in turn is used.
CALLED_THROUGH: Final[Mapping[str, tuple[str, ...]]] = {
    "torch._tensor._rebuild_from_type": ("call", "make"),
    "torch._tensor._rebuild_from_type_v2": ("call", "make"),
    "torch._utils._rebuild_wrapper_subclass": ("make",),
    "copyreg._reconstructor": ("make", "call"),  # runs base.__init__
    "copy_reg._reconstructor": ("make", "call"),
    "numpy.core.multiarray._reconstruct": ("make",),
    "numpy._core.multiarray._reconstruct": ("make",),
    "collections.defaultdict": ("call",),  # its factory, for a key that is missing
}


def storage_dtype(module: str, name: str) -> str | None:
    """torch's word for the element type of a storage class, "" for an untyped one, None for what is no storage."""
    return _TORCH_STORAGES.get(name) if module in _STORAGE_MODULES else None


def classify(use: Use) -> Class:
    """The class of one use of a global; merely naming a class or a function of an unknown kind is foreign."""
    module, name, how = use
    full = f"{module}.{name}"
    if name == COMPUTED or how == "change":
        return "unsafe"
    if full in TENSOR_BUILDERS or full in DICTIONARIES or full in _PLAIN:
        return "builder"
    if module in ("builtins", "__builtin__") and name in _BUILTINS:
        return "builder"
    if how != "call" and (storage_dtype(module, name) is not None or _is_torch_constant(module, name)):
        return "builder"
    if full in _INERT:
        return "inert"
    return "unsafe" if how == "call" else "foreign"


def _is_torch_constant(module: str, name: str) -> bool:
    """dtypes, layouts, memory formats and quantisation schemes: lower-case names right in `torch`."""
    kinds = ("float", "bfloat", "int", "uint", "complex", "bool", "bits", "q", "per_", "strided", "sparse_")
    return module == "torch" and name.islower() and name.startswith((*kinds, "contiguous_format", "channels_last"))
