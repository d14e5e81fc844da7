"""onnxruntime and tokenizers alone: the whole pool in one padded forward, as many write it; the option is the ONNX file to load."""

from __future__ import annotations

from pathlib import Path

from protocol import serve

MAX_LENGTH = 512


def load(model, threads, file):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(Path(model) / file), options, providers=["CPUExecutionProvider"])

    def score(query, documents):
        encodings = tokenizer.encode_batch([(query, document) for document in documents])
        inputs = {
            "input_ids": np.array([encoding.ids for encoding in encodings]),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings]),
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings]),
        }
        return session.run(None, inputs)[0][:, 0]

    return score


serve(load, ("onnxruntime", "tokenizers", "numpy"))
