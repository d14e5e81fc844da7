"""Files of candidate pools in any form: read them, and rank them one after another in bounded memory, or as a job that resumes."""

from resift.pools.collection import rerank_pools
from resift.pools.documents import read_documents
from resift.pools.job import Job, rerank_file
from resift.pools.reading import CandidatePool
from resift.pools.source import read_pools

__all__ = ["CandidatePool", "Job", "read_documents", "read_pools", "rerank_file", "rerank_pools"]
