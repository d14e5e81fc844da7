"""Exports a checkpoint as sentence-transformers' documentation shows: ONNX float32, its O3 and its int8 for one kind of processor.

python export_onnx.py CHECKPOINT FOLDER QUANTIZATION INT8_FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model, export_optimized_onnx_model


def main(checkpoint, folder, quantization, int8_file):
    encoder = CrossEncoder(checkpoint, device="cpu", backend="onnx", model_kwargs={"export": True})
    encoder.save_pretrained(folder)
    export_optimized_onnx_model(encoder, "O3", folder)
    export_dynamic_quantized_onnx_model(encoder, quantization, folder)
    (written,) = Path(folder, "onnx").glob("model_qint8_*.onnx")
    written.rename(Path(folder, int8_file))
    encoder.tokenizer.save_pretrained(folder)


main(*sys.argv[1:])
