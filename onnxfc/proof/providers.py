"""Execution providers: where onnxruntime runs a model. Built-in ones by name, plugins by the package that brings them.

Nothing falls back in silence: the provider of a session is the one that was asked for, and nodes that it leaves to the
CPU are named. https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/usage.html
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxfc.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
_PACKAGES = "onnxruntime_"
"""What the packages of plugins are called by, onnxruntime_ep_openvino for example."""
_OWN = ("fallback", "hardware")
_STRICT = "session.disable_cpu_ep_fallback"
_NO_KERNELS = "session.disable_quant_qdq"
_RECORD = "session.record_ep_graph_assignment_info"
_ASSIGNMENT = "get_provider_graph_assignment_info"


@dataclass(frozen=True)
class Provider:
    """An execution provider and its options. ``fallback``: nodes that it does not take may run on the CPU, and are
    named. ``hardware``: of a plugin that serves several, the one to use (cpu, gpu or npu). ``asked``: its name, as it
    was given."""

    name: str
    options: tuple[tuple[str, str], ...] = ()
    fallback: bool = False
    hardware: str = ""
    asked: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Provider:
        """``NAME`` or ``NAME:key=value,key=value``. Raises UsageError."""
        if not isinstance(text, str):
            raise UsageError(f"provider: must be a name such as 'CUDA', not {text!r}")
        name, _, rest = text.partition(":")
        pairs = [item.partition("=") for item in rest.split(",")] if rest else []
        given = {key: value for key, _, value in pairs}
        if not name or len(given) < len(pairs) or any(not key or not equals for key, equals, _ in pairs):
            raise UsageError(f"provider: must be NAME or NAME:key=value,key=value, each key once, not {text!r}")
        if given.get("fallback", "allow") != "allow":
            raise UsageError(f"provider: fallback can only be allow, not {given['fallback']!r}")
        hardware = given.get("hardware", "").lower()
        if hardware not in ("", "cpu", "gpu", "npu"):
            raise UsageError(f"provider: hardware must be cpu, gpu or npu, not {given['hardware']!r}")
        rest_of = tuple((key, value) for key, value in given.items() if key not in _OWN)
        return cls(name, rest_of, "fallback" in given, hardware, name)

    def __str__(self) -> str:
        told = [f"{key}={value}" for key, value in self.options]
        return f"{self.name} ({', '.join(told)})" if told else self.name

    def found(self) -> Provider:
        """The provider by its full name, its library loaded. Raises UsageError where it cannot be used here."""
        return _found(self)

    def device(self) -> ort.OrtEpDevice | None:
        """The first device of a plugin that fits; None for a built-in provider."""
        import onnxruntime as ort

        if self.name in ort.get_available_providers():
            return None
        return next(iter(_devices(self)))


@cache
def _found(provider: Provider) -> Provider:
    import onnxruntime as ort

    _one_owner()
    if provider.fallback and not hasattr(ort.InferenceSession, _ASSIGNMENT):
        raise UsageError(f"provider: onnxruntime {ort.__version__} does not tell what falls back; use 1.24 or newer")
    built_in = [name for name in ort.get_available_providers() if _is_called(provider.name, name)]
    if built_in == [CPU] and provider.options:
        raise UsageError(f"provider: {CPU} takes no options; onnxruntime would pass over {provider.options[0][0]}")
    return replace(provider, name=built_in[0]) if built_in else _from_package(provider)


@dataclass(frozen=True)
class Engine:
    """How a session computes: ``threads`` of one operator (0 is onnxruntime's choice), and where. ``strict``: nothing
    runs elsewhere, unless the provider's options allow it. ``batch``: so many images models take, of which
    the first few are looked at. ``as_written``: see CheckOptions."""

    threads: int = 0
    provider: Provider | None = None
    strict: bool = False
    batch: int = 0
    as_written: bool = False

    @property
    def closed(self) -> bool:
        """Whether a node on the CPU is an error."""
        return self.strict and self.provider is not None and self.provider.name != CPU and not self.provider.fallback

    def prepare(self, options: ort.SessionOptions) -> dict[str, Any]:
        """Set session options; returns the arguments of the session."""
        options.intra_op_num_threads = self.threads
        if self.as_written:
            options.add_session_config_entry(_NO_KERNELS, "1")
        if self.provider is None:
            return {"providers": [CPU], "enable_fallback": 0}
        options.add_session_config_entry(_RECORD, "1")
        if self.closed:
            options.add_session_config_entry(_STRICT, "1")
        device = self.provider.device()
        if device is None:
            return {"providers": [(self.provider.name, dict(self.provider.options))], "enable_fallback": 0}
        options.add_provider_for_devices([device], dict(self.provider.options))
        return {"enable_fallback": 0}

    def made(self, session: ort.InferenceSession) -> str:
        """What is wrong with a session: that it is on another provider; "" if nothing."""
        session.disable_fallback()
        have = session.get_providers()
        wanted = CPU if self.provider is None else self.provider.name
        if have[:1] != [wanted]:
            return f"onnxruntime runs it on {have[0]} instead of {wanted}"
        return idle(session) if self.strict else ""


def idle(session: ort.InferenceSession) -> str:
    """That another provider than the CPU computes nothing in a session, as far as this onnxruntime tells; "" if not."""
    name = session.get_providers()[0]
    works = name == CPU or not hasattr(session, _ASSIGNMENT) or _nodes(session, name)
    return "" if works else f"{name} takes none of its nodes"


def fallen(session: ort.InferenceSession) -> list[str]:
    """Nodes that the CPU computes in a session on another provider, as far as this onnxruntime tells (from 1.24 on)."""
    alone = session.get_providers()[0] == CPU or not hasattr(session, _ASSIGNMENT)
    return [] if alone else _nodes(session, CPU)


def _nodes(session: ort.InferenceSession, provider: str) -> list[str]:
    graphs = [graph for graph in getattr(session, _ASSIGNMENT)() if graph.ep_name == provider]
    return [f"{node.name} ({node.op_type})" for graph in graphs for node in graph.get_nodes()]


def told(nodes: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    return ", ".join(nodes[:most]) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")


def _is_called(given: str, name: str) -> bool:
    return given.lower() in (name.lower(), name.lower().removesuffix("executionprovider"))


def _from_package(provider: Provider) -> Provider:
    """A plugin of one of the packages that are installed."""
    import onnxruntime as ort

    libraries = _libraries(provider.name)
    for package, names in libraries.items():
        wanted = [name for name in names if _is_called(provider.name, name) or provider.name == package]
        if wanted and hasattr(ort, "register_execution_provider_library"):
            return _registered(replace(provider, name=wanted[0]), package)
    have = [
        *ort.get_available_providers(),
        *(f"{name} of {package}" for package, own in libraries.items() for name in own),
    ]
    raise UsageError(
        f"provider {provider.name}: there is none here; onnxruntime {ort.__version__} has {', '.join(have)}; "
        "install the package that brings it"
    )


def _libraries(asked: str) -> dict[str, list[str]]:
    """Packages with a plugin, and the providers that it has; one that is ``asked`` for may be called anything."""
    found = {}
    for item in pkgutil.iter_modules():
        if not item.name.startswith(_PACKAGES) and item.name != asked:
            continue
        module = importlib.import_module(item.name)
        if _path_of(module) is not None:
            names = (
                module.get_ep_names() if hasattr(module, "get_ep_names") else [getattr(module, "EP_NAME", item.name)]
            )
            found[item.name] = list(names)
    return found


def _path_of(module: Any) -> Any:
    return getattr(module, "get_library_path", getattr(module, "library_path", None))


def _registered(provider: Provider, package: str) -> Provider:
    """The provider, by the name that its library gives it, which not every package tells."""
    import onnxruntime as ort

    if package not in _loaded:
        before = _names()
        try:
            if provider.name not in before:
                ort.register_execution_provider_library(provider.name, _path_of(sys.modules[package])())
        except Exception as error:  # the package's own, or onnxruntime's, which have no common base
            line = " ".join(str(error).split())[:300]
            raise UsageError(f"provider {provider.name}: the library of {package} cannot be loaded: {line}") from error
        _loaded[package] = _names() - before
    if provider.name not in _names() and len(_loaded[package]) == 1:
        provider = replace(provider, name=next(iter(_loaded[package])))
    if not _devices(provider):
        wanted = f" of the kind {provider.hardware}" if provider.hardware else ""
        raise UsageError(f"provider {provider.name}: {package} finds no device{wanted} on this machine that it can use")
    return provider


_loaded: dict[str, set[str]] = {}
"""The providers that each package has brought."""


def _names() -> set[str]:
    import onnxruntime as ort

    return {device.ep_name for device in ort.get_ep_devices()}


def _devices(provider: Provider) -> list[Any]:
    import onnxruntime as ort

    own = [device for device in ort.get_ep_devices() if device.ep_name == provider.name]
    return [item for item in own if provider.hardware.upper() in ("", item.device.type.name)]


def _one_owner() -> None:
    """Two distributions that wrote into the folder ``onnxruntime`` leave a mixture of both."""
    owners = sorted(set(importlib.metadata.packages_distributions().get("onnxruntime", ())))
    if len(owners) > 1:
        raise UsageError(
            f"provider: the folder onnxruntime belongs to {' and '.join(owners)}, which overwrote each other's files; "
            "uninstall all of them and install one"
        )
