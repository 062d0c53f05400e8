"""The compiled kernels: found where the installation put them, else compiled on first use."""

import ctypes
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from convnext.ops.cpu import building, cache
from convnext.ops.cpu.kernel_sets import Feature, KernelSet
from convnext.ops.cpu.plan import MAX_STAGES, Plan

__all__ = ["Library", "UnavailableError", "library"]

logger = logging.getLogger(__name__)

VERSION = 2  # of the interface in native/api.h
PARTS = ("stem, downsample", "depthwise", "LayerNorm", "GEMM 1, GELU", "GRN", "GEMM 2, residual")


class UnavailableError(Exception):
    """Why native code does not run here, in one line."""


class Call(ctypes.Structure):
    """`convnext_call` of `native/api.h`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("version", "kernels", "threads")),
        *((name, ctypes.c_int64) for name in ("n", "channels", "height", "width")),
        *((f"stride_{name}", ctypes.c_int64) for name in "nchw"),
        *((f"stem_{name}", ctypes.c_int64) for name in ("kernel", "stride", "padding", "norm")),
        *((name, ctypes.c_int64) for name in ("grn", "num_stages")),
        *((name, ctypes.c_int64 * MAX_STAGES) for name in ("depths", "dims")),
        ("eps", ctypes.c_double),
        ("quantised", ctypes.c_char_p),
    )


class Library:
    """A loaded file of kernels.

    Args:
        path: Where it is.

    Raises:
        OSError: It cannot be loaded, or is not what its name says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not _is_whole(path):
            raise OSError(f"{path} is not a whole library")
        native = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        try:
            features, self._run = native.convnext_cpu_features, native.convnext_run
        except AttributeError as error:
            raise OSError(str(error)) from None
        features.argtypes, features.restype = (), ctypes.c_uint64
        pointers = ctypes.POINTER(ctypes.c_void_p)
        self._run.argtypes = (
            ctypes.POINTER(Call),
            ctypes.c_void_p,
            pointers,
            ctypes.c_int64,
            pointers,
            ctypes.c_void_p,
        )
        self._run.restype = ctypes.c_int
        self.features = Feature(features())

    def run(
        self,
        plan: Plan,
        kernels: KernelSet,
        x: Tensor,
        weights: Sequence[int],
        outputs: Sequence[Tensor | None],
        eps: float,
        profile: Tensor | None = None,
    ) -> None:
        """Compute a network into the given outputs; other Python threads run meanwhile.

        Args:
            plan: The network.
            kernels: The set of kernels; the CPU must have what it needs.
            x: (N, in_chans, H, W), fp32, on the CPU, any strides.
            weights: Addresses of the weights, packed for these kernels.
            outputs: For each stage (N, C_i, H_i, W_i) with channels last in memory, then (N, C);
                None where not wanted.
            eps: Of every LayerNorm.
            profile: (stages, 6), fp64: gets the seconds of `PARTS`, summed over threads.

        Raises:
            MemoryError: There is no memory for intermediate values.
            RuntimeError: The kernels refuse.
        """
        call = _call(plan, kernels, x, eps)
        status = self._run(
            ctypes.byref(call),
            x.data_ptr(),
            (ctypes.c_void_p * len(weights))(*weights),
            len(weights),
            (ctypes.c_void_p * len(outputs))(
                *[None if o is None else o.data_ptr() for o in outputs]
            ),
            None if profile is None else profile.data_ptr(),
        )
        if status == 1:
            shape = "x".join(map(str, x.shape))
            raise MemoryError(f"no memory for images of {shape}; give the network fewer at a time")
        if status:
            reason = {2: "malformed call", 3: "not for this CPU"}.get(status, f"status {status}")
            raise RuntimeError(f"the kernels {kernels.name} refuse: {reason}")


def _call(plan: Plan, kernels: KernelSet, x: Tensor, eps: float) -> Call:
    stages = ctypes.c_int64 * MAX_STAGES
    strides = dict(zip(("stride_n", "stride_c", "stride_h", "stride_w"), x.stride(), strict=True))
    sizes = dict(zip(("n", "channels", "height", "width"), x.shape, strict=True))
    return Call(
        version=VERSION,
        kernels=kernels.number,
        threads=torch.get_num_threads(),
        stem_kernel=plan.stem_kernel,
        stem_stride=plan.stem_stride,
        stem_padding=plan.stem_padding,
        stem_norm=plan.stem_norm,
        grn=plan.grn,
        num_stages=len(plan.dims),
        depths=stages(*plan.depths),
        dims=stages(*plan.dims),
        eps=eps,
        quantised=bytes(plan.quantised) or None,
        **strides,
        **sizes,
    )


