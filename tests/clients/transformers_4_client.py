"""Asks a published student with an older transformers: FOLDER, and chats as JSON on stdin."""

from __future__ import annotations

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
prompts, outputs = [], []
for chat in json.load(sys.stdin):
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    batch = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**batch, max_new_tokens=12, do_sample=False)
    prompts.append(prompt)
    new = output[0, batch.input_ids.shape[1] :]
    outputs.append(tokenizer.decode(new, skip_special_tokens=True).strip())
print(json.dumps({"version": transformers.__version__, "prompts": prompts, "outputs": outputs}))
