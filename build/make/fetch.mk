# Benches of fetching. They need root (network namespaces) and take minutes.
NEEDS += miniupnpd:miniupnpd-nftables transmission-daemon:transmission-daemon unshare:util-linux

.PHONY: bench-swarm bench-fetch bench-viewer

bench-swarm: ## origin copies and times of 4, 8 and 16 homes, beside libtorrent and transmission (HOMES=4,8 CLIENTS=boxd:8,…)
	$(GO) test -count=1 -v -tags bench -timeout 60m -run TestSwarm ./bench/swarm

bench-viewer: ## what a download costs others in the home, beside curl and aria2 (50 and 500 Mbit/s, 1 % loss, a competing download, a rate that halves, uploads; LINES=50,500 LOSS=1 CC=cubic MTU=1500 TRACE=file)
	$(GO) test -count=1 -v -tags bench,noboltdb,nosqlite -timeout 30m -run TestViewer ./bench/viewer

bench-fetch: ## CPU and memory of moving 1 GiB, beside aria2, transmission and libtorrent (MIB=1024 SOURCES=peer,slow CLIENTS=boxd,aria2c)
	$(GO) test -count=1 -v -tags bench,noboltdb,nosqlite -timeout 30m -run 'TestFetch|TestSeed' ./bench/fetch
