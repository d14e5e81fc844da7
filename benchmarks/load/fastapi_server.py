"""sentence-transformers behind FastAPI, as people write it: what resift's server is compared with.

CHECKPOINT=... uvicorn --app-dir benchmarks/load fastapi_server:app
"""

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

torch.set_num_threads(int(os.environ.get("THREADS", torch.get_num_threads())))
model = CrossEncoder(os.environ["CHECKPOINT"], device="cpu")
app = FastAPI()


class RerankBody(BaseModel):
    query: str
    documents: list[str]
    top_n: int | None = None


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/v2/rerank")
def rerank(body: RerankBody):
    scores = model.predict([(body.query, document) for document in body.documents], show_progress_bar=False)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return {"results": [{"index": index, "relevance_score": float(scores[index])} for index in order[: body.top_n]]}
