package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry-module/e2e/lab"
)

// remoteHost is a registry in a [place]. It is in no DNS but that of the place.
const remoteHost = "registry.example.test"

// place is a network with a name server, a registry behind HTTPS, and a module.
type place struct {
	lab.Ledger // of the registry
	lab.Content
	ns    *lab.Netns
	names *lab.Nameserver
	front *lab.Front
	ca    *lab.Authority
	cert  *tls.Certificate
	// user and password are wanted from clients, where they are set.
	user, password string
	m              *lab.Server
	// dir is the module's, and env its settings.
	dir string
	env lab.Env
	// client reaches the module from within, and keeps connections.
	client *http.Client
}

// newPlace makes a place where all works, with a module whose cache is empty.
func newPlace(t *testing.T, settings lab.Env, images ...lab.Image) *place {
	t.Helper()
	p := &place{dir: tempDir(t), ns: netns(t, "127.0.0.1")}
	p.Add(images...)
	p.names = nameserver(t, p.ns, "127.0.0.1:53", [4]byte{127, 0, 0, 2})
	p.listen(t, p.ns, "127.0.0.2:443")
	p.env = merge(p.settings(t), settings)
	p.client = clientIn(t, p.ns)
	p.m = must(lab.StartModuleIn(t.Context(), p.ns, bin.module, p.dir, p.env))(t)
	end(t, p.m)
	return p
}

// listen has the registry listen at an address in a namespace.
func (p *place) listen(t *testing.T, ns *lab.Netns, addr string) {
	t.Helper()
	p.ca = must(lab.NewAuthority())(t)
	p.cert = p.certificate(t, remoteHost, time.Now().Add(-time.Hour))
	p.front = lab.NewFront(func() (net.Listener, error) { return ns.Listen("tcp4", addr) })
	t.Cleanup(func() {
		if err := p.front.Down(); err != nil {
			t.Error(err)
		}
	})
	p.serve(t)
}

// settings are those of a module in front of the registry.
func (p *place) settings(t *testing.T) lab.Env {
	t.Helper()
	ca := filepath.Join(tempDir(t), "ca.pem")
	if err := p.ca.Write(ca); err != nil {
		t.Fatal(err)
	}
	return lab.Env{"REGISTRY_PROXY_REMOTEURL": "https://" + remoteHost, "REGISTRY_PROXY_CA": ca}
}

// certificate makes one for a host that is valid for a day.
func (p *place) certificate(t *testing.T, host string, from time.Time) *tls.Certificate {
	t.Helper()
	return must(p.ca.Certificate(host, from))(t)
}

// serve has the registry be as it is when nothing is wrong, or behind a middleware.
func (p *place) serve(t *testing.T, middlewares ...lab.Middleware) {
	t.Helper()
	p.serveAs(t, p.cert, middlewares...)
}

func (p *place) serveAs(t *testing.T, cert *tls.Certificate, middlewares ...lab.Middleware) {
	t.Helper()
	h := p.authorized(&p.Content)
	for _, m := range slices.Backward(middlewares) {
		h = m(h)
	}
	if err := p.front.Serve(cert, p.Record("", h)); err != nil {
		t.Fatal(err)
	}
}

// authorized wants the password.
func (p *place) authorized(next http.Handler) http.Handler {
	if p.user == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != p.user || password != p.password {
			refuse(http.StatusUnauthorized, "WWW-Authenticate", `Basic realm="place"`)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// drop makes the registry a black hole: what connects to it hears nothing. Its
// connections are gone.
func (p *place) drop(t *testing.T, drop bool) {
	t.Helper()
	if drop {
		p.serve(t)
	}
	if err := p.ns.Drop(t.Context(), 443, drop); err != nil {
		t.Fatal(err)
	}
}

// netns makes a network namespace whose programs ask a name server.
func netns(t *testing.T, nameserver string) *lab.Netns {
	t.Helper()
	ns := must(lab.NewNetns(t.Context(), nameserver))(t)
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// nameserver starts one in a namespace that has all hosts of example.test at addr.
func nameserver(t *testing.T, ns *lab.Netns, at string, addr [4]byte) *lab.Nameserver {
	t.Helper()
	s := lab.NewNameserver(must(ns.ListenPacket("udp4", at))(t), "example.test", addr)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// clientIn is a client in a namespace that keeps its connections.
func clientIn(t *testing.T, ns *lab.Netns) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: ns.DialContext, DisableCompression: true, MaxIdleConnsPerHost: 200}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// timed sends a GET, reads the answer, and returns how long both took.
func timed(t *testing.T, c *http.Client, url string) (answer, time.Duration) {
	t.Helper()
	a, took, err := tryTimed(t, c, url)
	if err != nil {
		t.Fatal(err)
	}
	return a, took
}

// tryTimed is as timed, for any goroutine.
func tryTimed(t *testing.T, c *http.Client, url string) (answer, time.Duration, error) {
	req, err := request(t.Context(), http.MethodGet, url)
	if err != nil {
		return answer{}, 0, err
	}
	begun := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, 0, err
	}
	defer resp.Body.Close()
	a := read(resp)
	return a, time.Since(begun), a.Err
}

// stateOf returns what /healthz says of the remote that is asked first.
func (p *place) stateOf(t *testing.T) (state, reason string) {
	t.Helper()
	a := get(t, "http://"+p.m.Admin+"/healthz", "Accept", "application/json")
	var health struct {
		Status  string
		Remotes []struct{ Remote, State, Reason string }
	}
	if err := json.Unmarshal(a.Body, &health); err != nil || health.Status != "ok" || len(health.Remotes) == 0 {
		t.Fatalf("/healthz: status %d, %v\n%s", a.Status, err, a.Body)
	}
	return health.Remotes[0].State, health.Remotes[0].Reason
}

// metricOf returns the state that the metrics have the remote in.
func (p *place) metricOf(t *testing.T) (state string) {
	t.Helper()
	for line := range strings.Lines(must(p.m.Metrics(t.Context()))(t)) {
		rest, ok := strings.CutPrefix(line, fmt.Sprintf(`registry_module_remote_state{remote=%q,state="`, remoteHost))
		if s, value, _ := strings.Cut(rest, `"} `); ok && strings.TrimSpace(value) == "1" {
			state += s
		}
	}
	return state
}

// logLines returns what the module has logged since it had logged a number of bytes,
// without the lines about requests and pulls, and how many bytes there are by now.
func (p *place) logLines(t *testing.T, since int) (lines []string, size int) {
	t.Helper()
	text := string(must(os.ReadFile(p.m.Log()))(t))
	for line := range strings.Lines(text[since:]) {
		if !strings.Contains(line, " msg=request ") && !strings.Contains(line, " msg=pulled ") && !strings.Contains(line, ` msg="pull failed" `) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines, len(text)
}

// together runs tests at once, however many run in parallel: they wait for time to
// pass, and not for the processor.
func together(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	var wg sync.WaitGroup
	for name, test := range tests {
		wg.Go(func() { t.Run(name, test) })
	}
	wg.Wait()
}

// every calls a function again and again, until it returns false or the context ends.
func every(ctx context.Context, d time.Duration, call func() bool) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for call() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// quantile returns the value that a part of all, 0 to 1, do not exceed.
func quantile(all []time.Duration, part float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}
