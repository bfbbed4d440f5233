"""Collect part by part without Prefect, for the test that kills it; the steps are the flow's own."""

import sys
from pathlib import Path

from data.pool import Pool, pending
from flows.collect import collect_part, make_contract, read_all_questions
from flows.config import Config
from models.load import load_generator, load_reward_model

config = Config.model_validate_json(Path(sys.argv[1]).read_text())
generator, reward = load_generator(config.generator), load_reward_model(config.reward)
pool = Pool.create(config.pool_location, make_contract(generator, reward))
print("ready", flush=True)
new = pending(read_all_questions(config), pool)
for start in range(0, len(new), 2):
    collect_part.fn(new[start : start + 2], 0, config.collect, generator, reward, pool)
