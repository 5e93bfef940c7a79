# make demo    installs into .venv and runs the tour (no root, no kernel)
# make test    installs the test tools and runs every check and test
# make test-vm runs the tests of attaching on Debian's kernels, in virtual machines (root, Debian)
PY := .venv/bin/python
.PHONY: demo test test-vm check format bench clean

demo: .venv/installed
	@.venv/bin/ebpf tour

test: check
	@tools/test-tools
	@tools/test

test-vm: .venv/tested
	@tools/test-vm

check: .venv/tested
	@.venv/bin/ruff format --check -q . || { echo "run: make format" >&2; exit 1; }
	@.venv/bin/ruff check -q .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-cache > .venv/contracts.log || { tail -40 .venv/contracts.log; exit 1; }
	@$(PY) -m pytest -q -p no:cacheprovider -m "not linux" tests/docs

format: .venv/tested
	@.venv/bin/ruff format -q .
	@.venv/bin/ruff check -q --fix .

bench: .venv/tested
	@for f in bench/*.py; do echo "== $$f"; $(PY) $$f || exit 1; done
	@$(PY) -m bench.engine

# The two steps of an install: what the package needs from PyPI, then the package itself with its runtime compiled.
.venv/installed: pyproject.toml
	@python=$$(tools/find-python) && { [ -x $(PY) ] || $$python -m venv .venv; }
	@echo "installing into .venv (the first time: about 160 MB)" >&2
	@$(PY) -m pip install -q --disable-pip-version-check --prefer-binary setuptools wheel "ziglang==0.17.1" "llvmlite==0.50.*" "rich>=13"
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(PY) -m ebpf.engine.runtime
	@touch $@

.venv/tested: .venv/installed
	@$(PY) -m pip install -q --disable-pip-version-check --prefer-binary -e '.[test]' --no-build-isolation
	@touch $@

clean:
	rm -rf .venv build dist src/*.egg-info src/ebpf/engine/runtime/built
