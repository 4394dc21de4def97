"""A model in onnxruntime, with trunk tensors as further outputs and errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfc.claim.claim import ImageInput
from onnxfc.errors import ReadError
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import ort_session
from onnxfc.proof.providers import Engine, fallen, idle

Array = NDArray[Any]
Arrays = dict[str, Array]

SLICE = 8
"""Images that are looked at of a batch of many more."""
_NO_NUMPY = "tensor(bfloat16)"
_DTYPES = {"float": "float32", "double": "float64", "string": "object"}


class RunError(Exception):
    """onnxruntime could not load or run a model; the text is one line."""


class Unseen(RunError):
    """A model runs, but not all of its tensors can be handed to or by Python."""


@dataclass(frozen=True)
class InputInfo:
    """An input as onnxruntime sees it; None in ``shape`` is a free dim."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Runner:
    """One session. ``tensors`` are fetched with the model's own outputs; they may be graph inputs."""

    def __init__(self, model: ModelFile, tensors: Sequence[str], engine: Engine, *, optimise: bool = True) -> None:
        own = [output.name for output in model.proto.graph.output]
        inputs = {value.name for value in model.proto.graph.input}
        # onnxruntime takes no input for a further output, and up to 1.23 gives the first run's for an own one that is
        # an input: what was fed is handed back instead.
        self._echo = tuple(name for name in dict.fromkeys((*own, *tensors)) if name in inputs)
        extra = [name for name in dict.fromkeys(tensors) if name not in inputs and name not in own]
        self._session = _one_line(
            lambda: ort_session.session(model, extra_outputs=extra, engine=engine, optimize=optimise)
        )
        for value in (*self._session.get_inputs(), *self._session.get_outputs()):
            if value.type == _NO_NUMPY:
                raise Unseen(f"{value.name} is bfloat16, which onnxruntime neither takes from Python nor gives to it")
        self._batch = engine.batch
        self.outputs = tuple(own)
        self._fetch = [name for name in (*own, *extra) if name not in inputs]
        self.inputs = {
            value.name: InputInfo(_dims(value.shape), _dtype(value.type)) for value in self._session.get_inputs()
        }

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs and tensors for these inputs, floats cast to the model's own type. Raises RunError."""
        mine = {name: value for name, value in feeds.items() if name in self.inputs}
        taken = {name: _cast(value, self.inputs[name].dtype) for name, value in mine.items()}
        whole = {name: self._whole(name, value) for name, value in taken.items()} if self._batch else taken
        values = _one_line(lambda: self._session.run(self._fetch, whole)) if self._fetch else []  # none means all
        found = dict(zip(self._fetch, map(self._few, values), strict=True))
        for name, value in found.items():
            if not isinstance(value, np.ndarray):
                raise RunError(f"output {name} is not a tensor")
        lost = next((name for name in self._echo if name not in taken), None)
        if lost is not None:
            raise RunError(f"{lost} is an input with a value of its own, which was not given")
        return found | {name: taken[name] for name in self._echo}

    def _whole(self, name: str, value: Array) -> Array:
        """A few images, again and again, for as many as the model takes."""
        fits = self.inputs[name].shape[:1] in ((None,), (self._batch,))
        few = fits and value.ndim > 1 and len(value) == SLICE
        return np.resize(value, (self._batch, *value.shape[1:])) if few else value

    def _few(self, value: Any) -> Any:
        many = self._batch and isinstance(value, np.ndarray) and value.shape[:1] == (self._batch,)
        return value[:SLICE].copy() if many else value

    @property
    def fallen(self) -> tuple[str, ...]:
        """Nodes that another provider left to the CPU."""
        return tuple(fallen(self._session))

    @property
    def idle(self) -> str:
        """That the provider that was asked for computes nothing; "" if it does."""
        return idle(self._session)

    def free_batch(self, images: Sequence[ImageInput]) -> bool:
        """True if every one of these inputs has a batch, which is free."""
        return all(image.batched and self.inputs[image.name].shape[:1] == (None,) for image in images)


def _cast(value: Array, dtype: np.dtype[Any]) -> Array:
    return value.astype(dtype) if value.dtype.kind == dtype.kind == "f" else value


def _one_line(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (RunError, MemoryError, OSError):
        raise  # the system's own errors, a working directory that is gone say, tell nothing of the model
    except ReadError as error:  # one line already
        raise RunError(str(error)) from error
    except Exception as error:
        # onnxruntime's exceptions have no common base below Exception; its messages span many lines.
        kind = MemoryError if ort_session.no_memory(error) else RunError
        raise kind(ort_session.one_line(error)) from error


def _dims(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in shape)


def _dtype(kind: str) -> np.dtype[Any]:
    inner = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(_DTYPES.get(inner, inner))
    except TypeError as error:
        raise RunError(f"an input of type {kind} cannot be made") from error
