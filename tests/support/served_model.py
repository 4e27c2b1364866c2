"""A real language model behind a loopback chat-completions server, with log-probabilities: what `vllm serve` would be, on a CPU."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOP = 20


class ServedModel:
    """Answers prompts greedily; an ``answer`` for ``judge_server.JudgeServer``."""

    def __init__(self, folder, max_new_tokens=4):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        ).eval()
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def __call__(self, prompt):
        turns = [{"role": "user", "content": prompt}]
        ids = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        positions, answer = [], []
        for _ in range(self.max_new_tokens):
            logps = self.model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
            top = logps.topk(min(TOP, len(logps)))
            token = int(top.indices[0])
            if token == self.tokenizer.eos_token_id:
                break
            answer.append(token)
            alternatives = [
                {"token": self.tokenizer.decode([int(i)]), "logprob": float(p)}
                for i, p in zip(top.indices, top.values, strict=True)
            ]
            positions.append(alternatives[0] | {"top_logprobs": alternatives})
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        return self.tokenizer.decode(answer), {"content": positions}
