# Every directory with a go.mod is a module, but those that only hold what tests look at.
MODULES := $(sort $(dir $(shell find . -name go.mod -not -path './.*' -not -path '*/testdata/*')))

.PHONY: test lint bench microbench examples fuzz soak mutate

# Every test of every module, and how long each took. With the tag invariants each step of a pool is followed by a
# look at what is to hold between its parts, see invariants.go.
test:
	@[ -n "$$TASKPOOL_POSTGRES_URL" ] || jobs/riverjobs/postgres.sh installed || echo "The tests on PostgreSQL will be skipped."
	@set -e; for m in $(MODULES); do \
		echo "== test $$m"; began=$$(date +%s); \
		(cd $$m && TASKPOOL_TEST_FULL=1 go test -race -tags invariants -shuffle=on -timeout 40m ./...); \
		echo "== test $$m took $$(($$(date +%s) - began)) s"; \
	done

# Formatting, vet, taskpoolvet, staticcheck, tidy modules, what the library imports, links and spelling.
lint:
	./.ci/lint $(MODULES)

# Everything beside other pools and channels, see benchmarks/README.md. Takes a
# quarter of an hour, and wants the machine for itself.
bench:
	cd benchmarks && go run .

# Benchmarks of the root package, with a buffered channel beside them.
microbench:
	go test -run '^$$' -bench . -benchmem .

# The programs that end by themselves.
examples:
	go run ./examples/quickstart
	go run ./examples/digest . >/dev/null

# Random operations on a pool and on its model, and random bytes on both ends of a
# child's pipes, guided by coverage. What fails is written to testdata/fuzz.
FUZZTIME ?= 1m
fuzz:
	go test -tags invariants -run '^$$' -fuzz '^FuzzPoolAgreesWithModel$$' -fuzztime $(FUZZTIME) ./test/model
	@set -e; for f in FuzzFrames FuzzParentReadsAnything FuzzChildReadsAnything; do \
		go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) ./process; \
	done

# Everything at random on several pools in real time, for as long as DURATION
# says. The test ends by itself when nothing moves any more, so it needs no
# -timeout.
DURATION ?= 5m
soak:
	go test -race -tags invariants -run '^TestSoak$$' -v -timeout 0 ./test/soak -soak $(DURATION)

# Changes the source one thing at a time and lists the changes that no test
# notices, see docs/testing.md. All files take hours;
# MUTATE='-only yield.go -j 2' gives it less to do.
mutate:
	cd tools/mutate && GOFLAGS=-tags=invariants go run . -dir ../.. $(MUTATE)
