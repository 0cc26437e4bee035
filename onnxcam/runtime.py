"""ONNX Runtime, thinly: providers that really work, sessions, and tensors that stay on the device.

Nothing here knows graphs or methods: a session is made from the bytes of a model and its weights.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from onnxcam.calls import Call
from onnxcam.errors import OnnxcamError, OpError, OptionError, RuntimeFailure, close_matches

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


SessionOptions: TypeAlias = "Mapping[str, Any] | Callable[[], ort.SessionOptions] | None"
MakeSession: TypeAlias = Callable[[bytes, ort.SessionOptions, list[Any]], Any]


@dataclass(frozen=True)
class Device:
    """Where and how graphs run.

    Attributes:
        provider: as users write it.
        threads: on the CPU, 0 for all cores.
        session_options, provider_options, run_options, make_session: see `choose`.
    """

    provider: str = "cpu"
    threads: int = 0
    session_options: SessionOptions = None
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    run_options: Mapping[str, Any] = field(default_factory=dict)
    make_session: MakeSession | None = None

    @property
    def kind(self) -> str:
        """ONNX Runtime's word for the memory of this device."""
        return "cuda" if self.provider in _ON_CUDA else "cpu"

    @property
    def number(self) -> int:
        """Which of several GPUs it is."""
        return int(self.provider_options.get("device_id", 0))


def choose(
    provider: str = "auto",
    threads: int = 0,
    *,
    session_options: SessionOptions = None,
    provider_options: Mapping[str, Any] | None = None,
    run_options: Mapping[str, Any] | None = None,
    make_session: MakeSession | None = None,
) -> Device:
    """The device for `provider`; "auto" is CUDA where a session on it can be made, else the CPU.

    Args:
        provider: a name of the table, or ONNX Runtime's.
        threads: CPU threads, 0 for all cores.
        session_options: attributes of `onnxruntime.SessionOptions` and config entries (with a dot
            in their names), which go before ours; or a function that makes one, for each session.
        provider_options: options of the provider, which must then be named.
        run_options: attributes and config entries of `onnxruntime.RunOptions`.
        make_session: what is called in place of `onnxruntime.InferenceSession`.

    Raises:
        OptionError: there is no such provider or option.
        RuntimeFailure: it cannot run here; the message lists those that can.
    """
    if threads < 0:
        raise OptionError(f"threads is a number of CPU threads, 0 for all cores, not {threads}")
    name = provider.lower().removesuffix("executionprovider")
    own = dict(provider_options or {})
    if own and name in ("auto", "cpu"):
        why = "name it" if name == "auto" else "the CPU has none (session_options has its settings)"
        raise OptionError(f"provider_options belong to one provider: {why}")
    if name == "auto":
        name = "cuda" if works("cuda") else "cpu"
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
    device = Device(name, threads, session_options, own, dict(run_options or {}), make_session)
    _session_options(device)  # what is wrong with them is said now
    _run_options(device)
    return device


def _session_options(device: Device) -> ort.SessionOptions:
    given = device.session_options
    options = given() if callable(given) else ort.SessionOptions()
    if isinstance(given, ort.SessionOptions) or not isinstance(options, ort.SessionOptions):
        raise OptionError(
            "an explainer makes several sessions, and an onnxruntime.SessionOptions is good for "
            "one: session_options is a mapping of its attributes and config entries, or a "
            "function that makes one"
        )
    if options.log_severity_level == -1:
        options.log_severity_level = _FATAL
    options.intra_op_num_threads = options.intra_op_num_threads or device.threads
    # A memory pattern keeps a second arena beside that of the first run: twice the copies.
    options.enable_mem_pattern = False
    if isinstance(given, Mapping):
        _fill(options, given, options.add_session_config_entry)
    return options


def _run_options(device: Device) -> ort.RunOptions:
    options = ort.RunOptions()
    options.log_severity_level = _FATAL
    if device.run_options:
        _fill(options, device.run_options, options.add_run_config_entry)
    return options


