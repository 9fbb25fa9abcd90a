package image

import (
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

const (
	// root is the module's directory, as seen from this one.
	root = "../.."
	// user is the user and the group of the image.
	user = 65532
	// maxSize is the size in bytes that the image, and so the binary, must
	// stay below.
	maxSize = 40 << 20
)

// TestImage builds the image for this machine's platform, and runs it as
// people are told to: not as root, with a read-only file system, without
// capabilities, with a named volume.
func TestImage(t *testing.T) {
	docker := startEngine(t)
	buildImage(t, docker)

	t.Run("configuration", func(t *testing.T) { checkConfiguration(t, docker) })
	t.Run("content", func(t *testing.T) { checkContent(t, docker) })
	t.Run("serve", func(t *testing.T) { checkServe(t, docker) })
	t.Run("version", func(t *testing.T) {
		if out := docker.cli(t, "run", "--rm", "--network=none", "module", "version"); !strings.Contains(out, "v1.2.3-test") {
			t.Errorf("the version is %q, want the one that the build was given", out)
		}
	})
}

// tempDir is t.TempDir with a path that is short enough for sockets in it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// engine is a Docker Engine with nothing in it and nothing shared with the
// machine's.
type engine struct {
	*lab.Process
	docker string
	dir    string
	env    lab.Env
}

// startEngine starts dockerd. It differs from lab.StartDocker in what a build
// needs: a storage driver that does not copy the builder image for each step,
// and the builder that each engine has.
func startEngine(t *testing.T) *engine {
	t.Helper()
	dockerd, err := lab.System("dockerd", "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{dir: tempDir(t)}
	if e.docker, err = lab.System("docker", "docker.io"); err != nil {
		t.Fatal(err)
	}
	below := func(name string) string { return filepath.Join(e.dir, name) }
	e.env = lab.Env{"DOCKER_HOST": "unix://" + below("sock"), "DOCKER_CONFIG": below("config"), "DOCKER_BUILDKIT": "0"}
	if err := os.WriteFile(below("daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Process, err = lab.Start(t.Context(), lab.Spec{
		Name: "dockerd", Path: dockerd, Dir: e.dir,
		Args: []string{
			"--host", e.env["DOCKER_HOST"], "--config-file", below("daemon.json"), "--pidfile", below("pid"),
			"--data-root", below("data"), "--exec-root", below("exec"),
			"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		},
		Ready: func(ctx context.Context) error {
			_, err := lab.Run(ctx, e.dir, e.env, e.docker, "version")
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
		// The engine leaves its handle on the machine's network namespace
		// mounted, and a mount cannot be removed like a file.
		if err := syscall.Unmount(below("exec/netns/default"), syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting the network namespace: %v", err)
		}
	})
	return e
}

// cli runs the docker command, which must not fail.
func (e *engine) cli(t *testing.T, args ...string) string {
	t.Helper()
	out, err := lab.Run(t.Context(), e.dir, e.env, e.docker, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// buildImage builds the image "module" from the Dockerfile.
func buildImage(t *testing.T, docker *engine) {
	t.Helper()
	archive := filepath.Join(tempDir(t), "builder.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Builder(t.Context(), f, root, "./cmd/registry-module"), f.Close()); err != nil {
		t.Fatal(err)
	}
	args := []string{"import"}
	for _, env := range BuilderEnv() {
		args = append(args, "--change", "ENV "+env)
	}
	docker.cli(t, append(args, archive, "builder")...)

	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	docker.cli(t, "build", "--network=none", "--tag=module",
		"--build-arg=BUILDER=builder", "--build-arg=BUILDPLATFORM=linux/"+goEnv(t, "GOHOSTARCH"),
		"--build-arg=VERSION=v1.2.3-test", absolute)
}

func checkConfiguration(t *testing.T, docker *engine) {
	var inspected []struct {
		Architecture, Os string
		Size             int64
		Config           struct {
			User, StopSignal              string
			Entrypoint, Cmd               []string
			ExposedPorts, Volumes, Labels map[string]any
		}
	}
	out := docker.cli(t, "image", "inspect", "module")
	if err := json.Unmarshal([]byte(out), &inspected); err != nil || len(inspected) != 1 {
		t.Fatalf("inspecting the image: %v: %s", err, out)
	}
	image := inspected[0]
	t.Logf("the image is %.1f MiB", float64(image.Size)/(1<<20))
	if image.Size > maxSize {
		t.Errorf("the image is %d bytes, want at most %d", image.Size, maxSize)
	}
	got := fmt.Sprint(image.Os, image.Config.User, image.Config.StopSignal, image.Config.Entrypoint, image.Config.Cmd,
		image.Config.ExposedPorts, image.Config.Volumes, image.Config.Labels["org.opencontainers.image.version"])
	want := fmt.Sprint("linux", "65532:65532", "SIGTERM", []string{"/registry-module"}, []string{"serve"},
		map[string]any{"5001/tcp": map[string]any{}, "8000/tcp": map[string]any{}},
		map[string]any{"/var/lib/registry": map[string]any{}}, "v1.2.3-test")
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// checkContent takes the files out of the image and looks at them.
func checkContent(t *testing.T, docker *engine) {
	dir := tempDir(t)
	container := docker.cli(t, "create", "module")
	docker.cli(t, "cp", container+":/registry-module", dir)
	docker.cli(t, "cp", container+":/etc/ssl/certs/ca-certificates.crt", dir)
	docker.cli(t, "rm", "--volumes", container)

	checkBinary(t, filepath.Join(dir, "registry-module"), goEnv(t, "GOHOSTARCH"))
	certificates, err := os.ReadFile(filepath.Join(dir, "ca-certificates.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(certificates) {
		t.Error("the image has no CA certificates")
	}
}

// checkServe runs the image and asks it.
func checkServe(t *testing.T, docker *engine) {
	addr, admin := freeAddr(t), freeAddr(t)
	container := docker.cli(t, "run", "--detach", "--network=host", "--volume=data:/var/lib/registry",
		"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
		"--env=REGISTRY_HTTP_ADDR="+addr, "--env=REGISTRY_HTTP_DEBUG_ADDR="+admin, "module")
	defer docker.cli(t, "rm", "--force", container)
	ready(t, docker, container, addr)

	var pid int
	if _, err := fmt.Sscan(docker.cli(t, "inspect", "--format={{.State.Pid}}", container), &pid); err != nil {
		t.Fatal(err)
	}
	checkOwner(t, fmt.Sprintf("/proc/%d", pid))

	// The volume has got the owner of the image's directory, and what the
	// program has made in it by now.
	volume := docker.cli(t, "volume", "inspect", "--format={{.Mountpoint}}", "data")
	entries, err := os.ReadDir(volume)
	if err != nil || len(entries) == 0 {
		t.Fatalf("nothing was written to the data directory: %v", err)
	}
	checkOwner(t, volume)
	for _, entry := range entries {
		checkOwner(t, filepath.Join(volume, entry.Name()))
	}

	docker.cli(t, "stop", "--time=10", container)
	if status := docker.cli(t, "inspect", "--format={{.State.ExitCode}}", container); status != "0" {
		t.Errorf("stopped with status %s, want 0:\n%s", status, docker.cli(t, "logs", container))
	}
}

// ready waits until the container answers at /v2/.
func ready(t *testing.T, docker *engine, container, addr string) {
	t.Helper()
	answers := lab.AnswersHTTP("http://"+addr+"/v2/", http.StatusOK)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := answers(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the container does not answer: %v\n%s", err, docker.cli(t, "logs", container))
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func checkOwner(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != user || stat.Gid != user {
		t.Errorf("%s does not belong to %d:%d: %+v", path, user, user, info.Sys())
	}
}

// TestCrossBuild builds the binary for each platform that an image is made for.
func TestCrossBuild(t *testing.T) {
	for _, platform := range []struct{ arch, arm string }{{"amd64", ""}, {"arm64", ""}, {"arm", "7"}} {
		t.Run(platform.arch+platform.arm, func(t *testing.T) {
			binary := filepath.Join(t.TempDir(), "registry-module")
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/registry-module")
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+platform.arch, "GOARM="+platform.arm)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			checkBinary(t, binary, platform.arch)
		})
	}
}

// checkBinary checks that a file is a static program for an architecture.
func checkBinary(t *testing.T, path, arch string) {
	t.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM}[arch]
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("the program is for %v, want %v", f.Machine, machine)
	}
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			t.Error("the program is not static: it asks for a loader")
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the binary for %s is %.1f MiB", arch, float64(info.Size())/(1<<20))
	if info.Size() > maxSize {
		t.Errorf("the binary is %d bytes, want at most %d", info.Size(), maxSize)
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	value, err := output(t.Context(), "", "go", "env", name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}
