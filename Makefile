# The targets behind .ci/run; each can be run alone.
GO ?= go
FUZZTIME ?= 5s

.PHONY: check test vet race fuzz e2e darwin bench bench-quick nightly build

build:
	$(GO) build -o bin/porthole ./cmd/porthole

check: vet test

test:
	$(GO) test ./...

vet:
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

race:
	$(GO) test -race -short ./...

# Every fuzz target in turn, FUZZTIME each.
fuzz:
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "fuzz $$p $$f"; \
	    $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p >.fuzz.log 2>&1 || { cat .fuzz.log; exit 1; }; \
	  done; \
	done; rm -f .fuzz.log

# The kernel end to end: namespaces, stock clients, real devices. Nothing may skip.
e2e:
	PORTHOLE_E2E=require $(GO) test -count=1 -run '^TestKernel' .
	PORTHOLE_E2E=require $(GO) test -count=1 ./tun ./services/... ./cmd/...

# porthole on its devices beside the same services on kernel sockets, in namespaces
# of its own (root). The long form also writes testdata/bench/bench.json and .svg.
bench: bin/bench
	bin/bench -out testdata/bench

# The same in under a minute, and nothing written.
bench-quick: bin/bench
	bin/bench -quick

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
	$(GO) test -race -count=3 ./...
	$(MAKE) fuzz FUZZTIME=5m
	$(MAKE) e2e bench
