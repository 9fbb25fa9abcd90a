package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

// reloadSite is a program whose configuration is in a file.
type reloadSite struct {
	*program
	*reloader
	t    *testing.T
	dir  string
	path string // of the file
	log  *lockedLog
}

// lockedLog is what was logged.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newReloadSite starts a program with a configuration, which has the data directory, too.
func newReloadSite(t *testing.T, text string, how reloading) *reloadSite {
	t.Helper()
	s := &reloadSite{t: t, dir: t.TempDir(), log: new(lockedLog)}
	s.path = filepath.Join(s.dir, "config.yml")
	s.write(text)
	cfg, err := config.Load(s.path)
	if err != nil {
		t.Fatal(err)
	}
	log := newLogger(cfg, s.log)
	if s.program, err = wire(t.Context(), cfg, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.program.Close(); err != nil {
			t.Error(err)
		}
		logrus.SetOutput(io.Discard)
	})
	how.load = func() (*config.Config, error) { return config.Reload(s.path) }
	if s.reloader, err = s.program.reloadBy(how); err != nil {
		t.Fatal(err)
	}
	s.onTakeOver(func(g *generation) { setLogger(log, g.cfg, s.log) })
	return s
}

// write replaces the configuration, as editors do.
func (s *reloadSite) write(text string) {
	s.t.Helper()
	text = fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:0', debug: {addr: '127.0.0.1:0'}%s", filepath.Join(s.dir, "data"), text)
	replaceFile(s.t, s.path, text)
}

func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		t.Fatal(err)
	}
}

