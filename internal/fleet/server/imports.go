package server

import (
	"fmt"
	"path/filepath"

	"boxd/internal/fleet/publish"
)

// importDirs resolves the directories that operators may publish from. None may hold the manager's own, nor lie in it.
func importDirs(o Options) ([]string, error) {
	own, err := filepath.EvalSymlinks(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	var dirs []string
	for _, dir := range o.Imports {
		real, err := filepath.Abs(dir)
		if err == nil {
			real, err = filepath.EvalSymlinks(real)
		}
		if err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		if publish.Below(own, real) || publish.Below(real, own) {
			return nil, fmt.Errorf("import %s: the manager's keys are in %s: choose another directory", dir, o.Dir)
		}
		dirs = append(dirs, real)
	}
	return dirs, nil
}
