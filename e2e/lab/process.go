package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Env is the part of a process's environment that a caller decides. Nothing is
// inherited but PATH.
type Env map[string]string

// Spec says how to start a process.
type Spec struct {
	// Name names the log file.
	Name string
	// Path is the binary, Args are its arguments.
	Path string
	Args []string
	Env  Env
	// Dir is the working directory, HOME, and where the log goes.
	Dir string
	// Ready is asked again and again until it returns nil. Nil: the process is
	// ready at once.
	Ready func(ctx context.Context) error
	// Patience is how long the process may take to become ready; default 30 s.
	Patience time.Duration
	// User is the user and group that it runs as, which takes root; 0 is the
	// caller's own.
	User int
}

// Process is a program that is running.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // what Wait returned; guarded by done
}

// stopPatience is how long a process has between SIGTERM and SIGKILL: what
// Docker and IoT Edge give a module is 30 s at the most, ours needs far less.
const stopPatience = 15 * time.Second

// Start starts a process and waits until it is ready.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := os.MkdirAll(spec.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	// Restarts append: what went before is often why a restart fails.
	logPath := filepath.Join(spec.Dir, spec.Name+".log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	defer out.Close()

	// Not CommandContext: Stop ends the process, in order.
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir = spec.Dir
	cmd.Env = spec.Env.list(spec.Dir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:   true,
		Pdeathsig: syscall.SIGKILL, // should the test be killed
	}
	if spec.User != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(spec.User), Gid: uint32(spec.User)}
	}
	p := &Process{spec: spec, cmd: cmd, log: logPath, done: make(chan struct{})}
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	if err := p.await(ctx); err != nil {
		_ = p.Kill() // the reason it is not ready says more
		return nil, fmt.Errorf("starting %s: %w\n%s", spec.Name, err, p.Tail(40))
	}
	return p, nil
}

// start runs the process on an operating system thread of its own: the kernel
// sends Pdeathsig when the thread that started the child ends.
func (p *Process) start() error {
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = p.cmd.Wait()
	}()
	return <-started
}

// await polls Ready until it returns nil, the process ends or patience does.
func (p *Process) await(ctx context.Context) error {
	if p.spec.Ready == nil {
		return nil
	}
	patience := cmp.Or(p.spec.Patience, 30*time.Second)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not ready after %v", patience))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.spec.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it has ended: %v", p.err)
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Stop ends the process and its group as an operator does, with SIGTERM. One
// that does not obey is killed, and that is an error, as is a bad exit status.
// Stopping twice is no error.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.exit()
	default:
	}
	p.signal(syscall.SIGTERM)
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-p.done:
		p.signal(syscall.SIGKILL) // what is left of the group
		return p.exit()
	case <-patience.C:
		_ = p.Kill()
		return fmt.Errorf("%s: not gone %v after SIGTERM", p.spec.Name, stopPatience)
	}
}

// exit returns how the process ended; ending by the signal that Stop sends is
// a good end.
func (p *Process) exit() error {
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			switch ws.Signal() {
			case syscall.SIGTERM, syscall.SIGKILL:
				return nil
			}
		}
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.spec.Name, p.err)
	}
	return nil
}

// Kill ends the process and its group as a loss of power does, with SIGKILL,
// and waits until it is gone.
func (p *Process) Kill() error {
	p.signal(syscall.SIGKILL)
	<-p.done
	return nil
}

// Restart stops the process and starts it again with the same [Spec].
func (p *Process) Restart(ctx context.Context) (*Process, error) {
	if err := p.Stop(); err != nil {
		return nil, err
	}
	return Start(ctx, p.spec)
}

// signal sends to the whole group. That it is gone already is no error.
func (p *Process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig)
}

// Reload sends the process itself SIGHUP: a daemon reads its files again.
func (p *Process) Reload() error {
	if err := syscall.Kill(p.PID(), syscall.SIGHUP); err != nil {
		return fmt.Errorf("reloading %s: %w", p.spec.Name, err)
	}
	return nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log is the path of the file with the process's output.
func (p *Process) Log() string { return p.log }

// Tail returns the last lines of the process's output, for the message of a
// test that fails.
func (p *Process) Tail(lines int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return fmt.Sprintf("--- last lines of %s ---\n%s", p.log, strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// ports counts the ports that FreeAddr has tried, from a random one on: what it has
// returned may not be listened on for a while, and must not be returned twice.
var ports = func() *atomic.Uint32 {
	n := new(atomic.Uint32)
	n.Store(rand.Uint32() >> 1)
	return n
}()

// FreeAddr returns a loopback address with a port that nothing listens on, out
// of the range that the kernel gives to outgoing connections, so that it stays
// free for a process that listens later, and again after its restart.
func FreeAddr() (string, error) {
	const low, high = 12000, 32000
	// A process that is being started has our files until it runs its program: its
	// copy of the listener would keep the port taken.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for range 200 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(low+int(ports.Add(1)%(high-low))))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("looking for a free port: %w", err)
		}
		return addr, nil
	}
	return "", errors.New("looking for a free port: found none")
}

// AnswersHTTP returns a Ready function: the URL gives one of the statuses.
func AnswersHTTP(url string, statuses ...int) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if !slices.Contains(statuses, resp.StatusCode) {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}

// list adds what every process gets.
func (e Env) list(home string) []string {
	all := Env{
		"PATH": os.Getenv("PATH"),
		"HOME": home,
		// The stock registry looks for a collector every 5 s otherwise.
		"OTEL_TRACES_EXPORTER": "none",
	}
	maps.Copy(all, e)
	env := make([]string, 0, len(all))
	for k, v := range all {
		env = append(env, k+"="+v)
	}
	slices.Sort(env)
	return env
}

// Run runs a program to its end and returns its standard output. The error of
// one that fails holds all that it has printed.
func Run(ctx context.Context, dir string, env Env, path string, args ...string) (stdout string, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = env.list(dir)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(path), strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}
