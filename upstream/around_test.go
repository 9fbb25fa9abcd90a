package upstream_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/upstream"
	ut "registry-module/upstream/upstreamtest"
)

// around are the hosts around a registry, each of which takes down all that it sees.
type around struct {
	script script
	addrs  map[string]string // by host:port

	mu   sync.Mutex
	seen map[string]string // by host
}

func newAround(t *testing.T, s script) *around {
	t.Helper()
	a := &around{addrs: make(map[string]string), seen: make(map[string]string)}
	serve := func(name string, handler http.HandlerFunc, tls bool) string {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			a.takeDown(t, name, req)
			handler(w, req)
		}))
		if tls {
			srv.TLS = ut.NewCA(t).ServerConfig(nil)
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	own, own80 := ":443", plain
	if !s.https {
		own, own80 = ":80", ""
	}
	a.addrs["registry.example.com"+own] = serve(home, a.registry, s.https)
	a.addrs["auth.example.com"+own] = serve(token, a.tokens, s.https)
	a.addrs["registry.example.com:8080"] = serve(port, a.tokens, s.https)
	if own80 != "" {
		a.addrs["registry.example.com:80"] = serve(own80, a.tokens, false)
	}
	a.addrs["proxy.example.org:3128"] = serve(gate, a.proxy, false)
	a.addrs["evil.example.net:80"] = serve(evil, a.stranger, false)
	a.addrs["cdn.example.net:80"] = serve(cdn, a.blobs, false)
	here := serve(local, a.stranger, false)
	a.addrs[here] = here
	here = strings.TrimPrefix(here, "127.0.0.1")
	for _, s := range []*string{&s.realm, &s.ping, &s.manifest, &s.blob, &s.token, &s.link, &s.back} {
		*s = strings.ReplaceAll(*s, ":LOCAL", here)
	}
	a.script = s
	return a
}

