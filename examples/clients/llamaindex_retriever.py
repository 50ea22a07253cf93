"""openbook's retrieval in LlamaIndex. usage: python llamaindex_retriever.py ["a question"]"""

import os
import sys

import httpx
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode


class OpenbookRetriever(BaseRetriever):
    """The best `k` passages for a query; each knows its document and the characters it stands at."""

    def __init__(self, k: int = 5) -> None:
        self._k = k
        self._client = httpx.Client(
            base_url=os.environ.get("OPENBOOK_URL", "http://127.0.0.1:8080"),
            headers={"Authorization": f"Bearer {os.environ.get('OPENBOOK_API_KEY', 'none')}"},
            timeout=60,
        )
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        body = {"query": query_bundle.query_str, "k": self._k}
        response = self._client.post("/v1/index/search", json=body).raise_for_status()
        return [
            NodeWithScore(node=TextNode(text=hit.pop("text"), metadata=hit), score=hit["score"])
            for hit in response.json()["hits"]
        ]


if __name__ == "__main__":
    question = sys.argv[1] if len(sys.argv) > 1 else "When was service back after the flood?"
    for found in OpenbookRetriever(k=3).retrieve(question):
        print(f"{found.score:.3f} {found.node.metadata['document_id']}: {found.node.get_content()[:80]}")
