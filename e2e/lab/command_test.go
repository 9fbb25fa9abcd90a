package lab_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// TestCommand shows that an outcome has what a program has done, and that one that does not
// come to its end is an error.
func TestCommand(t *testing.T) {
	sh := func(script, stdin string) lab.Command {
		return lab.Command{Path: "/bin/sh", Args: []string{"-c", script}, Env: lab.Env{"WORD": "hello"}, Dir: t.TempDir(), Stdin: strings.NewReader(stdin)}
	}
	o, err := sh(`read line; echo "$WORD $line"; echo oh >&2; exit 3`, "world\n").Do(t.Context())
	if err != nil || o.Status != 3 || o.Stdout != "hello world\n" || o.Stderr != "oh\n" {
		t.Errorf("%v, %v", o, err)
	}
	if _, err := sh("kill -9 $$", "").Do(t.Context()); err == nil {
		t.Error("a signal has ended it, and that is no error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := sh("exec sleep 60", "").Do(ctx); err == nil {
		t.Error("it was not waited for, and that is no error")
	}

	// 64 MiB in a variable, for a moment.
	o, err = sh(`a=$(head -c 67108864 /dev/zero | tr '\0' a); sleep 0.1; test -n "$a"`, "").Do(t.Context())
	if const64 := int64(64 << 20); err != nil || o.Status != 0 || o.PeakRSS < const64 || o.PeakRSS > 8*const64 {
		t.Errorf("%v, %v, want 64 MiB at least", o, err)
	}
	if o, err = sh("exit 0", "").Do(t.Context()); err != nil || o.PeakRSS > 32<<20 {
		t.Errorf("%v, %v, want hardly any memory", o, err)
	}
}

// TestWait shows that the end of a process is told, and how it was.
func TestWait(t *testing.T) {
	start := func(script string) *lab.Process {
		t.Helper()
		p, err := lab.Start(t.Context(), lab.Spec{Name: "sh", Path: "/bin/sh", Args: []string{"-c", script}, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Kill() })
		return p
	}
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": -1} {
		if got, err := start(script).Wait(t.Context()); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", script, got, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := start("sleep 60").Wait(ctx); err == nil {
		t.Errorf("%d, and it still runs", got)
	}
}
