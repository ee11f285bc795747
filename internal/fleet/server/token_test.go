package server

import (
	"sync"
	"testing"
)

// Several fleetd that begin on one directory at the same moment agree on one token.
func TestTheTokenIsMadeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var tokens [16]string
	var all sync.WaitGroup
	for i := range tokens {
		all.Go(func() {
			s := &Server{o: Options{Dir: dir}}
			err := oneAtATime(dir, func() (err error) {
				tokens[i], err = s.apiToken()
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, token := range tokens {
		if token == "" || token != tokens[0] {
			t.Errorf("tokens %q", tokens)
			break
		}
	}
}
