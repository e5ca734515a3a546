# Every target makes .venv first if it is missing. PYTHON=... chooses the interpreter (3.11 to 3.13).
.PHONY: demo test test-all lint bench results clean
.DELETE_ON_ERROR:

PY := .venv/bin/python
RUN := runs/demo

demo: .venv/ready
	$(PY) -m experiments.demo --workdir $(RUN)

test: .venv/ready
	$(PY) -m pytest -q -n 2 --dist loadfile -m "not slow"

test-all: .venv/ready
	$(PY) -m pytest -q -n 2 --dist loadfile

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/ready .venv-peers/ready
	$(PY) -m experiments.bench unet_ops --json experiments/results/bench_unet_ops.json
	$(PY) -m experiments.bench unet --against flax,torch --json experiments/results/bench_unet.json
	$(PY) -m experiments.bench scale --rounds 30 --json experiments/results/bench_scale.json
	$(PY) -m experiments.bench together --json experiments/results/bench_together.json
	$(PY) -m experiments.bench lstm --against flax,torch,keras --json experiments/results/bench_lstm.json

results: .venv/ready
	$(PY) -m experiments.results

.venv: .venv/ready

# Python 3.13 or 3.12 where one is found (on PATH or under pyenv): jax for 3.11 is older and slower.
.venv/ready: requirements.txt
	@set -e; python="$(PYTHON)"; \
	for candidate in python3.13 python3.12 $$(ls -dr $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13.*/bin/python3 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.12.*/bin/python3 2>/dev/null) python3; do \
	  if [ -z "$$python" ] && "$$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then python="$$candidate"; fi; \
	done; \
	if [ -z "$$python" ]; then echo "error: no Python 3.11 to 3.13 found; install one, or give PYTHON=/path/to/python"; exit 1; fi; \
	echo "making .venv with $$("$$python" --version)"; \
	"$$python" -m venv .venv; \
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt; \
	touch .venv/ready

# PyTorch's CPU build for comparisons only: Python 3.11.
.venv-peers/ready: requirements-peers.txt
	@set -e; python="$(PEERS_PYTHON)"; \
	for candidate in python3.11 $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.11.*/bin/python3 2>/dev/null); do \
	  if [ -z "$$python" ] && "$$candidate" --version >/dev/null 2>&1; then python="$$candidate"; fi; \
	done; \
	if [ -z "$$python" ]; then echo "error: no Python 3.11 found for the comparison with PyTorch; give PEERS_PYTHON=/path/to/python3.11"; exit 1; fi; \
	"$$python" -m venv .venv-peers; \
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt; \
	touch .venv-peers/ready

clean:
	rm -rf .venv .venv-peers runs .pytest_cache .ruff_cache
