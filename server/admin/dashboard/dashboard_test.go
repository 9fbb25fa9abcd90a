package dashboard

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"registry-module/server/admin"
)

func get(t *testing.T, s Source, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	New(Options{Source: s}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w
}

// page is the page, parsed.
func page(t *testing.T, s Source, path string) *html.Node {
	t.Helper()
	w := get(t, s, path)
	if w.Code != http.StatusOK {
		t.Fatalf("got %d: %s", w.Code, w.Body)
	}
	doc, err := html.Parse(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func attr(n *html.Node, name string) (value string, ok bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func byID(t *testing.T, doc *html.Node, id string) *html.Node {
	t.Helper()
	for n := range doc.Descendants() {
		if got, _ := attr(n, "id"); got == id {
			return n
		}
	}
	t.Fatalf("there is no element with the id %s", id)
	return nil
}

// text is all that can be read: not what is hidden, and in no template.
func text(n *html.Node) string {
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if _, hidden := attr(n, "hidden"); hidden || n.DataAtom == atom.Template || n.DataAtom == atom.Script {
			return
		}
		if n.Type == html.TextNode {
			b.WriteString(n.Data + " ")
		}
		for c := range n.ChildNodes() {
			walk(c)
		}
	}
	walk(n)
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestFull(t *testing.T) {
	got := text(page(t, full(""), "/"))
	for _, want := range []string{
		"Not ready", "gateway-7", "Version 1.2.3 , started 2 days ago",
		"Not ready: storage is not writable Clients and load balancers are told to wait.",
		"There is no room for new images: limit", "The last change of the configuration is not in force: line 3",
		"ghcr.io: no such host", "quay.io: 429", "1 download in trouble", "Seeding has failed: no space",
		"These settings wait for a restart: http.addr", "Offline mode is on: a schedule", "Changes by itself in 1 h",
		"From the cache 96.8 % of 9,320 requests since the start", "Saved on the link 89 GiB 95 GiB served, 6.0 GiB fetched",
		"Remotes 2 of 5 as they should be", "Downloads 120 5.0 MiB/s at the moment", "Disk used 12 GiB of 20 GiB allowed", "Images 10,000 stored",
		"registry-1.docker.io Online Everything that is asked for is answered. 1 h ago 5.0 GiB 90 GiB 12,345",
		"ghcr.io Cannot be reached no such host Next try in 20 s 1 min ago",
		"new.example.com Not asked yet Nothing has been asked of it since the start.",
		"library/alpine", "45.0 % 45 MiB of 100 MiB 5.0 MiB/s about 12 s left 3 clients", "Under way",
		"1000 B so far", "ahead of demand", "No data for 40 s", "Trouble: connection reset", "Waits for its turn", "and 116 downloads more",
		"served to clients", "Cache, of its limit 60.0 %", "Disk, all that is on it 95.3 %", "To be left free 2.0 GiB", "Unfinished downloads 77 MiB",
		"1 min ago ghcr.io does not answer 7 times since 1 h ago look at the firewall",
		"/etc/config.yml", "The last change is not in force: line 3", "/etc/seed.yml", "Next run in 14 h", "12 images",
		"docker.io/library/app-5:1.5", "linux/amd64, linux/arm64, linux/arm/v7, linux/386, and 1 more", "Incomplete: 1 part missing",
		"20 MiB 5.0 MiB of its own 5 h ago Pinned by the operator, by the configuration Unpin Refresh Remove",
		"1 to 50 of 10,000 images", "There are more images than are listed here", "Next page",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestEmpty(t *testing.T) {
	got := text(page(t, empty(), "/"))
	for _, want := range []string{
		"All is well", "No remote registry is configured", "Nothing is being downloaded.", "Nothing is known yet",
		"Not measured yet", "Nothing has gone wrong lately.", "No image is stored yet.", "No schedule is set",
		"Settings come from the environment alone", "set REGISTRY_ADMIN_TOKENFILE",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, not := range []string{"Not ready", "Pinned by", "Offline mode is on"} {
		if strings.Contains(got, not) {
			t.Errorf("the page says %q", not)
		}
	}
	doc := page(t, empty(), "/")
	for n := range doc.Descendants() {
		if method, _ := attr(n, "method"); n.DataAtom == atom.Form && method != "get" {
			t.Error("without a token there is a form that changes something")
		}
		if kind, _ := attr(n, "type"); kind == "password" {
			t.Error("without a token there is a field for one")
		}
	}
}

// TestHostile looks at the page with texts of others that try to be markup: it has the
// elements and attributes that it has without them.
func TestHostile(t *testing.T) {
	shape := func(f *fake) map[string]int {
		all := map[string]int{}
		for n := range page(t, f, "/?said=7&remove="+"x").Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			for _, a := range n.Attr {
				all[n.Data+" "+a.Key]++
			}
			all[n.Data]++
		}
		return all
	}
	want, bad := full(""), full(hostile)
	want.said, bad.said = admin.Said{Text: "x"}, admin.Said{Text: hostile}
	got, expected := shape(bad), shape(want)
	for what, n := range got {
		if expected[what] != n {
			t.Errorf("%d times %q, want %d", n, what, expected[what])
		}
	}
	doc := page(t, bad, "/?q="+"%22%3E%3Cscript%3E"+"&remove=%22%3E%3Cscript%3E")
	for n := range doc.Descendants() {
		if n.DataAtom == atom.Script {
			if src, _ := attr(n, "src"); src != "assets/app.js" || n.FirstChild != nil {
				t.Errorf("a script with src %q and content", src)
			}
		}
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
			if slices.Contains([]string{"href", "action", "formaction", "src"}, a.Key) &&
				!strings.HasPrefix(a.Val, "./") && !strings.HasPrefix(a.Val, "actions/") && !strings.HasPrefix(a.Val, "assets/") &&
				!slices.Contains([]string{"#main", "state", "metrics", "readyz", ""}, a.Val) {
				t.Errorf("<%s %s=%q> leads elsewhere", n.Data, a.Key, a.Val)
			}
		}
		if n.DataAtom == atom.Style {
			t.Error("there is an inline style")
		}
	}
	if got := text(doc); strings.ContainsAny(got, "\u202e\u2066\u200f\x00\x1b") {
		t.Error("the page has characters that control what is around them")
	} else if !strings.Contains(got, "gnp.exe") || !strings.Contains(got, "onerror=alert(2)") {
		t.Error("the page does not show hostile text as it is")
	}
}

func TestHeaders(t *testing.T) {
	for path, want := range map[string]struct {
		status    int
		mediaType string
	}{
		"/":                 {200, "text/html; charset=utf-8"},
		"/assets/style.css": {200, "text/css; charset=utf-8"},
		"/assets/app.js":    {200, "text/javascript; charset=utf-8"},
		"/assets/icon.svg":  {200, "image/svg+xml"},
		"/assets/":          {404, "text/plain; charset=utf-8"},
		"/assets/../x":      {404, "text/plain; charset=utf-8"},
		"/index.html":       {404, "text/plain; charset=utf-8"},
	} {
		w := get(t, empty(), path)
		if got := w.Header().Get("Content-Type"); w.Code != want.status || got != want.mediaType {
			t.Errorf("%s: got %d %s, want %v", path, w.Code, got, want)
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "script-src 'self'; style-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy is %q", path, csp)
		}
		if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options is %q", path, got)
		}
	}
	w := httptest.NewRecorder()
	New(Options{Source: empty()}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST got %d", w.Code)
	}
}

func TestETag(t *testing.T) {
	total := 0
	h, seen := New(Options{Source: empty()}), map[string]bool{}
	for _, path := range []string{"/assets/style.css", "/assets/app.js", "/assets/icon.svg"} {
		w := get(t, empty(), path)
		total += w.Body.Len()
		etag := w.Header().Get("ETag")
		if len(etag) < 20 || seen[etag] {
			t.Errorf("%s: ETag is %s", path, etag)
		}
		seen[etag] = true
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		for given, want := range map[string]int{etag: http.StatusNotModified, `"other"`: http.StatusOK} {
			w := httptest.NewRecorder()
			r.Header.Set("If-None-Match", given)
			h.ServeHTTP(w, r)
			if w.Code != want || (w.Body.Len() > 0) != (want == http.StatusOK) {
				t.Errorf("%s with If-None-Match %s: got %d and %d bytes", path, given, w.Code, w.Body.Len())
			}
		}
	}
	if most := 60 << 10; total >= most {
		t.Errorf("the assets have %d bytes, want less than %d", total, most)
	}
}

func TestImagesCannotBeRead(t *testing.T) {
	f := full("")
	f.err, f.page = errors.New("the index is closed"), admin.ImagePage{}
	got := text(page(t, f, "/"))
	if !strings.Contains(got, "The list could not be read: the index is closed") || !strings.Contains(got, "ghcr.io") {
		t.Errorf("got %s", got)
	}
}

func TestSaid(t *testing.T) {
	f := full("")
	f.said = admin.Said{OK: true, Text: "Pinned <b>."}
	if got := text(byID(t, page(t, f, "/?said=7"), "said")); got != "Pinned <b>." {
		t.Errorf("got %q", got)
	}
	if got := text(page(t, f, "/?said=8")); strings.Contains(got, "Pinned <b>.") {
		t.Error("what was said of another action is shown")
	}
}

func TestRemoveIsConfirmed(t *testing.T) {
	form := byID(t, page(t, full(""), "/?remove=docker.io/library/app:1%3Cb%3E"), "remove")
	if got := text(form); !strings.HasPrefix(got, "Remove docker.io/library/app:1<b> ?") {
		t.Errorf("got %q", got)
	}
	f := full("")
	f.state.Actions = false
	if w := get(t, f, "/?remove=x"); strings.Contains(w.Body.String(), "actions/remove") {
		t.Error("there is a form though nothing can be changed")
	}
}

// TestEnterPressesNothing looks at the button that Enter in the field for the token presses
// (HTML Living Standard, section 4.10.21.2): the first one of the form, wherever it is.
func TestEnterPressesNothing(t *testing.T) {
	for n := range page(t, full(""), "/").Descendants() {
		if form, _ := attr(n, "form"); n.DataAtom == atom.Button && form == "act" {
			if _, disabled := attr(n, "disabled"); !disabled {
				t.Error("Enter presses a button that does something")
			}
			return
		}
	}
	t.Error("there is no button")
}

// BenchmarkPage makes pages of a module that is busy.
func BenchmarkPage(b *testing.B) {
	h := New(Options{Source: full("")})
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		b.SetBytes(int64(w.Body.Len()))
	}
}
