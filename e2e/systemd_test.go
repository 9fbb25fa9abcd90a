package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

const unitFile = "../deploy/systemd/registry-module.service"

// unit is the text of a systemd unit, by key: systemd.syntax(7), as far as ours uses it.
type unit map[string][]string

func readUnit(t *testing.T) unit {
	t.Helper()
	u := unit{}
	for line := range strings.Lines(string(must(os.ReadFile(unitFile))(t))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// TestUnitVerify has systemd read the unit as it is, and with the lines that are
// commented out.
func TestUnitVerify(t *testing.T) {
	analyze := must(lab.System("systemd-analyze", "systemd"))(t)
	text := string(must(os.ReadFile(unitFile))(t))
	uncommented := strings.NewReplacer("#LoadCredential", "LoadCredential", "#Environment", "Environment").Replace(text)
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"as it is":           {text, true},
		"with secrets":       {uncommented, true},
		"with a wrong key":   {strings.Replace(text, "ProtectHome=", "ProtectHouse=", 1), false},
		"with a wrong value": {strings.Replace(text, "TimeoutStopSec=30", "TimeoutStopSec=soon", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			// Of the program and the manual, only that they are there is looked at.
			dir := t.TempDir()
			text := c.text
			for _, path := range []string{"/usr/local/bin/registry-module", "/usr/share/doc/registry-module/operations.md"} {
				file := filepath.Join(dir, filepath.Base(path))
				if err := os.WriteFile(file, nil, 0o755); err != nil {
					t.Fatal(err)
				}
				if text = strings.ReplaceAll(text, path, file); !strings.Contains(text, file) {
					t.Fatalf("the unit does not name %s", path)
				}
			}
			path := filepath.Join(dir, "registry-module.service")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			c2 := lab.Command{Path: analyze, Args: []string{"verify", "--man=no", path}, Dir: dir}
			// Other units of this machine may have faults of their own.
			o := must(c2.Do(t.Context()))(t)
			if wrong := strings.Contains(o.Stderr, path) || strings.Contains(o.Stderr, "registry-module"); wrong == c.ok {
				t.Errorf("%v, want it accepted: %v", o, c.ok)
			}
		})
	}
}

// TestUnitSecurity holds what the unit keeps the program from: systemd counts from 0, all
// is kept from it, to 10.
func TestUnitSecurity(t *testing.T) {
	analyze := must(lab.System("systemd-analyze", "systemd"))(t)
	for name, c := range map[string]struct {
		threshold string
		ok        bool
	}{"at most 1.5": {"15", true}, "not below 1.0": {"10", false}} {
		t.Run(name, func(t *testing.T) {
			cmd := lab.Command{Path: analyze, Args: []string{"security", "--no-pager", "--offline=true", "--threshold=" + c.threshold, unitFile}, Dir: "."}
			if o := must(cmd.Do(t.Context()))(t); (o.Status == 0) != c.ok {
				t.Errorf("%v, want it below %s: %v", o, c.threshold, c.ok)
			}
		})
	}
}

// TestUnitStarts runs what the unit runs, with its settings, as a user without
// privileges, where only the data directory can be written to; pulls; and stops it.
// Each system call is compared with those that the unit allows.
func TestUnitStarts(t *testing.T) {
	u := readUnit(t)
	img := sample(t, lab.OCIIndex)
	up := origin(t, lab.OriginOptions{}, img)
	ns := netns(t, "127.0.0.1")
	relay(t, ns, "127.0.0.1:5000", up.Addr)
	dir := tempDir(t)
	for _, name := range []string{"state", "traces"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, name), unitUser, unitUser); err != nil {
			t.Fatal(err)
		}
	}
	box := must(lab.NewBox(dir, ns, nil))(t)

	t.Run("nothing else can be written", func(t *testing.T) {
		for path, ok := range map[string]bool{
			"/var/lib/registry/x": true, "/tmp/x": true,
			"/var/lib/x": false, "/usr/x": false, "/etc/x": false, "/x": false, "/home/x": false,
		} {
			_, err := box.Run(t.Context(), nil, "/bin/sh", append(sandbox(u, dir), "/bin/touch", path)...)
			if (err == nil) != ok {
				t.Errorf("writing %s: %v, want it possible: %v", path, err, ok)
			}
		}
	})

	command := strings.Fields(u["ExecStart"][0])
	trace := []string{must(lab.System("strace", "strace"))(t), "-f", "-qqq", "--seccomp-bpf", "-o", "/run/traces/calls", "-e", "signal=none", "-e", "trace=!" + strings.Join(allowedCalls(t, u), ",")}
	p := must(box.Start(t.Context(), lab.Spec{
		Name: "registry-module", Path: "/bin/sh", Args: slices.Concat(sandbox(u, dir), trace, command), Dir: dir,
		Env: merge(sampleEnv(t), lab.Env{"REGISTRY_PROXY_REMOTEURL": "http://127.0.0.1:5000"}),
	}))(t)
	end(t, p)
	client := clientIn(t, ns)
	eventually(t, "the service answers", func() bool {
		resp, err := client.Get("http://127.0.0.1:8000/v2/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	skopeo := must(lab.System("skopeo", "skopeo"))(t)
	must(box.Run(t.Context(), nil, skopeo, "--insecure-policy", "copy", "--all", "--src-tls-verify=false",
		"docker://"+img.ByTag("localhost:8000"), "dir:"+filepath.Join(t.TempDir(), "image")))(t)
	if a, _ := timed(t, client, "http://127.0.0.1:5001/healthz"); a.Status != http.StatusOK {
		t.Errorf("health at the address of the sample: %d", a.Status)
	}

	start := time.Now()
	if err := syscall.Kill(-p.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	if status := must(p.Wait(ctx))(t); status != 0 {
		t.Errorf("stopped with status %d after %v, want 0", status, time.Since(start))
	}

	if calls := must(os.ReadFile(filepath.Join(dir, "traces/calls")))(t); len(calls) > 0 {
		t.Errorf("system calls that the unit does not allow:\n%s", calls)
	}
	blobs := 0
	err := filepath.WalkDir(filepath.Join(dir, "state"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "data" && strings.Contains(path, "/blobs/") {
			blobs++
		}
		return err
	})
	if err != nil || blobs == 0 {
		t.Errorf("the data directory has %d blobs: %v", blobs, err)
	}
}

// unitUser stands for the user that systemd would make.
const unitUser = 61184

// sandbox is the arguments of a shell that does what can be done of the unit without
// systemd, and runs a program in it, which follows.
func sandbox(u unit, dir string) []string {
	state := "/var/lib/" + u["StateDirectory"][0]
	program, _, _ := strings.Cut(u["ExecStart"][0], " ")
	script := fmt.Sprintf(`
mount -t tmpfs tmpfs /var/lib && mkdir %[1]s && mount --bind %[3]s/state %[1]s
mount -t tmpfs tmpfs /home
mkdir /run/traces && mount --bind %[3]s/traces /run/traces
mount -t tmpfs tmpfs %[4]s && cp %[5]s %[2]s
mount -t tmpfs -o mode=1777 tmpfs /tmp
for m in / /etc /var/lib /home %[4]s; do mount -o remount,bind,ro $m; done
cd /; umask %[6]s
exec setpriv --reuid %[7]d --regid %[7]d --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"`,
		state, program, dir, filepath.Dir(program), bin.module, u["UMask"][0], unitUser)
	return []string{"-ec", script, "sandbox"}
}

// allowedCalls are the system calls that SystemCallFilter= allows, beside those that
// every program may make.
func allowedCalls(t *testing.T, u unit) []string {
	t.Helper()
	analyze := must(lab.System("systemd-analyze", "systemd"))(t)
	var expand func(set string) []string
	expand = func(set string) (calls []string) {
		scan := bufio.NewScanner(strings.NewReader(must(lab.Run(t.Context(), ".", nil, analyze, "--no-pager", "syscall-filter", set))(t)))
		for scan.Scan() {
			switch line := strings.TrimSpace(scan.Text()); {
			case line == set, line == "", strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "@"):
				calls = append(calls, expand(line)...)
			default:
				calls = append(calls, line)
			}
		}
		return calls
	}
	allowed := map[string]bool{}
	for _, call := range expand("@default") {
		allowed[call] = true
	}
	for _, filter := range u["SystemCallFilter"] {
		sets, deny := strings.CutPrefix(filter, "~")
		for set := range strings.FieldsSeq(sets) {
			for _, call := range expand(set) {
				allowed[call] = !deny
			}
		}
	}
	var calls []string
	for call, ok := range allowed {
		if ok {
			calls = append(calls, "?"+call) // strace may know none of the name
		}
	}
	slices.Sort(calls)
	if len(calls) < 200 {
		t.Fatalf("the unit allows only %v", calls)
	}
	return calls
}

// sampleEnv is the settings of the sample for EnvironmentFile=.
func sampleEnv(t *testing.T) lab.Env {
	t.Helper()
	env := lab.Env{}
	for line := range strings.Lines(string(must(os.ReadFile("../deploy/systemd/registry-module.env"))(t))) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			env[name] = value
		}
	}
	return env
}
