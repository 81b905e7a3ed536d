# Two commands do everything on a fresh Debian machine with Rust and a C compiler: `make demo` and `make test`.
# They install what is missing, such as cmake, and say so.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
TARGET = $(or $(CARGO_TARGET_DIR),target)

.PHONY: help setup demo release install check test test-all bench soak sbom clean

help:
	@echo 'make demo              build, then serve three small services behind the proxy'
	@echo 'make release           build target/release/ravelin'
	@echo 'make install PREFIX=…  build, and put it under PREFIX (default: /usr/local)'
	@echo 'make check             layout, lints, documents and dependencies'
	@echo 'make test              all of that, every test, and every configuration in conf/ and docs/'
	@echo 'make test-all          the same, with the suites that take long'
	@echo 'make bench             CPU per request beside nginx, HAProxy and the smallest Pingora proxy'
	@echo 'make soak              ten minutes of good and hostile traffic (SECONDS=…): memory and descriptors level off'
	@echo 'make sbom              a bill of materials (CycloneDX) of what is built in'
	@echo 'make setup             only install what the build needs'
	@echo 'make clean             remove what was built'

setup:
	@scripts/setup

release: setup
	$(CARGO) build --locked --release --bin ravelin

# For `install`, which root may call without a Rust of its own: nothing is built if nothing has changed.
$(TARGET)/release/ravelin: Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	$(MAKE) release

demo: release
	$(TARGET)/release/ravelin demo

install: $(TARGET)/release/ravelin
	install -D -m 755 $(TARGET)/release/ravelin $(DESTDIR)$(PREFIX)/bin/ravelin
	install -D -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/ravelin/LICENSE
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/ravelin README.md CHANGELOG.md docs/*.md docs/schema.json conf/ravelin.yaml conf/ravelin.service
	cd conf && find examples -type f -exec install -D -m 644 '{}' '$(abspath $(DESTDIR)$(PREFIX))/share/doc/ravelin/{}' ';'

check:
	@scripts/setup --test
	.ci/check

test: export RAVELIN_TEST_PEERS = 1
test: check
	scripts/test
	scripts/check-conf $(TARGET)/debug

# Suites that take long run only where this is set. What a debug build can't show, memory and the time of a reload, is asked of the program
# as it is delivered.
test-all: export RAVELIN_TEST_ALL = 1
test-all: test release
	RAVELIN_TEST_PROGRAM=$(abspath $(TARGET)/release/ravelin) $(CARGO) test --locked --test idle --test reload -- --test-threads=1 idle large ten_thousand
	RAVELIN_TEST_PROGRAM=$(abspath $(TARGET)/release/ravelin) $(CARGO) test --locked --test chaos

bench: release
	$(CARGO) build --locked --release --example bare_pingora --example tls_load
	benches/compare/run

# Python 3.11 or later.
soak: release
	benches/soak $(TARGET)/release/ravelin $(or $(SECONDS),600)

sbom:
	@mkdir -p $(TARGET)
	scripts/sbom > $(TARGET)/ravelin.cdx.json
	@echo 'wrote $(TARGET)/ravelin.cdx.json'

clean:
	$(CARGO) clean
