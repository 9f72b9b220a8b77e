# The targets behind .ci/run; each can be run alone.
GO ?= go
TEST ?= $(GO) test
FUZZTIME ?= 5s

.PHONY: benchmarks performance build check test vet race fuzz e2e gate darwin bench bench-quick nightly

build:
	$(GO) build -o bin/porthole ./cmd/porthole

check: vet test

test:
	$(GO) test ./...

vet:
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) mod tidy -diff

# A program with the race detector waits a second at its end, each of the hundreds that
# the scripts and the sandbox's tests start.
race:
	GORACE="atexit_sleep_ms=10 $$GORACE" $(TEST) -race -short -timeout 20m ./...

# Every fuzz target in turn, FUZZTIME each (a time, or runs: 5000x). A package that does
# not build fails it. Up to Go 1.26 a busy machine's fuzzer may take the end of its time
# for an error (go.dev/issue/75804): one "context deadline exceeded", and no input that
# fails.
fuzz:
	@set -e; packages=$$($(GO) list ./...); for p in $$packages; do \
	  targets=$$($(GO) test -list '^Fuzz' $$p); \
	  for f in $$(printf '%s\n' "$$targets" | grep '^Fuzz' || true); do \
	    echo "fuzz $$p $$f"; \
	    $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p >.fuzz.log 2>&1 || \
	    [ "$$(grep -A 1 -e '--- FAIL: ' .fuzz.log | sed '1s/ (.*//')" = "$$(printf -- '--- FAIL: %s\n    context deadline exceeded' $$f)" ] || \
	    { cat .fuzz.log; exit 1; }; \
	  done; \
	done; rm -f .fuzz.log

# Every go benchmark, a hundred times: none may have come to fail.
benchmarks:
	$(GO) test -run '^$$' -bench . -benchtime 100x ./... >.bench.log 2>&1 || { cat .bench.log; exit 1; }; rm -f .bench.log

# The kernel end to end: namespaces, stock clients, real devices. Nothing may skip.
e2e:
	PORTHOLE_E2E=require $(GO) test -count=1 -run '^TestKernel' .
	PORTHOLE_E2E=require $(GO) test -count=1 ./tun ./services/... ./cmd/...

# Ratios to the water device, to kernel sockets and to netstack, the request rate with a
# capture on and while metrics are scraped, what timelines cost and what many ports do,
# with wide margins.
gate:
	PORTHOLE_GATE=1 PORTHOLE_E2E=require $(GO) test -count=1 -v -run '^(TestKernelRatios|TestCaptureRate)$$' .
	PORTHOLE_GATE=1 $(GO) test -p 1 -count=1 -v -run '^(TestFlat|TestDeliveryRatio|TestDataCost|TestScrapeRate)$$' ./demux ./stack ./demux/flow ./cmd/porthole/internal/metrics

# porthole on its devices beside the same services on kernel sockets, in namespaces
# of its own (root). The long form also writes testdata/bench/bench.json and .svg.
bench: bin/bench build
	bin/bench -out testdata/bench

# The same in under a minute, and nothing written.
bench-quick: bin/bench build
	bin/bench -quick

# docs/performance.md from a bench, the growth curves and the port table's benchmark.
performance: bench
	bin/bench -curves -rounds 3 -out testdata/bench
	$(GO) test -run '^$$' -bench '^BenchmarkPath$$/B$$/ports/uniform' -count 5 ./demux >testdata/bench/demux.txt
	bin/bench -out testdata/bench -doc docs

# CPU profiles of the servers, one file per work and target, into .profiles/.
profile-http profile-dns profile-bulk: profile-%: bin/bench
	mkdir -p .profiles
	bin/bench -rounds 1 -only '^$*' -profile .profiles

.PHONY: bin/bench profile-http profile-dns profile-bulk
bin/bench:
	$(GO) build -o bin/bench ./bench

darwin:
	GOOS=darwin $(GO) build ./...
	GOOS=freebsd $(GO) build ./...

nightly: vet darwin
	PORTHOLE_LONG=1 PORTHOLE_E2E=require $(GO) test -count=1 -run '^TestKernelParity$$' .
	$(GO) test -race -count=3 ./...
	$(MAKE) fuzz FUZZTIME=5m
	$(MAKE) e2e gate bench
