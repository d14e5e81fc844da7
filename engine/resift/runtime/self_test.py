"""Self-test: whether an execution provider that resift does not promise computes some of the certificate's logits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from resift.artifact.certificate import Certificate
from resift.errors import ProviderError
from resift.plans import Plan, Stage
from resift.runtime.providers import ORT_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from resift.artifact.folder import Artifact
    from resift.artifact.manifest import Graph
    from resift.runtime.sessions import Sessions

log = logging.getLogger(__name__)

POOLS = 4
"""Number of stored pools of which the best and the worst document are scored."""


def check_provider(sessions: Sessions, artifact: Artifact, graphs: Sequence[Graph], submit: Callable[..., Future[Any]]) -> None:
    """Raises ProviderError if a logit of a stored pair differs by more than the certificate's bound of errors.

    The bound is a share of the range of all logits that the certificate holds for the variant. Pairs that the settings cut are
    left out; if they are all, that is logged. `submit` is that of the Reranker whose `sessions` these are; its Future has a Scored.
    """
    certificate, provider = Certificate.read(artifact), ORT_NAMES[sessions.provider]
    for graph in {graph.name: graph for graph in graphs}.values():
        file, plan = sessions.variant(graph.name).file, Plan([Stage(graph.name)])
        differences: list[float] = []
        for pool in certificate.pools[:POOLS]:
            stored = np.array(pool.variants[file])
            ends = [int(stored.argmax()), int(stored.argmin())]
            scored = submit(pool.query, [pool.documents[end] for end in ends], plan=plan).result()
            is_whole = (scored.tokens_cut == 0) & (scored.query_tokens_cut == 0)
            if scored.windows is not None:
                is_whole &= scored.windows == 1
            differences += np.abs(scored.logits - stored[ends])[is_whole].tolist()
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
