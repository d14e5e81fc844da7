"""Session: one graph on one execution provider."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from resift.errors import ArtifactError, ClosedError, InferenceError, ProviderError
from resift.providers import ORT_NAMES, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from resift.providers import Policy

INPUTS = ("input_ids", "token_type_ids")
OUTPUT = "logits"


class Session:
    """Runs batches of one graph, which it opens at its first use. Any number of threads may use it at once.

    After a fork, in the child, it opens the graph anew at the first run: onnxruntime's threads do not survive a fork, and a run on
    what the parent had would wait for them for ever.
    """

    def __init__(self, read_graph: Callable[[], bytes], policy: Policy) -> None:
        """For the ONNX graph that `read_graph` returns."""
        self._read_graph = read_graph
        self._policy = policy
        self._closed = False
        self._lock = threading.Lock()
        self._session: Any = None
        _live.add(self)

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Logits float32[b, labels] of inputs int64[b, width]; inputs the graph does not know are left out.

        Raises InferenceError where onnxruntime fails, and as `open` does.
        """
        session = self._session or self.open()
        try:
            logits: NDArray[np.float32] = session.run([OUTPUT], {name: batch[name] for name in self._names})[0]
        except _failures() as error:
            rows, width = batch[INPUTS[0]].shape
            raise InferenceError(
                f"onnxruntime failed on {rows} pairs of {width} tokens: {error}; if memory is short, ask for fewer threads or a "
                "smaller max_length, else check the artifact with `resift verify`"
            ) from error
        return logits

    def open(self) -> Any:
        """Opens the graph, unless it is open, and returns onnxruntime's session.

        Raises ArtifactError if it is not what `resift export` writes, ProviderError if the provider does not start, and
        ClosedError after `close`.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("this Reranker is closed; load another")
            if self._session is None:
                self._session = self._open()
            return self._session

    def close(self) -> None:
        """Frees the graph; batches that other threads are running still finish."""
        with self._lock:
            self._closed = True
            self._session = None

    def _open(self) -> Any:
        onnxruntime = runtime()
        name = ORT_NAMES[self._policy.provider]
        graph = self._read_graph()
        try:
            session = onnxruntime.InferenceSession(graph, sess_options=self._policy.options(), providers=[name])
        except _failures() as error:
            raise ArtifactError(
                f"onnxruntime {onnxruntime.__version__} cannot load this graph: {error}; export the checkpoint again"
            ) from error
        if name not in session.get_providers():
            raise ProviderError(
                f"onnxruntime could not start {name} on this machine; its log on stderr says why. Use provider='cpu'"
            )
        inputs = {item.name: item.type for item in session.get_inputs()}
        outputs = {item.name: item.type for item in session.get_outputs()}
        fits = "input_ids" in inputs and set(inputs) <= set(INPUTS) and set(inputs.values()) == {"tensor(int64)"}
        if not fits or outputs != {OUTPUT: "tensor(float)"}:
            raise ArtifactError(
                f"the graph reads {inputs} and answers {outputs}; expected int64 {' and '.join(INPUTS)} (the second optional) "
                f"and float {OUTPUT}: it was not made by `resift export`"
            )
        self._names = tuple(inputs)
        return session

    def forget_after_fork(self) -> None:
        """In a forked child: lets go of the parent's graph, so that the next run opens it anew."""
        if self._session is not None:
            # Its destructor joins threads that the child does not have: keep it alive for ever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session = None
        self._lock = threading.Lock()


def _failures() -> tuple[type[Exception], ...]:
    """Every error that onnxruntime raises by a status of its own, and the plain ones of its binding (std::exception, memory)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    own = [kind for kind in vars(states).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, MemoryError, ValueError)


_live: weakref.WeakSet[Session] = weakref.WeakSet()


def _renew_sessions() -> None:
    for session in list(_live):
        session.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_sessions)
