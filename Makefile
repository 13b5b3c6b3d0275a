# The commands that a developer needs; README.md says what they do.
.PHONY: test bench bench-quick deb

# What stands behind `bench` goes to the benchmark, and is nothing to make: make bench -- --only waiting
ifneq ($(filter bench bench-quick,$(firstword $(MAKECMDGOALS))),)
words := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(words)
$(words): ; @:
endif

# Formatting, lints, documentation and all tests; installs what they need.
test:
	scripts/test

# Speed and memory beside what nothing better could cost, and beside what users pick instead: some nine minutes, as
# root, on a machine with FUSE. Installs what it compares with.
bench:
	scripts/install-bench-deps
	cargo bench --quiet --bench bench -- $(words)

# The same with smaller numbers: some thirty seconds.
bench-quick:
	scripts/install-bench-deps
	cargo bench --quiet --bench bench -- --quick $(words)

# The Debian package, in target/debian. Installs what it is made with.
deb:
	scripts/deb
