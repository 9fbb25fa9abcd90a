package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
)

// job is what goes to the other process: exactly one field is set.
type job struct {
	Pull   *Pull   `json:"pull,omitempty"`
	Repeat *Repeat `json:"repeat,omitempty"`
}

// Main is the other process: it reads a job from r, runs it and writes the
// result to w.
func Main(ctx context.Context, r io.Reader, w io.Writer) error {
	var j job
	if err := json.NewDecoder(r).Decode(&j); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	var result any
	switch {
	case j.Pull != nil:
		result = j.Pull.Run(ctx)
	case j.Repeat != nil:
		result = j.Repeat.Run(ctx)
	default:
		return fmt.Errorf("reading the job: it is empty")
	}
	if err := json.NewEncoder(w).Encode(result); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// Command makes the command line of a process that calls [Main] with its
// standard input and output.
type Command func(ctx context.Context) *exec.Cmd

// Pull runs p in a process of its own.
func (c Command) Pull(ctx context.Context, p Pull) (result PullResult, err error) {
	err = c.run(ctx, job{Pull: &p}, &result)
	return result, err
}

// Repeat runs r in a process of its own.
func (c Command) Repeat(ctx context.Context, r Repeat) (result RepeatResult, err error) {
	err = c.run(ctx, job{Repeat: &r}, &result)
	return result, err
}

func (c Command) run(ctx context.Context, j job, result any) error {
	in, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("running a load: %w", err)
	}
	var stderr bytes.Buffer
	cmd := c(ctx)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("running a load: %w: %s", err, stderr.Bytes())
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("running a load: reading its result: %w", err)
	}
	return nil
}
