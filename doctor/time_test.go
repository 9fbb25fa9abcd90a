package doctor_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sys/unix"

	"registry-module/doctor/report"
	ut "registry-module/upstream/upstreamtest"
)

// pipe is a file that nobody writes to, so that reading it takes until the test ends.
func newPipe(t *testing.T, path string) string {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Who reads finds the end, once he has it open.
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	})
	return path
}

// stubborn are credentials that heed no context.
type stubborn struct{ end chan struct{} }

// Authorization implements [authn.Authenticator].
func (s stubborn) Authorization() (*authn.AuthConfig, error) {
	<-s.end
	return &authn.AuthConfig{}, nil
}

// A step that hangs, as files on a file system that is away do, is left behind in time,
// and nothing that depends on it is tried.
func TestStepsEndInTime(t *testing.T) {
	const text = "has not ended within 1s"
	check := func(t *testing.T, findings []report.Finding, took time.Duration, hung string, after ...string) {
		t.Helper()
		f := find(t, findings, hung)
		if f.Status != report.Failed || !strings.Contains(f.Text, text) || !strings.Contains(f.Advice, "--timeout") {
			t.Errorf("%+v", f)
		}
		for _, step := range after {
			if f := find(t, findings, step); f.Status != report.Skipped {
				t.Errorf("%+v", f)
			}
		}
		if took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	}
	t.Run("client certificate", func(t *testing.T) { // which is not waited for
		s := newSetup(t)
		s.remote.CertFile = newPipe(t, filepath.Join(t.TempDir(), "cert.pem"))
		s.remote.KeyFile = filepath.Join(t.TempDir(), "key.pem")
		f := find(t, s.doctor.Check(t.Context(), s.remote), "settings")
		if f.Status != report.Failed || !strings.Contains(f.Text, "no regular file") || f.Took > 10*time.Second {
			t.Errorf("%+v", f)
		}
	})
	t.Run("credentials", func(t *testing.T) {
		s := newSetup(t)
		s.doctor.Timeout = time.Second
		s.token(ut.Auth{Scheme: "Bearer", Username: "me", Password: "right"})
		end := make(chan struct{})
		t.Cleanup(func() { close(end) })
		s.remote.Credentials = stubborn{end}
		began := time.Now()
		check(t, s.doctor.Check(t.Context(), s.remote), time.Since(began), "token", "credentials", "manifest", "rate-limit")
	})
	t.Run("dial", func(t *testing.T) {
		s := newSetup(t)
		s.doctor.Timeout = time.Second
		end := make(chan struct{})
		t.Cleanup(func() { close(end) })
		s.doctor.DialContext = func(context.Context, string, string) (net.Conn, error) {
			<-end
			return nil, net.ErrClosed
		}
		began := time.Now()
		check(t, s.doctor.Check(t.Context(), s.remote), time.Since(began), "connect", "tls", "api", "clock", "auth", "credentials", "manifest", "rate-limit")
	})
}
