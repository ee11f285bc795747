## ---- the box's faces

NEEDS += chromium:chromium
E2E_PKGS += ./cmd/boxd
E2E_TIMEOUT_cmd_boxd := 600

.PHONY: man completions screenshots
man: ## manual pages of boxd and fleetd, in out/man
	@for p in boxd fleetd; do $(GO) run ./cmd/$$p man out/man || exit 1; done; ls out/man
completions: ## shell completions of boxd and fleetd, in out/completions
	@mkdir -p out/completions
	@for p in boxd fleetd; do for s in bash zsh fish; do \
		$(GO) run ./cmd/$$p completion $$s >out/completions/$$p.$$s || exit 1; done; done; ls out/completions
screenshots: ## pictures of the box's status page, in out/screenshots
	@$(GO) test -count=1 -timeout 240s -run TestStatusPage ./cmd/boxd && ls out/screenshots

DASH_BOXES ?= 100000
.PHONY: bench-dashboard
bench-dashboard: ## what the dashboard's pages take over HTTP with DASH_BOXES=100000, held against 200 ms
	@BOXD_BOXES=$(DASH_BOXES) $(GO) test -count=1 -timeout 600s -v -run TestPagesDoNotGrow ./internal/fleet/web | grep -v '^time='
