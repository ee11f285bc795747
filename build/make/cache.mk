## ---- the cache

.PHONY: test-power bench-cache
test-power: ## power cuts, kills (500) and damaged indexes, at length
	@BOXD_POWER=500 BOXD_MODEL_STEPS=300000 $(GO) test -timeout 1500s -v \
		-run 'PowerCut|Killed|Damaged|Fault|Model' ./internal/durable ./internal/state ./internal/cache | \
		grep -Ev '^(=== |--- PASS)'
bench-cache: ## the cache beside nginx and sha1sum: writes, syncs, reads, hashing, opening the index
	@$(GO) test -count=1 -tags bench -timeout 20m -v -run TestBench ./internal/cache | grep -Ev '^(=== |--- PASS|PASS|ok)'
