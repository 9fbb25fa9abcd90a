package access_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	stock "github.com/distribution/distribution/v3/registry/auth"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"registry-module/auth"
	"registry-module/auth/access"
	"registry-module/auth/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newGate makes a gate that is closed with the test.
func newGate(t *testing.T, opts access.Options) *access.Gate {
	t.Helper()
	g, err := access.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// writePasswords writes an htpasswd file with users whose passwords are "secret-" and their
// names.
func writePasswords(t *testing.T, path string, users ...string) {
	t.Helper()
	var b strings.Builder
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret-"+user), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(user + ":" + string(hash) + "\n")
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		t.Fatal(err)
	}
}

// controller counts what it is asked, and can hold it.
type controller struct {
	stock.AccessController
	gate chan struct{} // nil: it does not

	mu           sync.Mutex
	asked        int
	now, highest int
	records      []string
}

func (c *controller) Authorized(r *http.Request, records ...stock.Access) (*stock.Grant, error) {
	c.mu.Lock()
	c.asked++
	c.now++
	c.highest = max(c.highest, c.now)
	c.records = nil
	for _, a := range records {
		c.records = append(c.records, a.Type+":"+a.Name+":"+a.Action)
	}
	c.mu.Unlock()
	if c.gate != nil {
		<-c.gate
	}
	grant, err := c.AccessController.Authorized(r, records...)
	c.mu.Lock()
	c.now--
	c.mu.Unlock()
	return grant, err
}

func (c *controller) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// newController returns options with an htpasswd file of those users.
func newController(t *testing.T, users ...string) (*controller, access.Options) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	writePasswords(t, path, users...)
	ac, err := auth.NewAccessController("htpasswd", map[string]any{"realm": "test", "path": path})
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{AccessController: ac}
	return c, access.Options{Controller: c, PasswordFile: path}
}

func newPolicy(t *testing.T, text string) func() *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return func() *policy.Policy { return p }
}

// from makes a request of a user with a password; of nobody where user is empty.
func from(ctx context.Context, user, password string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/", nil)
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return r
}

// showing adds a client certificate that was verified.
func showing(r *http.Request, commonName string, hosts ...string) *http.Request {
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{
		{Subject: pkix.Name{CommonName: commonName}, DNSNames: hosts, NotAfter: time.Now().Add(time.Hour)},
	}}}
	return r
}

// outcome says in a word what Authorize has said.
func outcome(t *testing.T, err error) string {
	t.Helper()
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error repeats a password: %v", err)
	}
	challenge, isChallenge := errors.AsType[stock.Challenge](err)
	busy, isBusy := errors.AsType[*access.BusyError](err)
	switch {
	case err == nil:
		return "200"
	case isChallenge:
		w := httptest.NewRecorder()
		challenge.SetHeaders(httptest.NewRequest(http.MethodGet, "/v2/", nil), w)
		scheme, _, _ := strings.Cut(w.Header().Get("WWW-Authenticate"), " ")
		return "401 " + scheme
	case isBusy:
		if busy.RetryAfter <= 0 {
			t.Error("it is not said when to come again")
		}
		return "429"
	case errors.Is(err, access.ErrDenied):
		return "403"
	case errors.Is(err, access.ErrUnavailable):
		return "503"
	}
	return err.Error()
}

// document is one in memory.
type document struct {
	mu      sync.Mutex
	content []byte
	writes  int
	err     error
}

func (d *document) Read(context.Context) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.content == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(d.content), nil
}

func (d *document) Write(_ context.Context, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	if d.err != nil {
		return d.err
	}
	d.content = slices.Clone(content)
	return nil
}

func (d *document) written() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}
