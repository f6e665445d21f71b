"""TGI's own Python client, which wants a huggingface-hub of before 1.0."""

from __future__ import annotations

import json
import sys

from text_generation import Client
from text_generation.errors import GenerationError, OverloadedError, ValidationError

client = Client(sys.argv[1], timeout=30)
answer = client.generate("hi", max_new_tokens=3, decoder_input_details=True, top_n_tokens=2)
streamed = list(client.generate_stream("hi", max_new_tokens=4))
chat = client.chat([{"role": "user", "content": "hi"}], max_tokens=3, temperature=0.0)
errors = {}
for name, ask in {
    "validation": lambda: client.generate("hi", max_new_tokens=3, truncate=10_000),
    "generation": lambda: client.generate("fail"),
    "stream": lambda: list(client.generate_stream("fail")),
    "overloaded": lambda: Client(sys.argv[2]).generate("hi"),
}.items():
    try:
        ask()
    except (ValidationError, GenerationError, OverloadedError) as error:
        errors[name] = type(error).__name__
print(
    json.dumps(
        {
            "text": answer.generated_text,
            "tokens": [token.text for token in answer.details.tokens],
            "prefill": len(answer.details.prefill),
            "top": [len(tokens) for tokens in answer.details.top_tokens],
            "reason": answer.details.finish_reason,
            "streamed": [event.token.text for event in streamed],
            "last": streamed[-1].generated_text,
            "chat": chat.choices[0].message.content,
            "chat_tokens": chat.usage["completion_tokens"],
            "errors": errors,
        }
    )
)
