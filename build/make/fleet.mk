# The fleet manager: its cluster test and its bench. Both start servers of their own on loopback.

BOXES ?= 10000
FLEET_BIN := $(DIST)/fleet

.PHONY: test-cluster
test-cluster: ## three broker nodes, two fleetd and a PostgreSQL; each killed with -9 under load (two minutes)
	@BOXD_CLUSTER=1 $(GO) test -count=1 -timeout 10m -run 'TestAnyNodeMayDie' -v ./internal/fleet/server

.PHONY: bench-fleet
bench-fleet: ## BOXES=10000 simulated boxes with MQTT over mutual TLS against fleetd, the broker part beside mosquitto
	@mkdir -p $(FLEET_BIN)
	@$(GOBUILD) -o $(FLEET_BIN)/fleetd ./cmd/fleetd
	@$(GOBUILD) -o $(FLEET_BIN)/fleetbench ./internal/fleet/fleetbench
	@ulimit -n $$(ulimit -H -n) && $(FLEET_BIN)/fleetbench -fleetd $(FLEET_BIN)/fleetd -boxes $(BOXES)

.PHONY: mqtt-schemas
mqtt-schemas: ## write docs/schemas anew from the code
	@$(GO) test ./internal/mqttwire -run SchemasAre -update
