"""ONNX Runtime, thinly: providers that really work, sessions, and tensors that stay on the device.

Nothing here knows graphs or methods: a session is made from the bytes of a model and its weights.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from onnxcam.errors import OpError, OptionError, RuntimeFailure, close_matches

PROVIDERS = {  # the names that users write → ONNX Runtime's
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
VERSION: str = ort.__version__
_ON_CUDA = ("cuda", "tensorrt")
_SOURCE = re.compile(r"/onnxruntime_src/\S+ .*?\) (?=[A-Z])")  # where in its C++ it was said
_FATAL = 4  # ONNX Runtime's log level: what goes wrong reaches us as exceptions

Feed: TypeAlias = "np.ndarray | ort.OrtValue"

ort.set_default_logger_severity(_FATAL)


@dataclass(frozen=True)
class Device:
    """Where graphs run: `provider` as users write it, `threads` on the CPU (0: all cores)."""

    provider: str = "cpu"
    threads: int = 0

    @property
    def kind(self) -> str:
        """ONNX Runtime's word for the memory of this device."""
        return "cuda" if self.provider in _ON_CUDA else "cpu"


def choose(provider: str = "auto", threads: int = 0) -> Device:
    """The device for `provider`; "auto" is CUDA where a session on it can be made, else the CPU.

    Raises:
        OptionError: there is no such provider.
        RuntimeFailure: it cannot run here; the message lists those that can.
    """
    if threads < 0:
        raise OptionError(f"threads is a number of CPU threads, 0 for all cores, not {threads}")
    name = provider.lower().removesuffix("executionprovider")
    if name == "auto":
        return Device("cuda" if works("cuda") else "cpu", threads)
    if name not in PROVIDERS:
        raise OptionError(
            f"there is no provider {provider!r}{close_matches(provider, PROVIDERS)}; "
            f"choose auto, {', '.join(PROVIDERS)}"
        )
    if not works(name):
        able = ", ".join(n for n in PROVIDERS if works(n))
        raise RuntimeFailure(
            f"provider {name!r} cannot run on this machine ({_why_not(name)}); "
            f"those that can: {able}; --provider auto takes the best"
        )
    return Device(name, threads)


@functools.cache
def works(provider: str) -> bool:
    """Whether a session on `provider` can really be made on this machine."""
    if provider == "cpu":
        return True
    if PROVIDERS[provider] not in ort.get_available_providers():
        return False
    if provider in _ON_CUDA:
        if not _cuda_devices():
            return False
        _preload()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        session = ort.InferenceSession(_TINY, options, providers=[PROVIDERS[provider]])
    except Exception:  # whatever it is: this provider does not work here
        return False
    return bool(session.get_providers()[0] == PROVIDERS[provider])


def _why_not(provider: str) -> str:
    if PROVIDERS[provider] not in ort.get_available_providers():
        return "the installed onnxruntime was built without it"
    if provider in _ON_CUDA and not _cuda_devices():
        return "no NVIDIA driver or no GPU was found"
    return (
        "its libraries are missing or of another version; pip install 'onnxcam[cuda]' brings them"
    )


def _cuda_devices() -> int:
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


@functools.cache
def _preload() -> None:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def free_memory(device: Device) -> int | None:
    """Bytes of device memory that are free, or None where that is not known (CPU)."""
    if device.kind != "cuda":
        return None
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    for library in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            cudart = ctypes.CDLL(library)
        except OSError:
            continue
        if cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0:
            return free.value
    return None


class Session:
    """A model made ready to run on a device. Safe to call from several threads."""

    def __init__(self, model: bytes, weights: Mapping[str, np.ndarray], device: Device) -> None:
        """Makes the session; the arrays of `weights` are used where they lie.

        Raises:
            RuntimeFailure: ONNX Runtime refuses the graph.
        """
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = device.threads
        # A memory pattern keeps a second arena beside that of the first run: twice the copies.
        options.enable_mem_pattern = False
        self._held = [np.ascontiguousarray(w) for w in weights.values()]
        values = [ort.OrtValue.ortvalue_from_numpy(w) for w in self._held]
        if values:
            options.add_external_initializers(list(weights), values)
        wanted = [PROVIDERS[device.provider]]
        if device.provider == "tensorrt":
            wanted.append(PROVIDERS["cuda"])
        try:
            self._session = ort.InferenceSession(model, options, providers=wanted)
        except Exception as error:
            text = _first_line(error)
            if "not a registered function/op" in text:
                raise OpError(f"ONNX Runtime cannot run the model: {text}") from error
            raise RuntimeFailure(f"ONNX Runtime refuses the graph: {text}") from error
        self.device = device
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None) -> list[Any]:
        """Runs the model; results as numpy arrays.

        Raises:
            RuntimeFailure: the run failed; the message says at which node.
        """
        if self.device.kind == "cpu" and all(isinstance(f, np.ndarray) for f in feeds.values()):
            try:
                return list(self._session.run(outputs, dict(feeds)))
            except Exception as error:
                raise _failed(error) from error
        return [v.numpy() for v in self.keep(feeds, outputs)]

    def keep(
        self, feeds: Mapping[str, Feed], outputs: Sequence[str] | None = None
    ) -> list[ort.OrtValue]:
        """Runs the model and leaves the results on the device, as inputs for other sessions."""
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs or self.outputs:
            binding.bind_output(name, self.device.kind)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise _failed(error) from error
        return list(binding.get_outputs())


class Pool:
    """Sessions made on first use and kept: one for each key, however many threads ask."""

    def __init__(self) -> None:
        """An empty pool."""
        self._lock = threading.Lock()
        self._sessions: dict[Any, Session] = {}

    def get(self, key: Any, make: Any) -> Session:
        """The session kept under `key`; `make()` gives it the first time."""
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = make()
            return self._sessions[key]


def _failed(error: Exception) -> RuntimeFailure:
    text = _first_line(error)
    if "alloc" in text.lower():
        return RuntimeFailure(
            f"memory ran out: {text}; allow less with --memory, or a smaller image"
        )
    return RuntimeFailure(f"the model failed while running: {text}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    text = _SOURCE.sub("", text)
    return text if len(text) <= 400 else f"{text[:150]} … {text[-240:]}"


_TINY = (  # Identity of one float: IR 8, opset 13
    b'\x08\x08:+\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\t\n\x01x\x12\x04\n\x02\x08\x01'
    b"b\t\n\x01y\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
