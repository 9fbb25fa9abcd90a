package lab_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

func TestProcess(t *testing.T) {
	sh, err := lab.System("sh", "dash")
	if err != nil {
		t.Fatal(err)
	}
	// A child that would outlive its parent, if it were not for the group.
	p, err := lab.Start(t.Context(), lab.Spec{
		Name: "sh", Path: sh, Args: []string{"-c", "echo started $WHAT; while :; do sleep 60; done"},
		Env: lab.Env{"WHAT": "here"}, Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if u, err := p.Usage(); err != nil || u.PeakRSS < u.RSS || u.RSS == 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if files, err := p.Files(); err != nil || !slices.Contains(files, p.Log()) {
		t.Errorf("it has %v open, %v, want its log among them", files, err)
	}
	if err := p.ResetPeak(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("stopped, and not done")
	}
}

// TestProcessFails shows that the reason is in the error.
func TestProcessFails(t *testing.T) {
	sh, err := lab.System("sh", "dash")
	if err != nil {
		t.Fatal(err)
	}
	never := func(context.Context) error { return errors.New("not yet") }
	for name, tt := range map[string]struct{ script, want string }{
		"it ends":        {"echo the reason; exit 3", "the reason"},
		"it takes long":  {"echo still busy; exec sleep 60", "still busy"},
		"it is not sane": {"echo the reason >&2; kill -SEGV $$", "the reason"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lab.Start(t.Context(), lab.Spec{
				Name: "sh", Path: sh, Args: []string{"-c", tt.script}, Dir: t.TempDir(),
				Ready: never, Patience: 300 * time.Millisecond,
			})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q in it", err, tt.want)
			}
		})
	}
	if _, err := lab.System("no-such-program", "no-such-package"); err == nil || !strings.Contains(err.Error(), "no-such-package") {
		t.Errorf("a program that is missing: %v", err)
	}
}
