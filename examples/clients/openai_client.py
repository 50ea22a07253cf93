"""Every route asked by the stock `openai` client, whole and streamed. usage: python openai_client.py ["a question"]"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENBOOK_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("OPENBOOK_API_KEY", "none"),
)
question = sys.argv[1] if len(sys.argv) > 1 else "When was service back after the flood?"
messages = [{"role": "user", "content": question}]

for route in client.models.list():
    reply = client.chat.completions.create(model=route.id, messages=messages)
    message = reply.choices[0].message
    print(f"{route.id}: {message.content} ({reply.usage.total_tokens} tokens)")
    for annotation in message.annotations or []:
        print(f"  from {annotation.url_citation.title}: {annotation.url_citation.url}")

    print("  streamed:", end=" ")
    for chunk in client.chat.completions.create(model=route.id, messages=messages, stream=True):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
