## ---- the box's faces

NEEDS += chromium:chromium
E2E_PKGS += ./cmd/boxd
E2E_TIMEOUT_cmd_boxd := 300

.PHONY: man completions screenshots
man: ## manual pages of boxd, in out/man
	@$(GO) run ./cmd/boxd man out/man && ls out/man
completions: ## shell completions of boxd, in out/completions
	@mkdir -p out/completions
	@for s in bash zsh fish; do $(GO) run ./cmd/boxd completion $$s >out/completions/boxd.$$s || exit 1; done; ls out/completions
screenshots: ## pictures of the box's status page, in out/screenshots
	@$(GO) test -count=1 -timeout 240s -run TestStatusPage ./cmd/boxd && ls out/screenshots
