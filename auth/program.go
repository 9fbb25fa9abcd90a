package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	// programTimeout is how long a program may take: some ask a cloud.
	programTimeout = 30 * time.Second
	// programGrace is how long is waited for the output of what a program has left
	// behind when it ended.
	programGrace = 2 * time.Second
	// maxOutput bounds, in bytes, what a program may answer, and maxComplaint what
	// is looked at of its standard error.
	maxOutput    = 64 << 10
	maxComplaint = 4 << 10
)

// program is one that speaks the protocol of Docker's credential helpers:
// the server is on its standard input, and the answer, in JSON, on its standard
// output.
//
// Its output may hold secrets, so that none of it is repeated in errors. It does
// not get the settings of this program, see environment.
type program struct {
	// name is for errors.
	name string
	// find returns what is run. It looks each time: programs may be installed while
	// we run.
	find    func() (argv []string, err error)
	timeout time.Duration
	grace   time.Duration
}

// newHelper returns docker-credential-<name>.
func newHelper(name string) program {
	file := "docker-credential-" + name
	return program{
		name: fmt.Sprintf("the credential helper %.100q", file), timeout: programTimeout, grace: programGrace,
		find: func() ([]string, error) {
			if name == "" || strings.ContainsFunc(name, notInHelperName) {
				return nil, errors.New("its name has characters that are not allowed")
			}
			path, err := exec.LookPath(file)
			if err != nil {
				return nil, errors.New("there is no such program on PATH: install it where this program runs, or put the credentials into the Docker configuration itself")
			}
			return []string{path, credentials.ActionGet}, nil
		},
	}
}

// notInHelperName finds what would make the name of a helper a path, or unfit to
// be shown.
func notInHelperName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
}

// newCommand returns what a user has written as a command. The stock registry takes
// it for the path of a program; one with arguments needs a shell, of which images
// like ours have none.
func newCommand(command string) program {
	p := program{name: "the command for credentials", timeout: programTimeout, grace: programGrace}
	simple := !strings.ContainsAny(command, " \t\r\n|&;<>()$`\\\"'*?[]#~=%{}!")
	if simple {
		p.name += " (" + filepath.Base(command) + ")"
	}
	p.find = func() ([]string, error) {
		path, err := exec.LookPath(command)
		if err == nil {
			return []string{path, credentials.ActionGet}, nil
		}
		if simple {
			return nil, fmt.Errorf("it cannot be run: %w", lookPathReason(err))
		}
		shell, err := exec.LookPath("sh")
		if err != nil {
			return nil, errors.New("there is no shell (sh) to run it with: write the path of a program, without arguments")
		}
		return []string{shell, "-c", command + " " + credentials.ActionGet}, nil
	}
	return p
}

// lookPathReason leaves out what was looked for, which the name says.
func lookPathReason(err error) error {
	if execErr, ok := errors.AsType[*exec.Error](err); ok {
		return withoutPath(execErr.Err)
	}
	return withoutPath(err)
}

// get asks the program for the credentials of server. The zero AuthConfig is what
// it has none for.
func (p program) get(ctx context.Context, server string) (authn.AuthConfig, error) {
	out, err := p.run(ctx, server)
	if err == nil {
		var config authn.AuthConfig
		if config, err = parseAnswer(out); err == nil {
			return config, nil
		}
	} else if credentials.IsErrCredentialsNotFoundMessage(string(out)) {
		return authn.AuthConfig{}, nil
	}
	return authn.AuthConfig{}, fmt.Errorf("asking %s: %w", p.name, err)
}

// run returns what the program has written to its standard output, also where it
// has failed.
func (p program) run(ctx context.Context, server string) ([]byte, error) {
	argv, err := p.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("it has not answered within %v, and was killed", p.timeout))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment(os.Environ())
	cmd.Stdin = strings.NewReader(server)
	out := &bounded{max: maxOutput, full: func() {
		stop(fmt.Errorf("it has written more than %d bytes, and was killed", maxOutput))
	}}
	complaint := &bounded{max: maxComplaint}
	cmd.Stdout, cmd.Stderr = out, complaint
	// A group of its own, so that what it has started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // they may have ended by now
	cmd.Cancel = func() error { kill(); return nil }
	cmd.WaitDelay = p.grace

	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("it cannot be run: %w", withoutPath(err))
	}
	// Also while it has ended, and what it has left behind is waited for.
	done := context.AfterFunc(ctx, kill)
	err = cmd.Wait()
	done()
	// However it has ended: what is meant to stay leaves the group, as daemons do.
	kill()
	switch {
	case ctx.Err() != nil:
		// Also where it has ended by itself just then: its output may be cut short.
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay):
		// It has succeeded, and left something behind that has held its output.
	case err != nil:
		return out.kept, p.failure(cmd.ProcessState, string(out.kept)+"\n"+string(complaint.kept))
	}
	return out.kept, nil
}

// hints say what to do about what well-known programs write when they fail.
var hints = []struct{ text, hint string }{
	{"no credentials server URL", "it wants the address of a registry in another form"},
	{"no credentials username", "what it has stored for this registry has no user name: log in again"},
	{"pass not initialized", "it wants `pass init` to be run first, by the user that this program runs as"},
	{"Cannot autolaunch D-Bus", "it needs a desktop session: use another helper on a machine without one"},
	{"gpg: decryption failed", "it cannot decrypt its store: the key is missing or locked"},
	{"Unable to locate credentials", "it finds no credentials for the cloud: set them in the environment of this program"},
	{"NoCredentialProviders", "it finds no credentials for the cloud: set them in the environment of this program"},
}

// failure says how a program has ended, and nothing of what it has written.
func (p program) failure(state *os.ProcessState, output string) error {
	text := "it has failed (" + state.String() + ")"
	switch state.ExitCode() {
	case 126:
		return errors.New(text + ": what it is to run cannot be run")
	case 127:
		return errors.New(text + ": what it is to run does not exist")
	}
	for _, h := range hints {
		if strings.Contains(output, h.text) {
			return errors.New(text + ": " + h.hint)
		}
	}
	return errors.New(text + ": run it by hand to see why")
}

// parseAnswer reads what a program has answered. Its errors repeat nothing of it.
func parseAnswer(out []byte) (authn.AuthConfig, error) {
	var answer credentials.Credentials
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&answer); err != nil {
		return authn.AuthConfig{}, errors.New(`its answer is not JSON of the form {"Username": "...", "Secret": "..."}`)
	}
	switch {
	case answer.Username == "" && answer.Secret == "":
		return authn.AuthConfig{}, nil
	case answer.Secret == "":
		return authn.AuthConfig{}, errors.New("its answer has a user name without a secret")
	case answer.Username == "":
		return authn.AuthConfig{}, errors.New("its answer has a secret without a user name")
	case answer.Username == tokenUsername:
		return authn.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return authn.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
}

// tokenUsername says, in the protocol of credential helpers, that the secret is an
// identity token.
const tokenUsername = "<token>"

// environment is what a program gets of our own environment: all but our settings,
// which hold the passwords of other remotes, and those of the libraries that we are
// made of.
func environment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "REGISTRY_") || strings.HasPrefix(v, "OTEL_") || strings.HasPrefix(v, "DOCKER_AUTH_CONFIG=")
	})
}

// bounded keeps the start of what is written to it. full, where it is not nil, is
// called when there was more.
type bounded struct {
	kept []byte
	max  int
	full func()
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.max - len(b.kept); n > room {
		p = p[:room]
		if b.full != nil {
			b.full()
		}
	}
	b.kept = append(b.kept, p...)
	return n, nil
}
