"""LangChain's endpoint, plain, streamed and cut at a stop string."""

from __future__ import annotations

import json
import sys

from langchain_huggingface import HuggingFaceEndpoint

endpoint = HuggingFaceEndpoint(endpoint_url=sys.argv[1], max_new_tokens=20, seed=3)
print(
    json.dumps(
        {
            "invoked": endpoint.invoke("hi"),
            "again": endpoint.invoke("hi"),
            "streamed": list(endpoint.stream("hi")),
            "stopped": endpoint.invoke("hi", stop=[" two"]),
        }
    )
)