// reload has the configuration hold that is written.
func (s *reloadSite) reload(text string) reloadReport {
	s.t.Helper()
	s.write(text)
	report, err := s.Reload(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

func (s *reloadSite) get(target string, user ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, "/v2/"+target, nil)
	if len(user) == 2 {
		r.SetBasicAuth(user[0], user[1])
	}
	s.handler.ServeHTTP(w, r)
	return w
}

func (s *reloadSite) wantStatus(target string, want int) {
	s.t.Helper()
	if got := s.get(target); got.Code != want {
		s.t.Errorf("%s: status %d, want %d: %s", target, got.Code, want, got.Body)
	}
}

// TestReload changes settings of all kinds.
func TestReload(t *testing.T) {
	up := upstreamtest.New(t)
	up.AddRandomImage("team/app", "v1", 1, 1000)
	up.AddRandomImage("other/app", "v1", 1, 1000)
	proxy := "}\nproxy: {remoteurl: 'http://" + up.Host() + "', tagttl: 1h"
	s := newReloadSite(t, proxy+"}\n", reloading{})
	s.wantStatus("team/app/manifests/v1", 200)
	s.wantStatus("other/app/manifests/v1", 200)
	before := s.current.Load()

	report := s.reload(", headers: {X-Site: [a]}" + proxy + ", deny: [other/*], alias: up}\nlog: {level: debug}\ncache: {pins: [team/*], maxsize: 1GiB, bandwidth: 10MB/s, prefetch: true}\n")
	if want := []string{"cache.bandwidth", "cache.maxsize", "cache.pins", "cache.prefetch", "http.headers.X-Site", "log.level", "proxy.alias", "proxy.deny"}; len(report.Errors) > 0 || !slices.Equal(report.Changed, want) {
		t.Errorf("%+v", report)
	}
	s.wantStatus("team/app/manifests/v1", 200)
	s.wantStatus("up/team/app/manifests/v1", 200)
	s.wantStatus("other/app/manifests/v1", 403)
	if got := s.get("team/app/manifests/v1").Header().Values("X-Site"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("X-Site is %q", got)
	}
	if pins, err := s.cache.Pins(t.Context()); err != nil || len(pins) != 1 || pins[0].Pattern != "team/*" {
		t.Errorf("pins %v, %v", pins, err)
	}
	now := s.current.Load()
	if now.stacks[0] != before.stacks[0] {
		t.Error("the remote was connected anew, of which nothing has changed")
	}
	if l := s.program.log.(*logrus.Entry).Logger; l.GetLevel() != logrus.DebugLevel {
		t.Errorf("level %v", l.GetLevel())
	}
	if state := s.State(); state.Reloads != 1 || state.Failures != 0 || state.Error != "" || state.Source != s.path || state.Loaded.IsZero() {
		t.Errorf("%+v", state)
	}

	// Credentials are used from then on.
	up.SetAuth(upstreamtest.Auth{Scheme: "Basic", Username: "u", Password: "second"})
	s.wantStatus("new/app/manifests/v1", 403)
	report = s.reload(proxy + ", username: u, password: second}\n")
	if len(report.Errors) > 0 || slices.Contains(report.Changed, "second") || !slices.Contains(report.Changed, "proxy.password") {
		t.Errorf("%+v", report)
	}
	up.AddRandomImage("third/app", "v1", 1, 1000)
	s.wantStatus("third/app/manifests/v1", 200)
	if s.current.Load().stacks[0] == now.stacks[0] {
		t.Error("the remote was not connected anew")
	}

	// Nobody is asked any more, and then again.
	report = s.reload(proxy + ", username: u, password: second, offline: true}\n")
	if len(report.Errors) > 0 {
		t.Errorf("%+v", report)
	}
	s.wantStatus("fourth/app/manifests/v1", 503)
	s.wantStatus("third/app/manifests/v1", 200)
	s.reload(proxy + ", username: u, password: second}\n")
	s.wantStatus("fourth/app/manifests/v1", 404)

	s.settle()
	if report := s.reload(proxy + ", username: u, password: second}\n"); len(report.Changed) > 0 || report.Errors != nil || report.String() != "nothing has changed\n" {
		t.Errorf("%+v", report)
	}
}

// settle waits until only the current generation is left.
func (s *reloadSite) settle() {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.After(2 * time.Minute); ; {
		s.changing.Lock()
		n := len(s.live)
		s.changing.Unlock()
		if n == 1 {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			s.t.Fatalf("%d generations are left", n)
		}
	}
}

// TestReloadOfWhatIsBad must change nothing, and say all that is wrong.
func TestReloadOfWhatIsBad(t *testing.T) {
	up := upstreamtest.New(t)
	up.AddRandomImage("team/app", "v1", 1, 1000)
	proxy := "}\nproxy: {remoteurl: 'http://" + up.Host() + "', tagttl: 1h"
	s := newReloadSite(t, proxy+"}\n", reloading{})
	secret := filepath.Join(s.dir, "secret")
	before := s.current.Load()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"YAML":               {proxy + "\n", []string{"not readable as YAML"}},
		"values":             {proxy + ", negativettl: soon}\ncache: {maxsize: lots}\n", []string{"REGISTRY_PROXY_NEGATIVETTL", "REGISTRY_CACHE_MAXSIZE"}},
		"a missing file":     {proxy + ", ca: /absent/ca.pem}\n", []string{"/absent/ca.pem"}},
		"no secret":          {proxy + ", username: u, passwordfile: " + secret + "}\n", []string{secret}},
		"a policy":           {proxy + "}\naccess: {policy: " + s.path + "}\n", []string{"access.policy"}},
		"two of two parts":   {", tls: {certificate: a}" + proxy + ", deny: ['[']}\n", []string{"http.tls.key", "REGISTRY_PROXY_DENY"}},
		"names that clash":   {proxy + ", alias: up, remotes: [{remoteurl: 'http://b.test', alias: up}]}\n", []string{"up"}},
		"htpasswd is absent": {proxy + "}\nauth: {htpasswd: {realm: a, path: " + secret + "}}\n", []string{secret}},
	} {
		t.Run(name, func(t *testing.T) {
			state := s.State()
			report := s.reload(tt.text)
			all := strings.Join(report.Errors, "\n")
			for _, want := range tt.want {
				if !strings.Contains(all, want) || !strings.Contains(s.State().Error, want) || !strings.Contains(s.log.String(), want) {
					t.Errorf("%s is not in %q", want, report.Errors)
				}
			}
			if s.current.Load() != before || len(report.Changed) > 0 {
				t.Errorf("something has changed: %v", report)
			}
			if now := s.State(); now.Failures != state.Failures+1 || now.Reloads != state.Reloads+1 || now.Loaded != state.Loaded {
				t.Errorf("%+v", now)
			}
			s.wantStatus("team/app/manifests/v1", 200)
		})
	}
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	if report, err := s.Reload(t.Context()); err != nil || len(report.Errors) != 1 || !strings.Contains(report.Errors[0], "no such file") {
		t.Errorf("%+v, %v", report, err)
	}
	if report := s.reload(proxy + "}\n"); len(report.Errors) > 0 || s.State().Error != "" {
		t.Errorf("a good one: %+v", report)
	}
}

