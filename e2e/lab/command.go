package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Command is a program that is run to its end.
type Command struct {
	Path string
	Args []string
	Env  Env
	// Dir is the working directory and HOME.
	Dir string
	// Stdin is what it reads; nil is nothing.
	Stdin io.Reader
}

// Outcome is what has come of a [Command].
type Outcome struct {
	// Status is its exit status.
	Status         int
	Stdout, Stderr string
	Took           time.Duration
	// PeakRSS is its resident memory at the most, in bytes. It is looked at every two
	// milliseconds: what a command takes right before its end may not be in it.
	PeakRSS int64
}

// String is the outcome in some lines.
func (o Outcome) String() string {
	return fmt.Sprintf("status %d after %v, %.1f MiB\n%s%s", o.Status, o.Took.Round(time.Millisecond), float64(o.PeakRSS)/(1<<20), o.Stdout, o.Stderr)
}

// Do runs it. That it fails is in the outcome; an error is that it cannot be run, that a
// signal has ended it, or that ctx has.
func (c Command) Do(ctx context.Context) (Outcome, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, c.Env.list(c.Dir), c.Stdin
	cmd.WaitDelay = time.Second // for who holds the other end of Stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return Outcome{}, fmt.Errorf("running %s: %w", filepath.Base(c.Path), err)
	}
	ended, peak := make(chan struct{}), make(chan int64)
	// What the kernel has for Wait is no less than the memory of who has started it.
	go func() { peak <- watchPeak(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	close(ended)
	o := Outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String(), time.Since(start), <-peak}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		err = nil
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return o, fmt.Errorf("running %s %s: %w\n%v", filepath.Base(c.Path), strings.Join(c.Args, " "), err, o)
	}
	return o, nil
}

// watchPeak returns the peak of the memory of a process, when it has ended.
func watchPeak(pid int, ended <-chan struct{}) (most int64) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		// After its end it has none.
		if u, err := usage(pid); err == nil {
			most = max(most, u.PeakRSS)
		}
		select {
		case <-tick.C:
		case <-ended:
			return most
		}
	}
}

// Wait waits for the end of the process and returns its exit status, -1 where a signal has
// ended it. An error is that ctx has ended before.
func (p *Process) Wait(ctx context.Context) (status int, err error) {
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("waiting for %s: %w", p.spec.Name, context.Cause(ctx))
	case <-p.done:
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return exit.ExitCode(), nil
	}
	return 0, p.err
}
