"""kjarni, an engine of its own in Rust.

Its Reranker takes only names of its own list: the folder goes in by a field of its library's structure. Threads: those it finds.
"""

from __future__ import annotations

from ctypes import byref, c_void_p

from protocol import serve


def load(model, _threads):
    from kjarni import Reranker, reranker
    from kjarni._ffi import check_error

    class OfFolder(Reranker):
        def __init__(self, folder):
            config = reranker._lib.kjarni_reranker_config_default()
            config.model_path, config.quiet = folder.encode(), 1
            loaded = c_void_p()
            check_error(reranker._lib.kjarni_reranker_new(byref(config), byref(loaded)))
            vars(self)["_handle"] = loaded  # where the methods of the class look for it

    loaded = OfFolder(model)

    def score(query, documents):
        scores = [0.0] * len(documents)
        for result in loaded.rerank(query, documents):
            scores[result.index] = result.score
        return scores

    return score


serve(load, ("kjarni",))
