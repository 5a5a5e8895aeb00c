"""Tests of the frameworks: the agents on the pages of the docs, each run in its own environment.

python -m tests.frameworks                   # all environments; writes benchmarks/results/frameworks.json
python -m tests.frameworks core openai1      # only these environments; keeps the results of the others
python -m tests.frameworks.environments      # lock the newest compatible versions
"""
