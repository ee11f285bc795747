# Benches of fetching. They need root (network namespaces) and take minutes.
.PHONY: bench-swarm bench-fetch bench-viewer

bench-swarm: ## origin copies and times of 4, 8 and 16 homes, beside libtorrent and transmission (HOMES=4,8 CLIENTS=boxd:8,…)
	$(GO) test -count=1 -tags bench -timeout 60m -run TestSwarm ./bench/swarm
