"""Self-test: whether the graphs compute here, as they are loaded, some of the logits that the artifact stores.

An execution provider that resift does not promise is tested at every load. A promised one is tested once for each file of a graph,
version of onnxruntime and processor, which a small file in the user's cache remembers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resift import machine
from resift.errors import ProviderError
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

log = logging.getLogger(__name__)

POOLS = 4
"""Number of the certificate's pools of which the best and the worst document are scored."""

_passed: set[str] = set()
"""Keys of the self-tests that this process has passed; see `_key`."""


def check(sessions: Sessions, artifact: Artifact, graphs: Sequence[Graph], submit: Callable[..., Future[Any]]) -> None:
    """Raises ProviderError if a logit of a stored pair differs by more than its bound.

    Pairs that the settings cut are left out. `submit` is that of the Reranker whose `sessions` these are; its Future has a Scored.
    """
    test = _check_promised if sessions.provider in providers.SUPPORTED else _check_unpromised
    for graph in {graph.name: graph for graph in graphs}.values():
        test(sessions, artifact, graph, submit)


def _check_unpromised(sessions: Sessions, artifact: Artifact, graph: Graph, submit: Callable[..., Future[Any]]) -> None:
    """Tests pairs of the certificate; the bound is its bound of errors, a share of the range of the logits that it holds."""
    from resift.artifact.certificate import Certificate  # others need not import it

    certificate, provider, file = Certificate.read(artifact), ORT_NAMES[sessions.provider], sessions.variant(graph.name).file
    stored = []
    for pool in [pool for pool in certificate.all_pools if pool.documents][:POOLS]:
        logits = pool.variants[file]
        ends = [int(np.argmax(logits)), int(np.argmin(logits))]
        stored.append((pool.query, [pool.documents[end] for end in ends], [logits[end] for end in ends]))
    differences = _differences(graph, stored, submit)
    if not differences:
        log.warning("%s is not tested: every pair that the artifact stores for it is cut", provider)
        return
    bound = certificate.bounds.error * float(np.ptp(np.concatenate([pool.variants[file] for pool in certificate.pools])))
    if not max(differences) <= bound:
        raise ProviderError(
            f"{provider} does not compute what the certificate of {file} holds: the logits of {len(differences)} stored "
            f"pairs differ by up to {max(differences):.2g}; expected at most {bound:.2g}: use other provider_options, "
            "or the provider cpu"
        )


def _check_promised(sessions: Sessions, artifact: Artifact, graph: Graph, submit: Callable[..., Future[Any]]) -> None:
    """Tests the pairs of the manifest's self-test of the graph's file, unless they have passed before."""
    manifest, variant = artifact.manifest, sessions.variant(graph.name)
    file = variant.file
    self_test = manifest.self_tests.get(file)
    if self_test is None:
        return
    files = [file] if variant.document is None else [file, variant.document.file]
    key = _key(sessions.provider, [manifest.files[name].sha256 for name in files])
    if key in _passed or os.path.isfile(_cache() / key):  # noqa: PTH113 - Path.is_file raises where a folder cannot be read
        return
    differences = _differences(graph, [(pair.query, [pair.document], [pair.logit]) for pair in self_test.pairs], submit)
    if not differences:
        return
    if not max(differences) <= self_test.bound:
        oldest, newest = manifest.onnxruntime
        raise ProviderError(
            f"onnxruntime {providers.runtime().__version__} on this processor ({', '.join(sorted(machine.instruction_sets()))}) "
            f"does not compute what {file} computed at export: the logits of {len(differences)} stored pairs differ by up to "
            f"{max(differences):.2g}; expected at most {self_test.bound:.2g}: install an onnxruntime from {oldest} to {newest}, or "
            "export the checkpoint on this machine"
        )
    _passed.add(key)
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        (_cache() / key).touch()
    except OSError as error:
        log.debug("the self-test of %s is not remembered: %s", file, error)


def _differences(graph: Graph, stored: StoredPairs, submit: Callable[..., Future[Any]]) -> list[float]:
    """How far each pair's logit is from the stored one, of the pairs that are neither cut nor read in windows."""
    plan, differences = Plan([Stage(graph.name)]), []
    for query, documents, logits in stored:
        scored = submit(query, documents, plan=plan).result()
        is_whole = (scored.tokens_cut == 0) & (scored.query_tokens_cut == 0)
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
