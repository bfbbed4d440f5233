"""vLLM's engine behind two pipes, run as a script by another Python: it needs vLLM and nothing of ours.

A line of JSON in, one out: the engine's arguments, then prompts with how they are sampled; a text is what has
gone wrong. It ends, with all that it has started, when its standard input closes: whoever asked has gone.
"""

import json
import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import Any


def main() -> None:
    """Start the engine and answer until nobody asks."""
    del sys.path[0]  # this folder: http is another module to others
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints goes to the log
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()

    def answer(found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        from vllm import LLM, SamplingParams

        engine = LLM(**json.loads(lines.get()))
        answer(engine.model_config.max_model_len)
        while True:
            asked = json.loads(lines.get())
            prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
            how = [SamplingParams(**asked["sampling"], seed=seed) for seed in asked["seeds"]]
            found = engine.generate(prompts, how, use_tqdm=False)
            answer([[(o.text, len(o.token_ids), o.finish_reason) for o in one.outputs] for one in found])
    except Exception as error:
        answer(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
