package workload_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry-module/iotedge/workload"
	wt "registry-module/iotedge/workload/workloadtest"
)

func TestTrustBundleIsAskedFor(t *testing.T) {
	api := wt.New(t, wt.Options{})
	root := string(api.Root().PEM())
	other, err := wt.NewRoot("other")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ given, want string }{
		"as it is":        {root, root},
		"in Base64":       {base64.StdEncoding.EncodeToString([]byte(root)), root},
		"none":            {"", ""},
		"twice":           {root + string(other.PEM()) + root, root + string(other.PEM())},
		"something else":  {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n# text\n" + root, root},
		"a key in there":  {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + root, root},
		"no certificates": {"nothing", ""},
	} {
		t.Run(name, func(t *testing.T) {
			api.SetTrustBundle([]byte(tt.given))
			got, err := newClient(t, workload.Options{URI: api.URI()}).TrustBundle(t.Context())
			if err != nil || string(got) != tt.want {
				t.Errorf("got %v,\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
	if n := api.Requests(wt.TrustBundle); n != 7 {
		t.Errorf("%d requests, want 7", n)
	}
}

func TestServerCertificateIsAskedFor(t *testing.T) {
	api := wt.New(t, wt.Options{})
	expiration := time.Now().Add(90 * 24 * time.Hour)
	cert, err := newClient(t, options(api)).ServerCertificate(t.Context(), gateway, expiration)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(api.Root().PEM())
	between.AppendCertsFromPEM(api.EdgeCA().PEM())
	for _, name := range []string{gateway, "registry"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
			t.Error(err)
		}
	}
	if len(cert.Certificate) != 2 || cert.PrivateKey == nil {
		t.Errorf("%d certificates, key %T: want those of the server and of the Edge CA", len(cert.Certificate), cert.PrivateKey)
	}
	asked := api.Asked()
	if len(asked) != 1 || asked[0].CommonName != gateway || asked[0].APIVersion != "2019-01-30" ||
		asked[0].Expiration.Sub(expiration).Abs() > time.Second {
		t.Errorf("it was asked for %+v", asked)
	}
}

// What names of modules may have in them does not lead to another path, and a path in
// the URI stays.
func TestPaths(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got = append(got, req.Method+" "+req.RequestURI)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	c := newClient(t, workload.Options{URI: server.URL + "/at/", ModuleID: "a/b?c%", GenerationID: "1 #", APIVersion: "2020-07-07"})
	if _, err := c.ServerCertificate(t.Context(), gateway, time.Now()); err == nil {
		t.Error("404 is no error")
	}
	if _, err := c.TrustBundle(t.Context()); err == nil {
		t.Error("404 is no error")
	}
	want := "POST /at/modules/a%2Fb%3Fc%25/genid/1%20%23/certificate/server?api-version=2020-07-07, GET /at/trust-bundle?api-version=2020-07-07"
	if all := strings.Join(got, ", "); all != want {
		t.Errorf("asked\n%s\nwant\n%s", all, want)
	}
}

func TestMissingVariables(t *testing.T) {
	api := wt.New(t, wt.Options{})
	for name, tt := range map[string]struct {
		change func(*workload.Options)
		says   string
	}{
		"none":          {func(o *workload.Options) { *o = workload.Options{} }, "IOTEDGE_WORKLOADURI is not set: the IoT Edge runtime sets it in each module, and this works only there"},
		"module":        {func(o *workload.Options) { o.ModuleID = "" }, "IOTEDGE_MODULEID is not set"},
		"two":           {func(o *workload.Options) { o.GenerationID, o.GatewayHostname = "", "" }, "IOTEDGE_MODULEGENERATIONID, IOTEDGE_GATEWAYHOSTNAME are not set"},
		"no URI":        {func(o *workload.Options) { o.URI = "%" }, `IOTEDGE_WORKLOADURI: "%" is not a URI`},
		"relative path": {func(o *workload.Options) { o.URI = "unix://run/x.sock" }, "it is unix:///path/of/socket or http://host:port"},
		"scheme":        {func(o *workload.Options) { o.URI = "fd://x" }, "it is unix:///path/of/socket or http://host:port"},
		"no host":       {func(o *workload.Options) { o.URI = "http://:80" }, "it is unix:///path/of/socket or http://host:port"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(api)
			tt.change(&opts)
			c, err := workload.New(opts)
			if err == nil {
				_, err = c.NewServerCertificate(workload.CertificateOptions{})
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v does not say %q", err, tt.says)
			}
		})
	}
	// Who wants only the trust bundle needs nothing but the URI.
	if _, err := newClient(t, workload.Options{URI: api.URI()}).TrustBundle(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	api := wt.New(t, wt.Options{})
	good := newClient(t, options(api))
	_, key, err := api.EdgeCA().Issue(time.Now(), time.Now().Add(time.Hour), "x")
	if err != nil {
		t.Fatal(err)
	}
	secret := string(key[40:80])
	answer := func(kind, key, cert string) string {
		text, err := json.Marshal(map[string]any{"privateKey": map[string]string{"type": kind, "bytes": key}, "certificate": cert})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, tt := range map[string]struct {
		fault wt.Fault
		says  string
	}{
		"forbidden":        {wt.Fault{Status: 403, Message: "no"}, "HTTP status 403: no (only the module itself is answered: it is registry by IOTEDGE_MODULEID)"},
		"unknown":          {wt.Fault{Status: 404, Message: "no"}, "(the runtime does not know module registry of IOTEDGE_MODULEID, or version 2019-01-30 of IOTEDGE_APIVERSION)"},
		"fails":            {wt.Fault{Status: 500, Message: "failed\x1b to create cert\n" + strings.Repeat("x", 1000)}, "HTTP status 500: failed  to create cert xxx"},
		"repeats a key":    {wt.Fault{Status: 500, Message: string(key)}, "left out"},
		"redirect":         {wt.Fault{Status: 307}, "HTTP status 307"},
		"drops":            {wt.Fault{Drop: true}, "the runtime is not running or is just being restarted; see iotedge system status"},
		"hangs":            {wt.Fault{Hang: true}, "no answer within 50ms"},
		"not JSON":         {wt.Fault{Body: `"` + string(key)}, "not the JSON that was expected"},
		"too much":         {wt.Fault{Body: strings.Repeat(" ", 1<<20+1)}, "larger than 1 MiB"},
		"no certificate":   {wt.Fault{Body: answer("key", string(key), "")}, "not the JSON that was expected"},
		"key is a ref":     {wt.Fault{Body: answer("ref", "", "x")}, "REGISTRY_HTTP_TLS_CERTIFICATE"},
		"no key":           {wt.Fault{Body: answer("key", "x", string(api.Root().PEM()))}, "the answer has no certificate with its key"},
		"key of another":   {wt.Fault{Body: answer("key", string(key), string(api.Root().PEM()))}, "private key does not match"},
		"key in its place": {wt.Fault{Body: answer("key", string(key), string(key))}, "the answer has no certificate with its key"},
	} {
		t.Run(name, func(t *testing.T) {
			api.Break(wt.ServerCertificate, tt.fault)
			c := good
			if tt.fault.Hang {
				opts := options(api)
				opts.Timeout = 50 * time.Millisecond
				c = newClient(t, opts)
			}
			_, err := c.ServerCertificate(t.Context(), gateway, time.Now())
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v does not say %q", err, tt.says)
			}
			if !strings.HasPrefix(err.Error(), "asking the IoT Edge workload API for a server certificate: ") {
				t.Errorf("error %q does not say what was being done", err)
			}
			if text := err.Error(); strings.Contains(text, secret) || strings.ContainsAny(text, "\n\x1b") || len(text) > 700 {
				t.Errorf("error is not fit for a log: %q", text)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	api := wt.New(t, wt.Options{})
	api.Stop()
	dir := t.TempDir()
	// A socket that nobody listens at any more.
	left := filepath.Join(dir, "left.sock")
	if err := listenAndLeave(left); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ uri, says string }{
		"no socket":       {api.URI(), "there is no such socket: IOTEDGE_WORKLOADURI is " + api.URI()},
		"nobody listens":  {"unix://" + left, "the runtime is not running or is just being restarted"},
		"nobody at http":  {"http://127.0.0.1:1", "the runtime is not running or is just being restarted"},
		"not a socket":    {"unix://" + filepath.Join(dir, "no", strings.Repeat("x", 200)), "see iotedge system status"},
		"is it a socket?": {"unix://" + dir, "the runtime is not running"},
	} {
		_, err := newClient(t, workload.Options{URI: tt.uri}).TrustBundle(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v does not say %q", name, err, tt.says)
		}
	}
	if os.Getuid() == 0 {
		return // may open all sockets
	}
	if err := os.Chmod(dir, 0); err != nil {
		t.Fatal(err)
	}
	_, err := newClient(t, workload.Options{URI: "unix://" + left}).TrustBundle(t.Context())
	if err == nil || !strings.Contains(err.Error(), "may not open the socket") {
		t.Errorf("error is %v", err)
	}
	_ = os.Chmod(dir, 0o700) // so that it can be removed
}
