# The policy, played over a simulated fleet.

.PHONY: bench-sim
bench-sim: ## the fetching policy over 10,000 simulated homes: origin copies, peak, lateness
	@BOXD_SIM_HOMES=10000 $(GO) test -timeout 300s -count=1 -run TestSwarmOfTheFleet -v ./internal/schedule
