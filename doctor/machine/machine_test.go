package machine_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"registry-module/doctor/machine"
	"registry-module/doctor/report"
)

// local is a machine on which all is well.
func local(t *testing.T) machine.Machine {
	t.Helper()
	return machine.Machine{DataDir: t.TempDir(), Addr: closed(t), AdminAddr: closed(t)}
}

// registry answers as a registry does.
func registry(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
}

// metrics answers as the administration of registry-module does.
func metrics(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/healthz":
		fmt.Fprint(w, "ok\nregistry.test: online since 2026-01-02T03:04:05Z\n")
	case "/metrics":
		fmt.Fprintln(w, "go_goroutines 12")
	}
}

func TestLocal(t *testing.T) {
	for _, test := range []struct {
		name   string
		make   func(t *testing.T, l *machine.Machine)
		step   string
		status report.Status
		text   string
		advice string
	}{
		{"clock", func(*testing.T, *machine.Machine) {}, "system-clock", report.OK, "UTC", ""},
		{"clock of 1970", func(_ *testing.T, l *machine.Machine) {
			l.Now = func() time.Time { return time.Unix(60, 0) }
		}, "system-clock", report.Failed, "1970-01-01 00:01 UTC", "NTP"},
		{"directory", func(*testing.T, *machine.Machine) {}, "data-dir", report.OK, "is writable", ""},
		{"directory that is made later", func(_ *testing.T, l *machine.Machine) { l.DataDir += "/a/b" },
			"data-dir", report.OK, "can be created", ""},
		{"no directory", func(t *testing.T, l *machine.Machine) { l.DataDir = write(t, "file", nil) },
			"data-dir", report.Failed, "is not a directory", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"},
		{"directory in a file", func(t *testing.T, l *machine.Machine) { l.DataDir = write(t, "file", nil) + "/a" },
			"data-dir", report.Failed, "cannot be used: not a directory", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"},
		{"directory that cannot be written to", func(_ *testing.T, l *machine.Machine) { l.DataDir = "/proc/self" },
			"data-dir", report.Failed, "/proc/self", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"},
		{"new", func(*testing.T, *machine.Machine) {}, "format", report.OK, "nothing is stored yet", ""},
		{"of the stock registry", func(t *testing.T, l *machine.Machine) {
			if err := os.MkdirAll(filepath.Join(l.DataDir, "docker/registry/v2"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "format", report.OK, "stock registry", ""},
		{"ours", formatFile(`{"version":1,"remote":"quay.io"}`), "format", report.OK, "format 1, bare names belong to quay.io", ""},
		{"ours, without remote", formatFile(`{"version":1}`), "format", report.OK, "format 1", ""},
		{"of a newer version", formatFile(`{"version":2}`), "format", report.Failed, "has format 2", "newer version"},
		{"damaged", formatFile(`{"vers`), "format", report.Failed, "is damaged", "restore it"},
		{"space", func(*testing.T, *machine.Machine) {}, "space", report.OK, "are free", ""},
		{"no space", func(_ *testing.T, l *machine.Machine) {
			l.MinFree = func(whole int64) int64 { return whole }
		}, "space", report.Failed, "are free", "REGISTRY_CACHE_MINFREE"},
		{"address", func(*testing.T, *machine.Machine) {}, "listener", report.OK, "is free", ""},
		{"socket", func(t *testing.T, l *machine.Machine) {
			l.Net, l.Addr = "unix", filepath.Join(t.TempDir(), "s")
		}, "listener", report.OK, "is free", ""},
		{"socket that was left behind", func(t *testing.T, l *machine.Machine) {
			l.Net, l.Addr = "unix", filepath.Join(t.TempDir(), "s")
			ln, err := net.Listen("unix", l.Addr)
			if err != nil {
				t.Fatal(err)
			}
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
			ln.Close()
		}, "listener", report.Failed, "was left behind", "Remove the file"},
		{"address of somebody else", func(_ *testing.T, l *machine.Machine) { l.Addr = "192.0.2.1:8000" },
			"listener", report.Failed, "is not an address of this machine", "REGISTRY_HTTP_ADDR"},
		{"no address", func(_ *testing.T, l *machine.Machine) { l.Addr = "8000" },
			"listener", report.Failed, "cannot be listened on", "REGISTRY_HTTP_ADDR"},
		{"another registry", func(t *testing.T, l *machine.Machine) { l.Addr = serve(t, nil, registry) },
			"listener", report.Failed, "another registry has", "REGISTRY_HTTP_ADDR"},
		{"another web server", func(t *testing.T, l *machine.Machine) { l.Addr = serve(t, nil, page(200)) },
			"listener", report.Failed, "another program has", "ss -ltnp"},
		{"another program", func(t *testing.T, l *machine.Machine) {
			l.Addr = raw(t, func(conn net.Conn) { _, _ = io.WriteString(conn, "220 mail\r\n") })
		}, "listener", report.Failed, "another program has", "ss -ltnp"},
		{"this program", func(t *testing.T, l *machine.Machine) {
			l.Addr, l.AdminAddr = serve(t, nil, registry), serve(t, nil, metrics)
		}, "listener", report.OK, "registry-module runs, and answers on", ""},
		{"this program, with TLS", func(t *testing.T, l *machine.Machine) {
			l.Addr, l.AdminAddr, l.TLS = serve(t, certificate(t), registry), serve(t, nil, metrics), true
		}, "listener", report.OK, "registry-module runs, and answers on", ""},
		{"this program, which does not answer", func(t *testing.T, l *machine.Machine) {
			l.Addr, l.AdminAddr = serve(t, nil, page(500)), serve(t, nil, metrics)
		}, "listener", report.Warning, "no proper answer", "log"},
		{"this program, for clients with certificates", func(t *testing.T, l *machine.Machine) {
			config := certificate(t)
			config.ClientAuth = tls.RequireAnyClientCert
			l.Addr, l.AdminAddr, l.TLS, l.ClientCertificates = serve(t, config, registry), serve(t, nil, metrics), true, true
		}, "listener", report.OK, "is for clients with a certificate", ""},
		{"this program, with a prefix", func(t *testing.T, l *machine.Machine) {
			l.Prefix = "/mirror/"
			l.Addr, l.AdminAddr = serve(t, nil, func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/mirror/v2/" {
					registry(w, req)
				}
			}), serve(t, nil, metrics)
		}, "listener", report.OK, "registry-module runs, and answers on", ""},
		{"another program, for clients with certificates", func(t *testing.T, l *machine.Machine) {
			config := certificate(t)
			config.ClientAuth = tls.RequireAnyClientCert
			l.Addr, l.TLS, l.ClientCertificates = serve(t, config, registry), true, true
		}, "listener", report.Failed, "another program has", "ss -ltnp"},
		{"this program's administration", func(t *testing.T, l *machine.Machine) { l.AdminAddr = serve(t, nil, metrics) },
			"admin-listener", report.OK, "registry-module runs", ""},
		{"another program that is alive at the administration's", func(t *testing.T, l *machine.Machine) {
			l.AdminAddr = serve(t, nil, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
		}, "admin-listener", report.Failed, "another program has", "REGISTRY_HTTP_DEBUG_ADDR"},
		{"another program at the administration's", func(t *testing.T, l *machine.Machine) { l.AdminAddr = serve(t, nil, registry) },
			"admin-listener", report.Failed, "another program has", "REGISTRY_HTTP_DEBUG_ADDR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := local(t)
			test.make(t, &l)
			findings := l.Check(t.Context())
			f := find(t, findings, test.step)
			if f.Status != test.status || !strings.Contains(f.Text, test.text) || !strings.Contains(f.Advice, test.advice) {
				t.Errorf("%+v", f)
			}
			for _, other := range findings {
				if other.Status == report.Failed && test.status != report.Failed {
					t.Errorf("%+v", other)
				}
			}
			if left, err := filepath.Glob(filepath.Join(l.DataDir, ".*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func formatFile(text string) func(*testing.T, *machine.Machine) {
	return func(t *testing.T, l *machine.Machine) {
		if err := os.WriteFile(filepath.Join(l.DataDir, "registry-module.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A volume that belongs to another user is found out about, and so is one of which
// only a part does. For root there is no such thing.
func TestDataDirOfAnotherUser(t *testing.T) {
	l := local(t)
	sub := filepath.Join(l.DataDir, "docker")
	if err := os.Mkdir(sub, 0o500); err != nil {
		t.Fatal(err)
	}
	want := report.Failed
	if unix.Access(sub, unix.W_OK) == nil {
		want = report.OK
	}
	f := find(t, l.Check(t.Context()), "data-dir")
	if f.Status != want || want == report.Failed && !strings.Contains(f.Advice, "chown -R") {
		t.Errorf("%+v", f)
	}
}

// A file system that hangs holds up its own steps only, and those in time.
func TestStepsEndInTime(t *testing.T) {
	l := local(t)
	l.Timeout = time.Second
	path := filepath.Join(l.DataDir, "registry-module.json")
	if err := unix.Mkfifo(path, 0o600); err != nil { // nobody writes to it
		t.Fatal(err)
	}
	findings := l.Check(t.Context())
	f, err := os.OpenFile(path, os.O_RDWR, 0) // who reads finds the end once it is closed
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f := find(t, findings, "format"); f.Status != report.Failed || !strings.Contains(f.Text, "has not ended within 1s") {
		t.Errorf("%+v", f)
	}
	for _, step := range []string{"data-dir", "space", "listener", "admin-listener"} {
		if f := find(t, findings, step); f.Status == report.Failed || f.Status == report.Skipped {
			t.Errorf("%+v", f)
		}
	}
}
