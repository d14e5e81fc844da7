"""sentence-transformers' CrossEncoder on onnxruntime; the option is the ONNX file to load."""

from __future__ import annotations

from protocol import pairs_of, serve, split


def load(model, threads, file):
    import onnxruntime
    from sentence_transformers import CrossEncoder

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    arguments = {"file_name": file, "provider": "CPUExecutionProvider", "session_options": options}
    encoder = CrossEncoder(model, device="cpu", backend="onnx", model_kwargs=arguments)

    def score_many(pools):
        return split(encoder.predict(pairs_of(pools), show_progress_bar=False), pools)

    return (lambda query, documents: score_many([(query, documents)])[0]), score_many


serve(load, ("sentence-transformers", "optimum-onnx", "onnxruntime", "transformers", "torch"))
