# What a developer types. Every target works from a fresh clone; `make` alone lists them.
.POSIX:
PATH_WITH_CARGO = PATH="$$PATH:$$HOME/.cargo/bin"
COMPOSE = $$(docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: help test demo campaign browser bench lint up down

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

test: ## all tests, against a real RabbitMQ (Docker, or this machine's own)
	@$(PATH_WITH_CARGO) tests/setup
	$(PATH_WITH_CARGO) cargo test --locked --workspace

demo: ## watch the worker handle faults, live
	@$(PATH_WITH_CARGO) tests/setup
	$(PATH_WITH_CARGO) cargo build --locked
	$(PATH_WITH_CARGO) cargo run --locked --quiet --package demo

campaign: ## inject faults into workers, broker, network and API for two minutes, and check all records against the promise
	@$(PATH_WITH_CARGO) tests/setup
	$(PATH_WITH_CARGO) cargo run --locked --package campaign -- $(CAMPAIGN)

browser: ## the console in a real browser (installs chromium and Playwright)
	@$(PATH_WITH_CARGO) tests/setup
	$(PATH_WITH_CARGO) cargo build --locked
	$(PATH_WITH_CARGO) cargo run --locked --package browser -- $(BROWSER)

bench: ## CPU time per command, compared with a minimal program and other ways to do the job
	@$(PATH_WITH_CARGO) tests/setup
	@$(PATH_WITH_CARGO) tests/bench/peers/setup
	$(PATH_WITH_CARGO) cargo run --release --locked --package bench -- --json target/bench.json --picture target/bench.svg $(BENCH)

lint: ## format, clippy, docs, licences, advisories
	$(PATH_WITH_CARGO) cargo fmt --all --check
	$(PATH_WITH_CARGO) cargo clippy --locked --workspace --all-targets -- -D warnings
	$(PATH_WITH_CARGO) RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
	$(PATH_WITH_CARGO) cargo fetch --locked
	$(PATH_WITH_CARGO) cargo deny --workspace --offline check bans licenses sources
	$(PATH_WITH_CARGO) cargo audit $(AUDIT)

up: ## RabbitMQ, the sandbox API and the worker, in containers (see docker-compose.yml)
	GIT_COMMIT=$$(git rev-parse HEAD 2>/dev/null || true) $(COMPOSE) up -d --build

down: ## stop them and remove their data
	$(COMPOSE) down -v --remove-orphans
