"""Exports a checkpoint for OpenVINO: float32, sentence-transformers' static int8, and the tokenizer that OpenVINO GenAI reads.

    python export_openvino.py CHECKPOINT FOLDER TEXTS

TEXTS is a folder with a file of JSON Lines, whose "text" the int8 is calibrated on: the helper's own default needs the hub.
"""

from __future__ import annotations

import sys
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from sentence_transformers import CrossEncoder, export_static_quantized_openvino_model
from transformers import AutoTokenizer


def main(checkpoint, folder, texts):
    encoder = CrossEncoder(checkpoint, device="cpu", backend="openvino", model_kwargs={"export": True})
    encoder.save_pretrained(folder)
    export_static_quantized_openvino_model(
        encoder,
        quantization_config=None,
        model_name_or_path=folder,
        dataset_name=texts,
        dataset_config_name="default",
        dataset_split="train",
        column_name="text",
        file_suffix="int8",
    )
    tokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(checkpoint), with_detokenizer=False)
    openvino.save_model(tokenizer, Path(folder, "openvino_tokenizer.xml"))


main(*sys.argv[1:])
