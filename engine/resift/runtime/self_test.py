"""Self-test: whether the graphs compute here, as they are loaded, some of the logits that the artifact stores.

The CPU is tested once for each file of a graph, version of onnxruntime and processor, which a small file in the user's cache
remembers. CUDA is tested at every load, as nothing here tells one GPU, driver or option from another, and so is an execution
provider that resift does not promise.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resift import machine
from resift.errors import InferenceError, LogitsError, OverloadedError, ProviderError
from resift.plans import Plan, Stage
from resift.runtime import providers
from resift.runtime.providers import ORT_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph
    from resift.runtime.sessions import Sessions

    StoredPairs = Sequence[tuple[str, list[str], list[float]]]
    """queries, each with documents and their logits"""
    Compare = Callable[[Graph, StoredPairs], list[float]]

log = logging.getLogger(__name__)

POOLS = 4
"""Number of the certificate's pools of which the best and the worst document are scored."""

_passed: set[str] = set()
"""Keys of the self-tests that this process has passed; see `_key`."""


def check(
    sessions: Sessions, artifact: Artifact, graphs: Sequence[Graph], submit: Callable[..., Future[Any]], max_length: int
) -> None:
    """Raises ProviderError if a logit of a stored pair differs by more than its bound.

    Pairs that the settings cut are left out. `submit` and `max_length`, the tokens of the longest pair, are those of the Reranker
    whose `sessions` these are; the Future of `submit` has a Scored. A packed graph that fails, or that nothing can be compared
    with, gives way to the graph that computes padding, which is tested in its place.
    """
    compare = partial(_differences, submit=submit, max_length=max_length)
    test = _check_promised if sessions.provider in providers.SUPPORTED else _check_unpromised
    for graph in {graph.name: graph for graph in graphs}.values():
        try:
            is_compared = test(sessions, artifact, graph, compare)
        except (ProviderError, InferenceError, LogitsError) as error:
            if not sessions.is_packed(graph.name):
                raise
            sessions.compute_padding(graph.name, str(error))
            test(sessions, artifact, graph, compare)
        else:
            if not is_compared and sessions.is_packed(graph.name):
                sessions.compute_padding(graph.name, "the artifact stores no logits by which it can be tested with these settings")


def _check_unpromised(sessions: Sessions, artifact: Artifact, graph: Graph, compare: Compare) -> bool:
    """Tests pairs of the certificate; the bound is its bound of errors, a share of the range of the logits that it holds.

    Returns whether there were any.
    """
    from resift.artifact.certificate import Certificate  # others need not import it

    certificate, provider, file = Certificate.read(artifact), ORT_NAMES[sessions.provider], sessions.variant(graph.name).file
    stored = []
    for pool in [pool for pool in certificate.all_pools if pool.documents][:POOLS]:
        logits = pool.variants[file]
        ends = [int(np.argmax(logits)), int(np.argmin(logits))]
        stored.append((pool.query, [pool.documents[end] for end in ends], [logits[end] for end in ends]))
    differences = compare(graph, stored)
    if not differences:
        log.warning("%s is not tested: every pair that the artifact stores for it is cut", provider)
        return False
    bound = certificate.bounds.error * float(np.ptp(np.concatenate([pool.variants[file] for pool in certificate.pools])))
    if not max(differences) <= bound:
        raise ProviderError(
            f"{provider} does not compute what the certificate of {file} holds: the logits of {len(differences)} stored "
            f"pairs differ by up to {max(differences):.2g}; expected at most {bound:.2g}: use other provider_options, "
            "or the provider cpu"
        )
    return True


def _check_promised(sessions: Sessions, artifact: Artifact, graph: Graph, compare: Compare) -> bool:
    """Tests the pairs of the manifest's self-test of the graph's file, unless they have passed before, on the CPU.

    Returns whether there were any.
    """
    manifest, variant, is_cpu = artifact.manifest, sessions.variant(graph.name), sessions.provider == "cpu"
    file = variant.file
    self_test = manifest.self_tests.get(file)
    if self_test is None:
        return False
    files = [file] if variant.document is None else [file, variant.document.file]
    key = _key(sessions.provider, [manifest.files[name].sha256 for name in files])
    if is_cpu and (key in _passed or os.path.isfile(_cache() / key)):  # noqa: PTH113 - Path.is_file may raise
        return True
    differences = compare(graph, [(pair.query, [pair.document], [pair.logit]) for pair in self_test.pairs])
    if not differences:
        return False
    if not max(differences) <= self_test.bound:
        oldest, newest = manifest.onnxruntime
        place = f"processor ({', '.join(sorted(machine.instruction_sets()))})" if is_cpu else "GPU"
        mend = "export the checkpoint on this machine" if is_cpu else "use the provider cpu"
        raise ProviderError(
            f"onnxruntime {providers.runtime().__version__} on this {place} does not compute what {file} computed at export: the "
            f"logits of {len(differences)} stored pairs differ by up to {max(differences):.2g}; expected at most "
            f"{self_test.bound:.2g}: install an onnxruntime from {oldest} to {newest}, or {mend}"
        )
    if is_cpu and len(differences) == len(self_test.pairs):  # other settings may not cut the others
        _remember(key, file)
    return True


def _remember(key: str, file: str) -> None:
    """Notes that a file has passed."""
    _passed.add(key)
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        (_cache() / key).touch()
    except OSError as error:
        log.debug("the self-test of %s is not remembered: %s", file, error)


def _differences(graph: Graph, stored: StoredPairs, *, submit: Callable[..., Future[Any]], max_length: int) -> list[float]:
    """How far each pair's logit is from the stored one, of the pairs that the graph reads whole here, in one window.

    A split graph may read less of a document than `max_length` has room for, or leave the call to the full graph.
    All are submitted at once: those that wait while the first one runs share a batch, where a graph reads several lengths in one.
    """
    plan, differences = Plan([Stage(graph.name)]), []
    longest = max_length if graph.split is None else max_length - graph.split.query_tokens
    answers = [submit(query, documents, plan=plan) for query, documents, _ in stored]
    wait(answers)
    for (query, documents, logits), answer in zip(stored, answers, strict=True):
        try:
            scored = answer.result()
        except OverloadedError:  # the settings let fewer tokens wait
            scored = submit(query, documents, plan=plan).result()
        is_whole = (scored.tokens_cut == 0) & (scored.query_tokens_cut == 0) & (scored.lengths <= longest)
        is_whole &= scored.graphs == (graph.name,)
        if scored.windows is not None:
            is_whole &= scored.windows == 1
        differences += np.abs(scored.logits - np.array(logits))[is_whole].tolist()
    return differences


def _key(provider: str, digests: Sequence[str]) -> str:
    """What identifies a self-test: the file, or both files of a split graph, by SHA-256, and what computes it."""
    parts = [*digests, providers.runtime().__version__, provider, platform.machine(), *sorted(machine.instruction_sets())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _cache() -> Path:
    """The folder that remembers self-tests, whether or not it exists; a place that cannot be one where the user has no home."""
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    folder = Path(named or os.path.expanduser("~/.cache"))  # noqa: PTH111 - Path.home raises without a home
    return (folder if folder.is_absolute() else Path(os.devnull)) / "resift" / "self-tests"