// TestRestartOnly has settings that wait for a restart, with others that do not.
func TestRestartOnly(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	other := filepath.Join(s.dir, "other")
	text := fmt.Sprintf("version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:1', debug: {addr: '127.0.0.1:2', prometheus: {enabled: true, path: /m}}, headers: {X-Site: [b]}}\nadmin: {pprof: true}\n", other)
	replaceFile(t, s.path, text)
	for range 2 {
		report, err := s.Reload(t.Context())
		if want := []string{"http.addr", "http.debug.addr", "storage.filesystem.rootdirectory", "admin.pprof", "http.debug.prometheus"}; err != nil || !slices.Equal(report.Restart, want) || !slices.Equal(s.State().Restart, want) {
			t.Errorf("%+v, %v", report, err)
		}
		if i := slices.IndexFunc(report.Changed, func(key string) bool { return !strings.HasPrefix(key, "http.headers") }); i >= 0 {
			t.Errorf("what waits is said to hold: %q", report.Changed)
		}
	}
	if got := s.get("").Header().Get("X-Site"); got != "b" {
		t.Errorf("X-Site is %q", got)
	}
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other data directory: %v", err)
	}
	if n := strings.Count(s.log.String(), "waits for a restart: http.addr, http.debug.addr, storage"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	if report := s.reload("}\n"); len(report.Restart) > 0 || s.State().Restart != nil {
		t.Errorf("%+v", report)
	}
}

// TestRemovedRemote lets a pull go on whose remote is not configured any more.
func TestRemovedRemote(t *testing.T) {
	stays, goes := upstreamtest.New(t), upstreamtest.New(t)
	image := goes.AddRandomImage("team/app", "v1", 1, 1<<20)
	layer := image.Layers[0]
	both := fmt.Sprintf("}\nproxy: {remoteurl: 'http://%s', default: true, remotes: [{remoteurl: 'http://%s', alias: gone}]}\n", stays.Host(), goes.Host())
	one := fmt.Sprintf("}\nproxy: {remoteurl: 'http://%s'}\n", stays.Host())
	s := newReloadSite(t, both, reloading{})
	s.wantStatus("gone/team/app/manifests/v1", 200)

	gate := upstreamtest.NewGate()
	goes.Script(upstreamtest.Fault{Ref: layer.String(), Gate: gate, GateAt: 100 << 10})
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/gone/team/app/blobs/"+layer.String(), nil)
		s.handler.ServeHTTP(w, r)
	}()
	<-gate.Reached()
	if report := s.reload(one); len(report.Errors) > 0 {
		t.Fatalf("%+v", report)
	}
	s.wantStatus("gone/team/app/manifests/v1", 404)
	gate.Open()
	<-done
	if got := digest.FromBytes(w.Body.Bytes()); w.Code != 200 || got != layer {
		t.Errorf("status %d, %d bytes", w.Code, w.Body.Len())
	}
	s.settle()
	s.reload(both)
	s.wantStatus("gone/team/app/blobs/"+layer.String(), 200)
	if n := goes.Requests(upstreamtest.BlobGet); n != 1 {
		t.Errorf("%d downloads", n)
	}
}