_loading = threading.Lock()
_loaded: Library | str | None = None


def library() -> Library:
    """The kernels; compiled now if they are not yet.

    Raises:
        UnavailableError: They cannot be had; the reason is logged the first time.
    """
    global _loaded
    with _loading:
        if _loaded is None:
            try:
                _loaded = find()
            except UnavailableError as reason:
                _loaded = str(reason)
                logger.warning("no native CPU kernels, plain PyTorch runs instead: %s", reason)
    if isinstance(_loaded, str):
        raise UnavailableError(_loaded)
    return _loaded


def find() -> Library:
    """Look where the installation puts the kernels and in the user's cache, else compile them.

    Raises:
        UnavailableError: There are none, and they cannot be compiled.
    """
    if not building.supported():
        raise UnavailableError("they are for x86-64 processors under Linux")
    _share_openmp()
    try:
        # as trusted as the Python files beside it
        installed = building.SOURCES / building.library_name()
        if installed.is_file() and (found := _loadable(installed)):
            return found
        return _of_this_user()
    except building.BuildError as error:
        raise UnavailableError(str(error)) from None
    except OSError as error:
        raise UnavailableError(f"{error.filename} cannot be read ({error.strerror})") from None


def _of_this_user() -> Library:
    """From the cache, compiled by a compiler of today, or by any if there is none now.

    Raises:
        BuildError: There is none there, and none can be compiled.
    """
    folder = cache.own_folder()
    start = f"kernels-{building.source_key()}-{building.system_key()}"
    compilers = {
        folder / f"{start}-{building.compiler_key(compiler)}.so": compiler
        for compiler in building.compilers()
    }
    if found := _first(compilers or sorted(folder.glob(f"{start}-*.so"))):
        return found
    if not compilers:
        raise building.no_compiler()
    try:
        with cache.locked(folder):
            return _first(compilers) or _compiled(compilers)  # another process may have been faster
    except OSError as error:
        raise building.BuildError(
            f"{folder} cannot be written ({error.strerror}); set CONVNEXT_CACHE to another folder"
        ) from None


def _first(paths: Iterable[Path]) -> Library | None:
    loadable = (_loadable(path) for path in paths if cache.trusted(path))
    return next(filter(None, loadable), None)


def _compiled(compilers: Mapping[Path, Sequence[str]]) -> Library:
    """By the first compiler that can, each to its own file."""
    reasons = []
    for target, compiler in compilers.items():
        if known := cache.failure(target):
            reasons.append(known)
            continue
        logger.warning("compiling the native CPU kernels, once: up to half a minute")
        try:
            building.build(target, compiler=compiler)
            return Library(target)
        except building.CompilerError as error:
            reasons.append(str(error))
            cache.remember_failure(target, reasons[-1])
        except building.BuildError as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"what was compiled does not load: {error}")
            cache.remember_failure(target, reasons[-1])
    raise building.BuildError("; ".join(dict.fromkeys(reasons)))


def _is_whole(path: Path) -> bool:
    """Whether a library in ELF has its end: to load one that was cut off kills the process."""
    with path.open("rb") as file:
        header = file.read(64)
    sections = int.from_bytes(header[40:48], "little")  # their table comes last
    size, number = (int.from_bytes(header[i : i + 2], "little") for i in (58, 60))
    whole = 0 < sections <= path.stat().st_size - size * number
    return header.startswith(b"\x7fELF") and whole


def _loadable(path: Path) -> Library | None:
    try:
        return Library(path)
    except OSError as error:
        logger.info("%s does not load: %s", path, error)
        return None


class _SymbolInfo(ctypes.Structure):
    """`Dl_info` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _share_openmp() -> None:
    """Make PyTorch's own OpenMP library visible to what is loaded after it.

    A process may hold several; the right one is where PyTorch's code finds its functions.

    Raises:
        UnavailableError: PyTorch was built without OpenMP.
    """
    info = _SymbolInfo()
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        address = ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p)
        found = ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
        if not found or info.file is None:
            raise OSError
        ctypes.CDLL(os.fsdecode(info.file), mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    except (OSError, AttributeError):
        raise UnavailableError("this PyTorch does not use OpenMP") from None
