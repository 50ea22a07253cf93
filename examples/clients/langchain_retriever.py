"""openbook's retrieval in LangChain. usage: python langchain_retriever.py ["a question"]"""

import os
import sys

import httpx
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever


class OpenbookRetriever(BaseRetriever):
    """The best `k` passages for a query; each knows its document and the characters it stands at."""

    url: str = os.environ.get("OPENBOOK_URL", "http://127.0.0.1:8080")
    key: str = os.environ.get("OPENBOOK_API_KEY", "none")
    k: int = 5

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        response = httpx.post(
            f"{self.url}/v1/index/search",
            json={"query": query, "k": self.k},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
        )
        response.raise_for_status()
        return [Document(page_content=hit.pop("text"), metadata=hit) for hit in response.json()["hits"]]


if __name__ == "__main__":
    question = sys.argv[1] if len(sys.argv) > 1 else "When was service back after the flood?"
    for found in OpenbookRetriever(k=3).invoke(question):
        print(f"{found.metadata['score']:.3f} {found.metadata['document_id']}: {found.page_content[:80]}")
