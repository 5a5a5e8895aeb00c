"""The framework matrix: agents as the docs print them, carried out by our runner in environments of their own.

python -m tests.frameworks                   # all of them; writes benchmarks/results/frameworks.json
python -m tests.frameworks core openai1      # these environments only, the others' results stay
python -m tests.frameworks.environments      # locks the newest versions that fit
"""
