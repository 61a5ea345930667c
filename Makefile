# Every directory with a go.mod is a module, but those that only hold what tests look at.
MODULES := $(sort $(dir $(shell find . -name go.mod -not -path './.*' -not -path '*/testdata/*')))

.PHONY: test lint bench microbench examples pictures fuzz soak mutate release-require release-check

# Every test of every module, and how long each took.
test:
	@./.ci/test $(MODULES)

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

# The examples, each for a short while, and what they print.
examples:
	./.ci/examples

# The pictures in the documentation, but those of make bench. Takes some three minutes,
# wants Chromium, and for preempt the machine for itself.
pictures:
	go test -C examples/starvation -run TestPlot -update
	go test -C examples/urgency -run TestPlot -update
	go test -C examples/tenants -run TestPlot -update
	go test -C examples/overload -run TestPlot -update
	go test -C examples/scale -run TestPlot -update
	go run -C examples/preempt . -o preempt.svg
	go test -C dashboard/browsertest -trimpath -run Screenshots -screenshots ../../docs/images .

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

# Before a release, see CONTRIBUTING.md: VERSION=v0.1.0.
VERSION ?= v$(shell sed -n 's/^\#\# \[\([0-9.]*\)\].*/\1/p' CHANGELOG.md | head -n 1)
release-require: # has all modules require each other at VERSION
	sed -i.bak -E 's#^(require |	)(github\.com/taskpool-go/taskpool[^ ]*) v[^ ]+#\1\2 $(VERSION)#' $(MODULES:%=%go.mod)
	rm $(MODULES:%=%go.mod.bak)
	@set -e; for m in $(MODULES); do (cd $$m && go mod tidy); done
release-check:
	./.ci/release-check $(VERSION)