// TestReloadWhilePulling has the configuration change, for better and worse, all the time
// that clients pull.
func TestReloadWhilePulling(t *testing.T) {
	const reloads, clients, cold = 80, 4, 24
	up := upstreamtest.New(t)
	warm := up.AddRandomImage("team/warm", "v1", 2, 64<<10)
	var images []upstreamtest.Image
	for i := range cold {
		images = append(images, up.AddRandomImage(fmt.Sprintf("team/cold%d", i), "v1", 2, 64<<10))
	}
	proxy := "}\nproxy: {remoteurl: 'http://" + up.Host() + "', tagttl: 1h"
	s := newReloadSite(t, proxy+"}\nlog: {level: error}\n", reloading{})
	pull := func(repo string, image upstreamtest.Image) error {
		m := s.get(repo + "/manifests/v1")
		if m.Code != 200 || digest.FromBytes(m.Body.Bytes()) != image.Digest {
			return fmt.Errorf("%s: status %d: %s", repo, m.Code, m.Body)
		}
		for _, l := range image.Blobs() {
			b := s.get(repo + "/blobs/" + l.String())
			if b.Code != 200 || digest.FromBytes(b.Body.Bytes()) != l {
				return fmt.Errorf("%s of %s: status %d", l, repo, b.Code)
			}
		}
		return nil
	}
	if err := pull("team/warm", warm); err != nil {
		t.Fatal(err)
	}
	s.reload(proxy + "}\nlog: {level: error}\n")
	before := runtime.NumGoroutine()
	ctx, stop := context.WithCancel(t.Context())
	var pulls atomic.Int64
	var wg sync.WaitGroup
	next := make(chan int, cold)
	for i := range cold {
		next <- i
	}
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := pull("team/warm", warm)
				select {
				case i := <-next:
					err = errors.Join(err, pull(fmt.Sprintf("team/cold%d", i), images[i]))
				default:
				}
				if err != nil {
					t.Error(err)
					return
				}
				pulls.Add(1)
			}
		})
	}
	for i := range reloads {
		if i%4 == 3 {
			if report := s.reload(proxy + ", tagttl: never}\n"); len(report.Errors) == 0 {
				t.Errorf("%+v", report)
			}
			continue
		}
		text := fmt.Sprintf(", headers: {X-Site: ['%d']}%s, negativettl: %ds, bandwidth: %dMB/s, username: u, password: p%d}\nlog: {level: error}\ncache: {pins: [team/cold%d], maxsize: %dGiB}\n",
			i%3, proxy, 1+i%5, 100+i%3, i/10, i%5, 2+i%3)
		if report := s.reload(text); len(report.Errors) > 0 {
			t.Errorf("%+v", report)
		}
		for pulls.Load() < int64(i/4) && !t.Failed() { // both to the end
			runtime.Gosched()
		}
	}
	for len(next) > 0 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	stop()
	wg.Wait()
	s.settle()
	if pulls.Load() == 0 {
		t.Error("nothing was pulled")
	}
	if n := up.Requests(upstreamtest.BlobGet); n != 3*(cold+1) {
		t.Errorf("%d downloads, want each of %d blobs once", n, 3*(cold+1))
	}
	// Idle connections have two each, and those that are closed end when they come to it.
	after := runtime.NumGoroutine()
	for limit := time.Now().Add(2 * time.Minute); after > before+20 && time.Now().Before(limit); after = runtime.NumGoroutine() {
		time.Sleep(time.Millisecond)
	}
	if after > before+20 {
		t.Errorf("%d goroutines, and %d before", after, before)
	}
	if state := s.State(); state.Reloads != reloads+1 || state.Failures != reloads/4 {
		t.Errorf("%+v", state)
	}
	t.Logf("%d pulls", pulls.Load())
}

// TestReloadCommand talks to a server that runs.
func TestReloadCommand(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	control(t, filepath.Join(s.dir, "data"), s.besides(s.control))
	s.write(", headers: {X-Site: [d]}}\n")
	out, _, err := command(t, "reload", "-c", s.path)
	if err != nil || out != "changed: http.headers.X-Site\n" && out != "changed: http.headers\n" {
		t.Errorf("%v, %q", err, out)
	}
	s.write("}\ncache: {maxsize: lots, minfree: most}\n")
	out, _, err = command(t, "reload", "-c", s.path)
	if err == nil || out != "" || !strings.Contains(err.Error(), "REGISTRY_CACHE_MAXSIZE") || !strings.Contains(err.Error(), "REGISTRY_CACHE_MINFREE") {
		t.Errorf("%v, %q", err, out)
	}
	out, _, err = command(t, "reload", "-c", s.path, "-o", "json")
	var report reloadReport
	if jsonErr := json.Unmarshal([]byte(out), &report); err == nil || jsonErr != nil || len(report.Errors) != 2 {
		t.Errorf("%v, %v: %s", err, jsonErr, out)
	}
	if _, _, err = command(t, "reload", "-o", "xml"); !isUsage(err) {
		t.Error(err)
	}
	t.Setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", t.TempDir())
	if _, _, err = command(t, "reload"); err == nil || !strings.Contains(err.Error(), "no running server") {
		t.Error(err)
	}
}