// takeDown notes all of a request, with what its Authorization means.
func (a *around) takeDown(t *testing.T, name string, req *http.Request) {
	dump, err := httputil.DumpRequest(req, true)
	if err != nil {
		t.Error(err)
	}
	text := fmt.Sprintf("%s\n%s\n", req.RequestURI, dump)
	for scheme := range strings.FieldsSeq(req.Header.Get("Authorization") + " " + req.Header.Get("Proxy-Authorization")) {
		if plain, err := base64.StdEncoding.DecodeString(scheme); err == nil {
			text += string(plain) + "\n"
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[name] += text
}

func (a *around) registry(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		a.tokens(w, req)
		return
	}
	s := a.script
	to := map[string]string{"/v2/": s.ping, "/v2/a/b/manifests/v1": s.manifest, "/v2/a/b/blobs/" + theDigest.String(): s.blob}[req.URL.Path]
	user, password, ok := req.BasicAuth()
	if s.echo != 0 && (ok || req.Header.Get("Authorization") != "") {
		echo(w, req, s.echo)
		return
	}
	bearer := req.Header.Get("Authorization")
	switch good := s.basic && ok && user == "me" && password == canaryPassword ||
		!s.basic && (bearer == "Bearer "+canaryAccess || bearer == "Bearer "+canaryRegistry); {
	case req.URL.Path == "/v2/" && to != "", good && to != "":
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	case !good && s.basic:
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case !good:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q", s.realm, "x"))
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasSuffix(req.URL.Path, "/tags/list"):
		w.Header().Set("Link", "<"+s.link+`>; rel="next"`)
		_, _ = w.Write([]byte(`{"tags":["v1"]}`))
	default:
		content(w, req)
	}
}

// echo answers a request with itself.
func echo(w http.ResponseWriter, req *http.Request, status int) {
	header := req.Header.Get("Authorization")
	_, value, _ := strings.Cut(header, " ")
	_, password, _ := req.BasicAuth()
	body := new(strings.Builder)
	if req.Body != nil {
		_, _ = io.Copy(body, req.Body)
	}
	// Each is first in one of the errors: what comes later may be cut.
	said := []string{header, password, body.String()}
	all := header + " " + password + " " + body.String()
	form, err := url.ParseQuery(body.String())
	if err == nil {
		said = append(said, form.Get("refresh_token"))
	}
	type detail struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	var answer struct {
		Errors []detail `json:"errors"`
		Error  string   `json:"error"`
	}
	answer.Error = all
	if said = slices.DeleteFunc(said, func(s string) bool { return s == "" }); len(said) > 1 {
		said[0] += strings.Repeat(" ", 500) + said[1]
	}
	for i, text := range said {
		// The next one begins where a text is cut.
		answer.Errors = append(answer.Errors, detail{text, "refused: " + text + strings.Repeat("x", 380-len(text)%380-i) + text, text})
	}
	h := w.Header()
	h.Set("Content-Type", "application/"+strings.ReplaceAll(value, "=", "")+"; was="+strings.ReplaceAll(value, "=", ""))
	h.Set("Docker-Content-Digest", all)
	h.Set("Content-Encoding", all)
	h.Set("Content-Range", all)
	h.Set("ETag", `"`+value+`"`)
	h.Set("Retry-After", all)
	h.Set("Warning", all)
	h.Set("Link", "<http://evil.example.net/"+value+`>; rel="next"`)
	h.Set("WWW-Authenticate", fmt.Sprintf("Other%s realm=%q,error=%q,error_description=%q", password, "http://"+value, header, all))
	switch status {
	case http.StatusTemporaryRedirect:
		h.Set("Location", "ftp://"+value+".example.net/"+all)
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q,error=%q", "http://x"+strings.Trim(value, "=")+".example.net/"+value, value, all))
	case http.StatusOK:
		h.Del("Content-Encoding")
	case statusOther:
		status = http.StatusUnauthorized
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// statusOther is 401 with a challenge of a kind that nobody knows.
const statusOther = 600

// content serves what there is.
func content(w http.ResponseWriter, req *http.Request) {
	if strings.Contains(req.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte("{}"))
		return
	}
	_, _ = w.Write([]byte(theBlob))
}

func (a *around) tokens(w http.ResponseWriter, req *http.Request) {
	_, password, _ := req.BasicAuth()
	switch s := a.script; {
	case s.tokenEcho != 0:
		echo(w, req, s.tokenEcho)
	case s.token != "" && !strings.Contains(req.URL.RawQuery, "again"):
		w.Header().Set("Location", s.token)
		w.WriteHeader(s.tokenStatus)
	case req.Method == http.MethodPost && req.FormValue("refresh_token") == canaryIdentity, password == canaryPassword:
		_, _ = w.Write([]byte(`{"access_token":"` + canaryAccess + `"}`))
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// proxy is an HTTP proxy that repeats what it is told, or makes a tunnel.
func (a *around) proxy(w http.ResponseWriter, req *http.Request) {
	if status := a.script.proxyEcho; status != 0 {
		req.Header.Set("Authorization", req.Header.Get("Proxy-Authorization"))
		echo(w, req, status)
		return
	}
	to, err := dialLoopback(req.Context(), "tcp", a.addrs[req.Host])
	if err != nil || req.Method != http.MethodConnect {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	from, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = from.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	go func() {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
	_ = from.Close()
}

// stranger is a host that wants what is not for it, or gives what nobody wants.
func (a *around) stranger(w http.ResponseWriter, req *http.Request) {
	switch {
	case a.script.demand:
		w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="http://evil.example.net/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case req.URL.Path == "/token":
		_, _ = w.Write([]byte(`{"token":"evil"}`))
	default:
		content(w, req)
	}
}

func (a *around) blobs(w http.ResponseWriter, req *http.Request) {
	if a.script.back != "" {
		w.Header().Set("Location", a.script.back)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	a.stranger(w, req)
}

// ask puts all questions to the registry, and returns what they have come to.
func (a *around) ask(t *testing.T, config authn.AuthConfig) (works bool, said string) {
	t.Helper()
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.TraceLevel)
	scheme := "http"
	if a.script.https {
		scheme = "https"
	}
	via := func(*http.Request) (*url.URL, error) { return nil, nil }
	if a.script.tunnel || a.script.proxyEcho != 0 {
		via = http.ProxyURL(&url.URL{Scheme: "http", User: url.UserPassword("we", canaryProxy), Host: "proxy.example.org:3128"})
	}
	r := newRemote(t, upstream.Options{
		Proxy: via,
		URL:   scheme + "://registry.example.com", Insecure: a.script.https, Credentials: authn.FromConfig(config),
		DialContext: dialNames(a.addrs, nil), Log: log, Name: "module",
	})
	ctx, rec := traced(t)
	works = true
	note := func(err error) {
		if err != nil {
			out.WriteString(err.Error() + "\n")
		}
	}
	m, err := r.Manifest(ctx, "a/b", "v1")
	works = works && err == nil
	note(err)
	out.WriteString(m.MediaType + " " + m.Digest.String() + "\n") // these are kept and handed on
	stream, err := r.Blob(ctx, "a/b", theDigest, cache.BlobPart{})
	works = works && err == nil
	note(err)
	if err == nil {
		out.WriteString(stream.Validator + "\n")
		_, err = readBlob(t, stream)
		note(err)
	}
	d, err := r.Resolve(ctx, "a/b", "v1", "")
	note(err)
	out.WriteString(d.MediaType + " " + d.Digest.String() + "\n")
	_, err = r.StatBlob(ctx, "a/b", theDigest)
	note(err)
	_, _, err = r.Tags(ctx, "a/b", 1, "")
	note(err)
	_, _, err = r.Tags(ctx, "a/b", 1, "v1")
	note(err)
	list, err := r.Referrers(ctx, "a/b", theDigest)
	note(err)
	fmt.Fprintf(&out, "%+v\n", list)
	out.WriteString(told(rec))
	return works, out.String()
}
