package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// asFleetd makes this test's binary the program itself, for scripts.
const asFleetd = "BOXD_TEST_AS_FLEETD"

func TestMain(m *testing.M) {
	if os.Getenv(asFleetd) != "" {
		main()
	}
	os.Exit(m.Run())
}

// The first step of the compose file, done for real: a fleet and three nodes whose configurations NATS reads, that know each
// other and listen where the file says.
func TestTheComposeFilesFirstStep(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "compose", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^    command:\n      - \|\n((?:        .*\n)+)`).FindSubmatch(data)
	if m == nil {
		t.Fatal("no script in the compose file")
	}
	dir := t.TempDir()
	// What the volumes are in a container; $$ is compose's way to write $.
	script := strings.NewReplacer("$$", "$", "/srv/fleet", dir+"/fleet", "/etc/boxd-broker", dir+"/conf",
		"/var/lib/boxd-broker", dir+"/store").Replace(string(m[1]))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "fleetd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(context.Background(), "/bin/sh", "-ec", script)
	sh.Env = append(os.Environ(), asFleetd+"=1", "PATH="+dir+":"+os.Getenv("PATH"))
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for node, others := range map[string]string{"n1": "n2 n3", "n2": "n1 n3", "n3": "n1 n2"} {
		o := &server.Options{}
		if err := o.ProcessConfigFile(filepath.Join(dir, "conf", node+".conf")); err != nil {
			t.Fatal(err)
		}
		var routes []string
		for _, r := range o.Routes {
			routes = append(routes, r.Hostname())
			if r.Port() != "6222" {
				t.Errorf("%s looks for %s", node, r.Host)
			}
		}
		if strings.Join(routes, " ") != others {
			t.Errorf("%s knows %q", node, routes)
		}
		if o.ServerName != node || o.Port != 4222 || o.Cluster.Port != 6222 || o.MQTT.Port != 8883 || o.MQTT.TLSConfig == nil {
			t.Errorf("%s: %s listens on %d, %d and %d", node, o.ServerName, o.Port, o.Cluster.Port, o.MQTT.Port)
		}
		if !strings.HasPrefix(o.StoreDir, dir+"/store") {
			t.Errorf("%s stores in %s", node, o.StoreDir)
		}
		for _, want := range []string{"nats://" + node + ":4222", node + ":8883", `command: [fleetd, broker, /etc/boxd-broker/` + node} {
			if !strings.Contains(string(data), want) {
				t.Errorf("the compose file has no %q", want)
			}
		}
	}
}
