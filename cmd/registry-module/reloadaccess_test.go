package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry-module/config"
	"registry-module/upstream/upstreamtest"
)

// TestCallersAreOfOne changes how callers are checked: whom a remote has let in is known
// afterwards, and what the earlier one finds out yet is not written over that.
func TestCallersAreOfOne(t *testing.T) {
	up := upstreamtest.New(t)
	up.SetAuth(upstreamtest.Auth{Scheme: "Basic", Username: "u", Password: "p"})
	up.AddRandomImage("team/app", "v1", 1, 1000)
	proxy := "}\nproxy: {remoteurl: 'http://" + up.Host() + "', username: u, password: p, tagttl: 1h, passthrough: true, passthroughgrace: 1h"
	s := newReloadSite(t, proxy+"}\n", reloading{})
	status := func(user, password string) int { return s.get("team/app/manifests/v1", user, password).Code }
	if good, bad := status("u", "p"), status("u", "q"); good != 200 || bad == 200 {
		t.Fatalf("statuses %d and %d", good, bad)
	}
	first := s.current.Load().access
	// It can be saved once its hash is computed, which is done after the answer.
	for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		err := first.Save(t.Context())
		if content, readErr := s.callers.Read(t.Context()); readErr == nil && bytes.Contains(content, []byte("team/app")) {
			break
		}
		if err != nil || time.Now().After(limit) {
			t.Fatalf("whom the remote has let in is not saved: %v", err)
		}
	}

	// Something else changes: nobody is asked again.
	asked := up.Requests()
	if report := s.reload(", headers: {X-Site: [a]}" + proxy + "}\n"); len(report.Errors) > 0 {
		t.Fatalf("%+v", report)
	}
	if s.current.Load().access != first || status("u", "p") != 200 || up.Requests() != asked {
		t.Errorf("callers are checked anew, with %d requests", up.Requests()-asked)
	}

	// How long a verdict holds changes, and then the remote is away.
	if report := s.reload(proxy + ", passthroughttl: 1m}\n"); len(report.Errors) > 0 {
		t.Fatalf("%+v", report)
	}
	second := s.current.Load().access
	if second == first {
		t.Fatal("callers are not checked anew")
	}
	up.Offline()
	if good, bad := status("u", "p"), status("u", "q"); good != 200 || bad == 200 {
		t.Errorf("without the remote: statuses %d and %d", good, bad)
	}
	content, err := s.callers.Read(t.Context())
	var kept struct {
		Credentials []json.RawMessage `json:"credentials"`
	}
	if err != nil || json.Unmarshal(content, &kept) != nil || len(kept.Credentials) != 1 {
		t.Errorf("%v, kept %s", err, content)
	}
	late := callersOf{&s.callers, first}
	if err := late.Write(t.Context(), []byte("of the earlier one")); err != nil {
		t.Error(err)
	}
	if after, err := s.callers.Read(t.Context()); err != nil || string(after) != string(content) {
		t.Errorf("%v, it was written over: %s", err, after)
	}
}

// TestReloadTLS has the port of a whole server speak TLS, and then not any more, and end after
// another time than it has begun with.
func TestReloadTLS(t *testing.T) {
	quiet(t)
	ca := upstreamtest.NewCA(t)
	dir := t.TempDir()
	certPEM, keyPEM := ca.Issue()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replaceFile(t, cert, string(certPEM))
	replaceFile(t, key, string(keyPEM))
	cfg := testConfig(t, filepath.Join(dir, "data"), "")
	next := make(chan *config.Config, 1)
	hangups := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, cfg, reloading{load: func() (*config.Config, error) { return <-next, nil }, hangups: hangups})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	waitUntilServing(t, cfg.AdminAddr, done)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	secured := func() bool {
		resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get("https://" + cfg.Addr + "/v2/")
		if err == nil {
			_ = resp.Body.Close() // nothing of it is of interest
		}
		return err == nil
	}
	reloads := 0
	change := func(change func(*config.Config)) {
		t.Helper()
		stock := *cfg.Stock
		c := *cfg
		c.Stock = &stock
		change(&c)
		next <- &c
		hangups <- os.Interrupt
		reloads++
		want := `registry_module_config_reloads_total{result="ok"} ` + string(rune('0'+reloads))
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for limit := time.After(2 * time.Minute); !strings.Contains(metricsOf(t, cfg.AdminAddr), want); {
			select {
			case <-tick.C:
			case <-limit:
				t.Fatalf("there is no %s", want)
			}
		}
	}
	if secured() {
		t.Error("TLS from the start")
	}
	change(func(c *config.Config) {
		c.Stock.HTTP.TLS.Certificate, c.Stock.HTTP.TLS.Key = cert, key
		c.Stock.HTTP.DrainTimeout = time.Second
	})
	if !secured() {
		t.Error("no TLS")
	}
	change(func(*config.Config) {})
	if secured() {
		t.Error("TLS still")
	}
}

func metricsOf(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
