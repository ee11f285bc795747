# The home in network namespaces: its tests, and the benches that the figures come from.

E2E_PKGS += ./internal/netlab ./internal/lan ./test/home
E2E_TIMEOUT_internal_netlab := 180
E2E_TIMEOUT_internal_lan := 420
E2E_TIMEOUT_test_home := 720
NEEDS += avahi-daemon:avahi-daemon dbus-daemon:dbus unshare:util-linux

# What bench-home runs: all, or one of Copies, Courier, Joiner, ...
HOME_BENCH ?= .

.PHONY: bench-home
bench-home: ## copies over the access line, times and take-overs of a home against curl, in namespaces, needs root
	@HOME_BENCH_RUN=1 $(GO) test -count=1 -timeout 60m -v -run 'TestBench.*$(HOME_BENCH)' ./test/home

.PHONY: test-churn
test-churn: ## 24 simulated hours of boxes that come, go, die and are cut off
	@LAN_CHURN_HOURS=24 $(GO) test -count=1 -timeout 10m -v -run TestChurn ./internal/lan

.PHONY: bench-play bench-viewing
bench-play: ## Chromium, ffmpeg and mpv play, over 20 Mbit/s, what is not here: a film of 1 GiB, WebM, HLS (ONLY=mp4-front,hls PLAY=15s FILM_MIB=1100)
	@command -v mpv >/dev/null || apt-get install -qq -y mpv >/dev/null
	@HOME_BENCH_RUN=1 $(GO) test -count=1 -timeout 20m -v -run 'TestBenchPlay$$' ./test/home

bench-viewing: ## what a box that fetches at full speed costs somebody who begins to watch on it: processor, disk
	@HOME_BENCH_RUN=1 $(GO) test -count=1 -timeout 20m -v -run 'TestBenchViewing$$' ./test/home
