"""sentence-transformers' CrossEncoder on OpenVINO; the option is the file to load."""

from __future__ import annotations

from protocol import pairs_of, serve, split


def load(model, threads, file):
    from sentence_transformers import CrossEncoder

    arguments = {"file_name": file, "ov_config": {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}}
    encoder = CrossEncoder(model, device="cpu", backend="openvino", model_kwargs=arguments)

    def score_many(pools):
        return split(encoder.predict(pairs_of(pools), show_progress_bar=False), pools)

    return (lambda query, documents: score_many([(query, documents)])[0]), score_many


serve(load, ("sentence-transformers", "optimum-intel", "openvino", "transformers", "torch"))