func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// TestReloadMetrics has what is known of reloads.
func TestReloadMetrics(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	s.reload("}\n")
	s.reload("}\nlog: {level: loud}\n")
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		fmt.Fprintln(&all, f)
	}
	for _, want := range []string{"registry_module_config_reloads_total", "registry_module_config_last_reload_success", "registry_module_config_loaded_timestamp_seconds"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("there is no %s", want)
		}
	}
}

// What concerns a remote that was added is counted for it.
func TestAddedRemoteIsCounted(t *testing.T) {
	one, two := upstreamtest.New(t), upstreamtest.New(t)
	two.AddRandomImage("team/app", "v1", 1, 1000)
	proxy := "}\nproxy: {remoteurl: 'http://" + one.Host() + "'"
	s := newReloadSite(t, proxy+"}\n", reloading{})
	s.reload(proxy + ", remotes: [{remoteurl: 'http://" + two.Host() + "', alias: two}]}\n")
	s.wantStatus("two/team/app/manifests/v1", 200)
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "remote" && l.GetValue() == two.Host() {
					named[f.GetName()] = true
				}
			}
		}
	}
	for _, want := range []string{"registry_module_requests_total", "registry_module_served_bytes_total", "registry_module_download_duration_seconds"} {
		if !named[want] {
			t.Errorf("%s does not name the remote", want)
		}
	}
}

// A configuration that turns out to be of no use leaves nothing behind that goes on.
func TestRefusedGenerationLeavesNothing(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	s.write("}\nnotifications: {endpoints: [{name: a, url: 'http://127.0.0.1:9', timeout: 1s, threshold: 1, backoff: 1s}]}\n")
	cfg, err := config.Reload(s.path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.SampleRequests = 7 // which config would have refused
	queues := func() int { // there are those of apps of other tests, which cannot be ended
		all := make([]byte, 1<<20)
		return strings.Count(string(all[:runtime.Stack(all, true)]), "notifications.newEventQueue")
	}
	before := queues()
	if err := s.change(cfg); err == nil {
		t.Fatal("it was taken")
	}
	if n := queues() - before; n > 0 {
		t.Errorf("%d queues of notifications are left", n)
	}
}

// Who reloads while the program ends is told so, and the configuration is not to blame.
func TestReloadAtTheEnd(t *testing.T) {
	s := newReloadSite(t, "}\n", reloading{})
	s.changing.Lock()
	s.closed = true
	s.changing.Unlock()
	report := s.reload("}\nlog: {level: debug}\n")
	s.changing.Lock()
	s.closed = false // Close is going to be called
	s.changing.Unlock()
	if !slices.Equal(report.Errors, []string{errEnds.Error()}) {
		t.Errorf("%+v", report)
	}
	if state := s.State(); state.Failures != 0 || state.Error != "" || strings.Contains(s.log.String(), "is no good") {
		t.Errorf("%+v, and in the log: %s", state, s.log)
	}
}

// At the end, nobody who does not answer takes time from another one.
func TestRestIsToldAtOnce(t *testing.T) {
	first, second, third := make(chan struct{}), make(chan struct{}), make(chan struct{})
	tell := func(own, other chan struct{}) func() error {
		return func() error {
			close(own)
			<-other
			return nil
		}
	}
	a := &generation{webhooks: &notifications{shared: shared{close: tell(first, second)}}}
	b := &generation{webhooks: &notifications{shared: shared{close: tell(second, third)}}}
	p := &program{live: map[*generation]struct{}{a: {}, b: {}, {webhooks: a.webhooks}: {}, {}: {}}}
	if err := p.tellRest(tell(third, first)); err != nil {
		t.Error(err)
	}
}