def _fill(options: Any, values: Mapping[str, Any], add: Callable[[str, str], None]) -> None:
    """Sets attributes; names with a dot are config entries."""
    kind = type(options).__name__
    known = [n for n in dir(options) if n[0] != "_" and not callable(getattr(options, n))]
    for name, value in values.items():
        if name not in known and "." not in name:
            raise OptionError(
                f"onnxruntime.{kind} has no {name!r}{close_matches(name, known)}; config entries "
                "have a dot in their names"
            )
        try:
            if name in known:
                named = getattr(type(getattr(options, name)), "__members__", {})
                setattr(options, name, named.get(value, value) if named else value)
            else:
                add(name, str(int(value) if isinstance(value, bool) else value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(f"onnxruntime.{kind} does not take {value!r} as {name}") from error


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
        before = ctypes.c_int(0)
        cudart.cudaGetDevice(ctypes.byref(before))
        cudart.cudaSetDevice(device.number)
        found = cudart.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
        cudart.cudaSetDevice(before)
        if found:
            return min(free.value, int(device.provider_options.get("gpu_mem_limit", free.value)))
    return None


def _without(device: Device, weights: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """The optimisers that a session does without, as `onnxruntime.InferenceSession` takes them.

    On the CPU a product in half precision with a transposed batch ends the process (segmentation
    fault, seen in 1.31): both become an operator that the CPU has for float32 only.
    """
    half = any(w.dtype == np.float16 for w in weights.values())
    crashes = half and device.provider == "cpu"
    return {"disabled_optimizers": ["MatmulTransposeFusion"]} if crashes else {}


class Session:
    """A model made ready to run on a device. Safe to call from several threads."""

    def __init__(self, model: bytes, weights: Mapping[str, np.ndarray], device: Device) -> None:
        """Makes the session; the arrays of `weights` are used where they lie.

        Raises:
            RuntimeFailure: ONNX Runtime refuses the graph.
        """
        options = _session_options(device)
        self._held = [np.ascontiguousarray(w) for w in weights.values()]
        values = [ort.OrtValue.ortvalue_from_numpy(w) for w in self._held]
        if values:
            options.add_external_initializers(list(weights), values)
        wanted: list[Any] = [PROVIDERS[device.provider]]
        if device.provider_options:
            wanted = [(PROVIDERS[device.provider], dict(device.provider_options))]
        if device.provider == "tensorrt":
            wanted.append((PROVIDERS["cuda"], {"device_id": device.number}))
        # Left alone, ONNX Runtime for Python prints what went wrong and takes the CPU.
        make = device.make_session or functools.partial(
            ort.InferenceSession, enable_fallback=0, **_without(device, weights)
        )
        try:
            self._session = make(model, options, wanted)
        except Exception as error:
            text = _first_line(error)
            if "not a registered function/op" in text:
                raise OpError(f"ONNX Runtime cannot run the model: {text}") from error
            raise RuntimeFailure(f"ONNX Runtime refuses the graph: {text}") from error
        self.device = device
        self.provider = self._running_on()
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def _running_on(self) -> str:
        """The provider that really runs it: the one asked for, or that of the user's session."""
        device = self.device
        if not hasattr(self._session, "get_providers"):
            return device.provider
        first = str(self._session.get_providers()[0])
        if device.make_session is None and first != PROVIDERS[device.provider]:
            raise RuntimeFailure(
                f"ONNX Runtime took {first} in place of {PROVIDERS[device.provider]}; check "
                "provider_options, and the memory of the GPU"
            )
        return next((name for name, theirs in PROVIDERS.items() if theirs == first), first)

    def run(
        self,
        feeds: Mapping[str, Feed],
        outputs: Sequence[str] | None = None,
        call: Call | None = None,
    ) -> list[Any]:
        """Runs the model; results as numpy arrays.

        Raises:
            RuntimeFailure: the run failed; the message says at which node.
            Cancelled, Timeout: `call` is to end.
        """
        if self.device.kind == "cpu" and all(isinstance(f, np.ndarray) for f in feeds.values()):
            with self._running(call) as options:
                return list(self._session.run(outputs, dict(feeds), options))
        kept = self.keep(feeds, outputs, call)
        return [v if isinstance(v, np.ndarray) else v.numpy() for v in kept]

    def keep(
        self,
        feeds: Mapping[str, Feed],
        outputs: Sequence[str] | None = None,
        call: Call | None = None,
    ) -> list[Any]:
        """Runs the model and leaves the results on the device, as inputs for other sessions.

        Raises:
            RuntimeFailure, Cancelled, Timeout: as for `run`.
        """
        if not hasattr(self._session, "io_binding"):  # an object of the user's
            with self._running(call) as options:
                return list(self._session.run(outputs, dict(feeds), options))
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs or self.outputs:
            binding.bind_output(name, self.device.kind, self.device.number)
        with self._running(call) as options:
            self._session.run_with_iobinding(binding, options)
        return list(binding.get_outputs())

    @contextmanager
    def _running(self, call: Call | None) -> Iterator[ort.RunOptions]:
        """Options for one run, and one kind of error out of it."""
        call = call or Call()
        options = _run_options(self.device)
        try:
            with call.running(options):
                yield options
        except OnnxcamError:
            raise
        except Exception as error:
            call.check()  # it may have been stopped
            raise _failed(error) from error


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
