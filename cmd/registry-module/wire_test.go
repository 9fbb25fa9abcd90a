package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/index"
)

// Only a full disk is a reason to do without the index on it: all else would hide that it
// is lost at each start.
func TestIndexOrMemory(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		fails  bool
		warned int
	}{
		"it opens":      {nil, false, 0},
		"no room":       {fmt.Errorf("opening the index: %w", syscall.ENOSPC), false, 1},
		"no permission": {fmt.Errorf("opening the index: %w", fs.ErrPermission), true, 0},
		"in use":        {errors.New("another process is using it"), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			log, hook := test.NewNullLogger()
			dir := t.TempDir()
			idx, err := indexOrMemory(log, func() (*index.Index, error) {
				if tt.err != nil {
					return nil, tt.err
				}
				return index.Open(dir, log)
			})
			if tt.fails {
				if !errors.Is(err, tt.err) {
					t.Errorf("%v, want %v", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := idx.Apply(t.Context(), cache.Change{Key: []byte("k"), Value: []byte("v")}); err != nil {
				t.Error(err)
			}
			if v, err := idx.Get(t.Context(), []byte("k")); err != nil || string(v) != "v" {
				t.Errorf("%q, %v", v, err)
			}
			warned := 0
			for _, e := range hook.AllEntries() {
				if strings.Contains(e.Message, "no room for the index") {
					warned++
				}
			}
			if warned != tt.warned {
				t.Errorf("%d warnings, want %d", warned, tt.warned)
			}
			if err := (replaceable{idx, log}).Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// stuck is an index that does not get closed before it is let go.
type stuck chan struct{}

func (s stuck) Close() error { <-s; return nil }

// The program ends, too, where its data directory was taken away.
func TestStuckIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := test.NewNullLogger()
		s := make(stuck)
		start := time.Now()
		err := replaceable{s, log}.Close()
		if err == nil || !strings.Contains(err.Error(), "data directory") || time.Since(start) != indexCloseTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		close(s)
	})
}
