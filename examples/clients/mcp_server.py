"""openbook as a tool of an MCP client, over standard input and output. usage: python mcp_server.py"""

import os

import httpx
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("openbook")
client = httpx.AsyncClient(
    base_url=os.environ.get("OPENBOOK_URL", "http://127.0.0.1:8080"),
    headers={"Authorization": f"Bearer {os.environ.get('OPENBOOK_API_KEY', 'none')}"},
    timeout=120,
)


@server.tool()
async def ask(question: str, route: str = os.environ.get("OPENBOOK_ROUTE", "hybrid")) -> str:
    """Answer a question from the documents, with the passages that the answer was read from."""
    response = await client.post("/v1/answer", json={"question": question, "route": route})
    if response.is_error:
        raise ToolError(response.json()["error"]["message"])
    answer = response.json()
    sources = [
        f"[{c['number']}] {c['title']} ({c['document_id']}, characters {c['start']}-{c['end']}): {c['text']}"
        for c in answer["citations"] or answer["contexts"]
    ]
    return "\n\n".join([answer["answer"], *sources])


if __name__ == "__main__":
    server.run()
