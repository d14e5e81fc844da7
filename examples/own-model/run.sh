#!/usr/bin/env bash
# From a folder of documents to a server with a reranker that was trained on them:
#
#   pip install 'resift[train,mine,serve]'
#   bash examples/own-model/run.sh DOCUMENTS CHECKPOINT OUT [OPTIONS OF resift train]
#
# DOCUMENTS is a folder of .md and .txt files, CHECKPOINT a trained cross-encoder (a folder or a hub id), OUT a folder for all that is
# made. A step whose output is there is not run again, so that the same command goes on after an interruption, or after you have put
# better questions into OUT/queries.jsonl: those of your users, or of a language model (resift questions --endpoint).
set -euo pipefail
usage='usage: bash examples/own-model/run.sh DOCUMENTS CHECKPOINT OUT [OPTIONS OF resift train]'
documents=${1:?$usage} checkpoint=${2:?$usage} out=${3:?$usage}
shift 3
here=$(dirname "$0")
mkdir -p "$out"

if [ ! -e "$out/corpus.jsonl" ]; then
  python "$here/corpus.py" "$documents" > "$out/corpus.partial"
  mv "$out/corpus.partial" "$out/corpus.jsonl"
fi
[ -e "$out/queries.jsonl" ] || resift questions "$out/corpus.jsonl" --out "$out/queries.jsonl"
[ -e "$out/pairs.jsonl.gz" ] || resift mine "$out/corpus.jsonl" --queries "$out/queries.jsonl" --out "$out/pairs.jsonl.gz"
# Exit code 3, and no server, if the trained model ranks worse on queries that were held out, or its artifact not as it does.
[ -e "$out/artifact" ] || resift train "$checkpoint" "$out/checkpoint" --data "$out/pairs.jsonl.gz" --artifact "$out/artifact" "$@"

calibrated=()
if [ -e "$out/artifact.toml" ]; then calibrated=(--settings "$out/artifact.toml"); fi
exec resift serve --model "$out/artifact" "${calibrated[@]}"
